"""One line of `metrics.jsonl`, and of the notices that stand between them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Line(BaseModel):
    """Readers ignore what they do not know, so that a newer trainer's lines still show."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class PhaseSeconds(Line):
    """Wall seconds of one optimizer step, by phase."""

    reference: float
    forward: float
    backward: float
    optimizer: float


class TrainLine(Line):
    """An optimizer step. Rewards are beta x log-ratio (nats); logps are sums over a completion's tokens (nats).

    What a method does not have is None: SFT has no rewards, and only DPO and ORPO say of a pair whether they are right.
    `loss`, rewards and logps are means over the pairs of the step; `tokens` is what the policy read in the step;
    `memory_mib` is the process's resident set, or the device's allocated peak.
    """

    kind: Literal["train"] = "train"
    at: str
    step: int
    max_steps: int
    epoch: float
    loss: float
    rewards_chosen: float | None
    rewards_rejected: float | None
    margin: float | None
    accuracy: float | None
    logps_chosen: float | None
    logps_rejected: float | None
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float
    phases: PhaseSeconds
    memory_mib: float


class ValLine(Line):
    """A validation pass. `score` is what `adapter/` is chosen by (docs/decisions); `best` says that it is the best."""

    kind: Literal["val"] = "val"
    at: str
    step: int
    loss: float
    rewards_chosen: float | None
    rewards_rejected: float | None
    margin: float | None
    accuracy: float | None
    logps_chosen: float | None
    logps_rejected: float | None
    pairs: int
    score: float
    best: bool
    seconds: float


class NoticeLine(Line):
    """Something that the loss does not show, said once when it begins (`code` "displaced": chosen falls for long)."""

    kind: Literal["notice"] = "notice"
    at: str
    step: int
    code: str
    message: str
