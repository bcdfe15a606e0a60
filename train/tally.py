"""What a step, or a validation pass, came to: loss, rewards, log-probabilities, tokens and seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass
class Tally:
    """What the pairs of one step, or of one validation pass, came to."""

    beta: float
    losses: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    rewards: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    logps: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    tokens: int = 0
    reference_seconds: float = 0.0
    loss_seconds: float = 0.0
    training_seconds: float = 0.0
    """Of forward, backward and the reference together."""

    def add(
        self, loss: float, logps: Sequence[tuple[float, float]], refs: Sequence[tuple[float, float]], tokens: int
    ) -> None:
        self.losses.append((loss, len(logps)))
        self.logps += logps
        self.rewards += [
            (self.beta * (chosen - ref_chosen), self.beta * (rejected - ref_rejected))
            for (chosen, rejected), (ref_chosen, ref_rejected) in zip(logps, refs, strict=True)
        ]
        self.tokens += tokens

    @classmethod
    def of_all(cls, parts: Sequence[Tally]) -> Tally:
        """The tallies of all processes as one; its seconds are the first's."""
        first, *others = parts
        whole = replace(first, losses=[*first.losses], rewards=[*first.rewards], logps=[*first.logps])
        for part in others:
            whole.losses += part.losses
            whole.rewards += part.rewards
            whole.logps += part.logps
            whole.tokens += part.tokens
        return whole

    def means(self) -> dict[str, Any]:
        """The fields that a train line and a validation line share."""
        pairs = len(self.rewards)
        return {
            "rewards_chosen": math.fsum(chosen for chosen, _ in self.rewards) / pairs,
            "rewards_rejected": math.fsum(rejected for _, rejected in self.rewards) / pairs,
            "margin": math.fsum(chosen - rejected for chosen, rejected in self.rewards) / pairs,
            "accuracy": sum(chosen > rejected for chosen, rejected in self.rewards) / pairs,
            "logps_chosen": math.fsum(chosen for chosen, _ in self.logps) / pairs,
            "logps_rejected": math.fsum(rejected for _, rejected in self.logps) / pairs,
        }

    @property
    def loss(self) -> float:
        return math.fsum(loss * pairs for loss, pairs in self.losses) / len(self.rewards)
