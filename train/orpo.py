# pyright: basic, reportMissingImports=false
"""Odds ratio preference optimization (arXiv 2403.07691), as TRL's ORPOTrainer has it: no reference is needed.

The loss is the mean negative log-likelihood of the tokens of prompt and chosen, less beta x the mean log sigmoid of the
log odds ratio of the completions' mean log-probabilities. TRL's trainer makes the scores of every token of both
sequences; here they are made by tiles, and the prompt is computed once. The mean over tokens is the step's, where TRL
has that of each micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import functional

from train import step
from train.shared_row import SharedRow
from train.step import Inputs, log_probs_of
from train.tally import Both

LOG_HALF = -0.6931471805599453


class Step(step.Step):
    """Rewards are beta x the mean log-probability of a completion's tokens, as TRL logs them."""

    _tokens_a_pair: float | None = None
    """Of prompt and chosen, in the mean over the step or the validation pass that is being taken."""

    def before(self, trainer: Any, batches: Iterable[Inputs]) -> None:
        mine = [(self._predicted(inputs), self.examples(inputs)) for inputs in batches]
        tokens, pairs = zip(*(both for part in trainer.group.gather(mine) for both in part), strict=True)
        self._tokens_a_pair = sum(tokens) / sum(pairs)

    def after(self) -> None:
        self._tokens_a_pair = None

    def _predicted(self, inputs: Inputs) -> int:
        pairs = self.examples(inputs)
        return int(inputs["attention_mask"][:pairs, 1:].sum())

    def labels(self, inputs: Inputs) -> torch.Tensor:
        """Completions, and the prompt in front of chosen."""
        pairs = self.examples(inputs)
        chosen = inputs["input_ids"][:pairs].masked_fill(inputs["attention_mask"][:pairs] == 0, -100)
        return torch.cat([chosen, super().labels(inputs)[pairs:]])

    def row(self, inputs: Inputs) -> SharedRow:
        return SharedRow.of(inputs["attention_mask"], inputs["completion_mask"], prompts_labelled=True)

    def loss(self, trainer: Any, model: Any, inputs: Inputs) -> torch.Tensor:
        labels, completion = self.labels(inputs), inputs["completion_mask"][:, 1:]
        log_probs = log_probs_of(model, inputs, labels)
        chosen, rejected = ((log_probs * completion).sum(dim=1) / completion.sum(dim=1)).chunk(2)
        log_odds = (chosen - rejected) - (log_of_rest(chosen) - log_of_rest(rejected))
        pairs = len(chosen)
        tokens = self._predicted(inputs) if self._tokens_a_pair is None else pairs * self._tokens_a_pair
        likelihood = log_probs[:pairs].sum() / tokens
        return -likelihood - self.training.beta * functional.logsigmoid(log_odds).mean()

    def rewards(self, inputs: Inputs, sums: torch.Tensor) -> list[Both]:
        return self.both(inputs, self.training.beta * sums / inputs["completion_mask"].sum(dim=1))


def log_of_rest(log_p: torch.Tensor) -> torch.Tensor:
    """log(1 - p) of a log-probability, near 0 and far from it; what rounds to 0 has a gradient all the same."""
    log_p = log_p.clamp(max=-1e-6)
    return torch.where(log_p < LOG_HALF, torch.log1p(-torch.exp(log_p)), torch.log(-torch.expm1(log_p)))
