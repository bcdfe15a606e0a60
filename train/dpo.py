# pyright: basic, reportMissingImports=false
# ruff: noqa: SLF001  # TRL's loss is a method of its trainer
"""Direct preference optimization (arXiv 2305.18290): TRL's own loss, in all its kinds."""

from __future__ import annotations

from typing import Any

import torch
from trl import DPOTrainer

from train import step
from train.step import Inputs
from train.tally import Both


class Step(step.Step):
    """Rewards are beta x (log-probability - Stage A's)."""

    has_reference = True
    reference_passes = 1
    watched = True

    def loss(self, trainer: Any, model: Any, inputs: Inputs) -> torch.Tensor:
        return DPOTrainer._compute_loss(trainer, model, inputs, return_outputs=False)

    def rewards(self, inputs: Inputs, sums: torch.Tensor) -> list[Both]:
        stage_a = torch.cat([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]])
        return self.both(inputs, self.training.beta * (sums - stage_a))

    def reference(self, trainer: Any, inputs: Inputs) -> list[tuple[float, float]]:
        chosen, rejected = trainer.compute_ref_log_probs(trainer.model, inputs)
        return list(zip(chosen.float().tolist(), rejected.float().tolist(), strict=True))

    def with_reference(self, inputs: Inputs, table: torch.Tensor) -> None:
        inputs["ref_chosen_logps"], inputs["ref_rejected_logps"] = table[:, 0], table[:, 1]
