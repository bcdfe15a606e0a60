# pyright: basic, reportMissingImports=false
"""Kahneman-Tversky optimization (arXiv 2402.01306), with the loss of TRL's KTOTrainer: completions wanted, or not.

The point from which gains and losses count is an estimate of KL(policy, Stage A), without a gradient: the mean
log-ratio, over the examples of a step, of a completion that belongs to another prompt, as often a wanted one as the
examples are. Which one is settled by the order of the file (TRL takes the neighbour in the batch), so that neither
micro-batches nor processes change it, and Stage A's part of it is kept like any other.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from train import completions
from train.rows import Row
from train.step import Inputs, log_probs_of
from train.tally import Both

OTHERS = "KL_"
"""What TRL's collator puts before the names of the sequences whose completions belong to other prompts."""


class Step(completions.Step):
    """Rewards are beta x (log-probability - Stage A's)."""

    has_reference = True
    reference_passes = 2
    forwards = 2
    _divergence: float | None = None
    """Of the step, or the validation pass, that is being taken."""

    def rows(self, rows: list[Row]) -> list[Row]:
        """With the completion of the row before that has another prompt and, where there is one, the same label."""
        latest: dict[bool, list[Row]] = {True: [], False: []}
        """Of each kind, the last row, and the last before it with another prompt."""
        found: list[Row] = []
        for row in rows * 2:  # the first rows have those at the end before them
            wanted = bool(row["chosen_ids"])
            known = [*latest[wanted], *latest[not wanted]]
            other = next((one for one in known if one["prompt_ids"] != row["prompt_ids"]), known[0] if known else row)
            completion = other["chosen_ids"] or other["rejected_ids"]
            found.append({**row, "other_ids": completion[: self.training.max_length - len(row["prompt_ids"])]})
            latest[wanted] = [row, *(one for one in latest[wanted] if one["prompt_ids"] != row["prompt_ids"])][:2]
        return found[len(rows) :]

    def example(self, row: Row) -> dict[str, Any]:
        return super().example(row) | {"KL_completion_ids": row.get("other_ids", [])}

    def before(self, trainer: Any, batches: Iterable[Inputs]) -> None:
        log_ratios = [ratio for batch in batches for ratio in self._log_ratios(trainer, batch)]
        self._divergence = _estimate([ratio for part in trainer.group.gather(log_ratios) for ratio in part])

    def after(self) -> None:
        self._divergence = None

    def loss(self, trainer: Any, model: Any, inputs: Inputs) -> torch.Tensor:
        divergence = self._divergence
        if divergence is None:
            divergence = _estimate(self._log_ratios(trainer, inputs))
        ratios = log_probs_of(model, inputs, self.labels(inputs)).sum(dim=1) - inputs["ref_logps"]
        gains = self.training.beta * (ratios - divergence)
        weights = torch.where(inputs["label"], self.training.desirable_weight, self.training.undesirable_weight)
        return (weights * (1 - torch.sigmoid(torch.where(inputs["label"], gains, -gains)))).mean()

    @torch.no_grad()
    def _log_ratios(self, trainer: Any, inputs: Inputs) -> list[float]:
        others = {name: inputs[f"{OTHERS}{name}"] for name in ("input_ids", "attention_mask", "completion_mask")}
        with trainer.accelerator.autocast():
            sums = log_probs_of(trainer.seen(others), others, self.labels(others)).sum(dim=1)
        return (sums - trainer.references(others)[:, 0]).tolist()

    def rewards(self, inputs: Inputs, sums: torch.Tensor) -> list[Both]:
        return self.both(inputs, self.training.beta * (sums - inputs["ref_logps"]))

    def reference(self, trainer: Any, inputs: Inputs) -> list[tuple[float, float]]:
        return [(value, 0.0) for value in trainer.reference_sums(inputs).tolist()]

    def with_reference(self, inputs: Inputs, table: torch.Tensor) -> None:
        inputs["ref_logps"] = table[:, 0]


def _estimate(log_ratios: Sequence[float]) -> float:
    return max(0.0, statistics.fmean(log_ratios))
