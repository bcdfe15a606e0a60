"""`estimate/1`: what the calculator is asked. Pydantic only."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from train.config import Data, Frozen, ModelRef


class EstimateConfig(Frozen):
    """A model, its data and a schedule. `lengths` are the max_lengths of the table of what fits."""

    schema_: Literal["estimate/1"] = Field(default="estimate/1", alias="schema")
    model: ModelRef
    data: Data
    max_length: PositiveInt = 1024
    batch_size: PositiveInt = 1
    epochs: float = Field(default=1, gt=0, allow_inf_nan=False)
    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    beta: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    lora_r: PositiveInt = 16
    lora_target: tuple[str, ...] = ("q_proj", "v_proj")
    lengths: tuple[PositiveInt, ...] = (512, 1024, 2048, 4096)
