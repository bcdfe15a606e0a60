# pyright: basic, reportMissingImports=false
"""Supervised fine-tuning, as TRL's SFTTrainer has it: Stage A itself. The loss is completions' mean cross-entropy."""

from __future__ import annotations

from typing import Any

import torch

from train import completions
from train.step import Inputs, log_probs_of
from train.tally import Both


class Step(completions.Step):
    """A step's mean is over the tokens of all its completions. There are no rewards."""

    counts_tokens = True

    def loss(self, trainer: Any, model: Any, inputs: Inputs) -> torch.Tensor:
        return -log_probs_of(model, inputs, self.labels(inputs)).sum() / inputs["completion_mask"].sum()

    def rewards(self, inputs: Inputs, sums: torch.Tensor) -> list[Both]:
        return [(None, None)] * len(sums)
