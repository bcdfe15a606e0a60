"""What a job is: its specification, its state, its attempts, and what a person must know of it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from jobs.offer import Plan
from train.config import RunConfig
from train.requirement import Requirement


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class State(StrEnum):
    """Of a job; an attempt has the middle ones and ends in `ENDED`."""

    QUEUED = "queued"
    """No attempt is under way; one is due."""
    PROVISIONING = "provisioning"
    """The machine, or on this one the trainer's environment, is being made ready."""
    SYNCING = "syncing"
    """Model and data go where they are read, and are verified there."""
    TRAINING = "training"
    EVALUATING = "evaluating"
    PULLING = "pulling"
    """Results come to `runs/JOB/`, each verified beside its place, then renamed in."""
    TEARING_DOWN = "tearing_down"
    ENDED = "ended"
    """Of an attempt only."""
    DONE = "done"
    """Of a job only: no attempt is due; `outcome` says how it went."""


# Every change of state that may happen; the tests of the store walk it. Of an attempt; the job mirrors its open
# attempt and goes queued -> (attempt) -> queued | done.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.PROVISIONING: frozenset({State.SYNCING, State.TEARING_DOWN}),
    State.SYNCING: frozenset({State.TRAINING, State.TEARING_DOWN}),
    State.TRAINING: frozenset({State.EVALUATING, State.PULLING, State.TEARING_DOWN}),
    State.EVALUATING: frozenset({State.PULLING, State.TEARING_DOWN}),
    State.PULLING: frozenset({State.TEARING_DOWN}),
    State.TEARING_DOWN: frozenset({State.ENDED}),
    State.ENDED: frozenset(),
}


class Outcome(StrEnum):
    SUCCEEDED = "succeeded"
    BUDGET_STOPPED = "budget_stopped"
    FAILED = "failed"
    CANCELLED = "cancelled"


EXIT_CODE = {Outcome.SUCCEEDED: 0, Outcome.FAILED: 1, Outcome.BUDGET_STOPPED: 5, Outcome.CANCELLED: 6}


class Attention(Frozen):
    """What a person must know now: whether it is still costing, until when, and what to type."""

    code: Literal["unreachable", "driver_lost", "results_held", "teardown_unconfirmed", "budget_short", "displaced"]
    until: AwareDatetime | None = None
    costing: bool = False
    command: str
    message: str | None = None


class PhaseProgress(Frozen):
    """Where the current phase stands, e.g. 120 of 848 steps."""

    name: str
    done: float
    total: float | None = None
    unit: str
    per_s: float | None = None
    """Of bytes, how many a second."""


class JobSpec(Frozen):
    """All that a driver needs, frozen when the job is recorded. Paths are absolute.

    `run` is the trainer's configuration with `output_dir` in the job's own folder; `results` is `runs/JOB`.
    `train_python` is the interpreter from `[train] python`, or None for the environment that the program makes.
    """

    id: str
    name: str
    project: Path
    results: Path
    requirement: Requirement
    plan: Plan
    run: RunConfig
    test: Path | None = None
    terms: Path | None = None
    partial: bool = False
    steps: int
    budget_usd: float | None = None
    train_python: Path | None = None
    pip_args: tuple[str, ...] = ()
    hold_minutes: float | None = None
    """How long results wait on a rented machine whose driver is gone; None: until the budget's deadline."""
    container: bool | None = None
    """Whether the trainer runs in its image; None: where the machine has an engine, and never on this one."""
    image: str | None = None
    """That image, by name; None: the public one for the GPU on a rented machine, the one of the lock on this."""


class Progress(Frozen):
    """The newest line of `metrics.jsonl`, as the store keeps it."""

    step: int
    max_steps: int
    loss: float | None = None
    margin: float | None = None
    eta_s: float | None = None
    as_of: AwareDatetime


class Attempt(Frozen):
    """At most one machine: one offer, one frozen price, one row in the ledger."""

    job: str
    number: int
    state: State
    cloud: str
    instance_type: str
    gpu: str | None
    region: str | None
    instance_id: str | None
    """Of a local attempt: the host's name. None until there is a machine."""
    price_per_hour: float
    billing_unit_s: int
    started_at: AwareDatetime
    ended_at: AwareDatetime | None = None
    failure: str | None = None


class Job(Frozen):
    spec: JobSpec
    home_host: str
    state: State
    outcome: Outcome | None
    cancel_requested: Literal["no", "pull_first", "now"]
    lease: int
    attention: tuple[Attention, ...]
    phase: PhaseProgress | None
    progress: Progress | None
    error: str | None
    created_at: AwareDatetime
    ended_at: AwareDatetime | None
    attempts: tuple[Attempt, ...]

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def rented(self) -> bool:
        """Whether it runs on a machine that costs money: a driver that was lost is started again by whoever looks."""
        choice = self.spec.plan.choice
        return choice is not None and choice.offer.cloud != "local"

    @property
    def last_attempt(self) -> int:
        """Its number; 0 where none was opened yet."""
        return max((attempt.number for attempt in self.attempts), default=0)


def utc(moment: datetime) -> str:
    """ISO 8601 in UTC with a Z, to the second: how every `--json` says a time."""
    from datetime import UTC

    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
