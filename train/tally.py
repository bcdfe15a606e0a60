"""What a step, or a validation pass, came to: loss, rewards, log-probabilities, tokens and seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Both = tuple[float | None, float | None]
"""A number of chosen and one of rejected; None for the one that an example does not have."""


@dataclass
class Tally:
    """What the examples of one step, or of one validation pass, came to."""

    losses: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    """Of batches, with how much each counts."""
    rewards: list[Both] = field(default_factory=list[Both])
    logps: list[Both] = field(default_factory=list[Both])
    tokens: int = 0
    reference_seconds: float = 0.0
    loss_seconds: float = 0.0
    training_seconds: float = 0.0
    """Of forward, backward and the reference together."""

    def add(self, loss: float, weight: int, rewards: Sequence[Both], logps: Sequence[Both], tokens: int) -> None:
        self.losses.append((loss, weight))
        self.logps += logps
        self.rewards += rewards
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
        """The fields that a train line and a validation line share.

        The margin is a pair's; where examples are no pairs, it is the difference of the two means.
        """
        (chosen, rejected), pairs = _means(self.rewards), _pairs(self.rewards)
        margin = None if chosen is None or rejected is None else chosen - rejected
        accuracy = None
        if pairs:
            margin = math.fsum(chosen - rejected for chosen, rejected in pairs) / len(pairs)
            accuracy = sum(chosen > rejected for chosen, rejected in pairs) / len(pairs)
        logps_chosen, logps_rejected = _means(self.logps)
        return {
            "rewards_chosen": chosen, "rewards_rejected": rejected, "margin": margin, "accuracy": accuracy,
            "logps_chosen": logps_chosen, "logps_rejected": logps_rejected,
        }  # fmt: skip

    @property
    def loss(self) -> float:
        return math.fsum(loss * weight for loss, weight in self.losses) / sum(weight for _, weight in self.losses)


def _pairs(values: Sequence[Both]) -> list[tuple[float, float]]:
    return [(chosen, rejected) for chosen, rejected in values if chosen is not None and rejected is not None]


def _means(values: Sequence[Both]) -> Both:
    chosen, rejected = ([value for value in side if value is not None] for side in zip(*values, strict=True))
    return _mean(chosen), _mean(rejected)


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
