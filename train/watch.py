"""What the loss does not show: whether the policy improves, or is only displaced. Pure.

DPO's loss falls as long as rejected loses more likelihood than chosen; both may fall, and the model that samples from
what is left writes worse texts than before (Razin et al. 2024, arXiv 2410.08847, "likelihood displacement").
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from train.metrics import NoticeLine, TrainLine, ValLine
from train.tally import Both

WINDOW = 20
"""Steps in each of the two means that are compared."""

MIN_FALL = 0.05
"""Of chosen's reward (nats x beta) between the two windows: less is noise."""


def score(rewards: Sequence[Both]) -> float:
    """What `adapter/` is chosen by: higher is better. `rewards` are (chosen, rejected) of the validation pairs.

    The mean of log sigmoid(margin), as in the loss of DPO, plus the mean reward of chosen: a margin that is bought
    with the likelihood of chosen is worth nothing (docs/decisions/003-best-adapter.md).
    """
    pairs = [(chosen, rejected) for chosen, rejected in rewards if chosen is not None and rejected is not None]
    preference = math.fsum(log_sigmoid(chosen - rejected) for chosen, rejected in pairs) / len(pairs)
    chosen_mean = math.fsum(chosen for chosen, _ in pairs) / len(pairs)
    return preference + chosen_mean


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x >= 0 else x - math.log1p(math.exp(x))


class Watch:
    """Fed with every line in order, says once when displacement begins, and again only after it had ended."""

    def __init__(self) -> None:
        self._recent: deque[TrainLine] = deque(maxlen=2 * WINDOW)
        self._displaced = False

    def feed(self, line: TrainLine | ValLine | NoticeLine) -> NoticeLine | None:
        """A notice where chosen's reward is below zero and falls over two windows while the margin grows."""
        if not isinstance(line, TrainLine):
            return None
        self._recent.append(line)
        if len(self._recent) < 2 * WINDOW:
            return None
        lines = list(self._recent)
        before, now = lines[:WINDOW], lines[WINDOW:]
        chosen_before, chosen = (_mean([x.rewards_chosen or 0.0 for x in part]) for part in (before, now))
        margin_before, margin = (_mean([x.margin or 0.0 for x in part]) for part in (before, now))
        falling = chosen < 0 and chosen_before - chosen > MIN_FALL and margin > margin_before
        begins = falling and not self._displaced
        self._displaced = falling if begins or chosen >= chosen_before else self._displaced
        if not begins:
            return None
        return NoticeLine(
            at=line.at,
            step=line.step,
            code="displaced",
            message=(
                f"the likelihood of chosen falls while the margin grows: over the last {WINDOW} steps its mean reward "
                f"is {chosen:.3f} ({chosen_before:.3f} before), the margin {margin:.3f} ({margin_before:.3f}). "
                "The policy is displaced, not improved; adapter/ stays the best on validation. "
                "A lower learning rate, fewer steps, or an SFT term (loss_type sigmoid,sft) help."
            ),
        )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
