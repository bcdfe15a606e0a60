"""`estimaterun/1`: what the calculator is asked. Pydantic only."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, PositiveInt

from train.config import Data, Frozen, Method, ModelRef, Training


class EstimateConfig(Frozen):
    """A model, its pairs and a schedule.

    `model.base` may be a bare `config.json`, a model without weights. Without `data` the lengths of pairs are not
    known, and there is no workload to write down. `lengths` are the max_lengths of the table of what fits.
    """

    schema_: Literal["estimaterun/1"] = Field(default="estimaterun/1", alias="schema")
    method: Method = "dpo"
    model: ModelRef
    data: Data | None = None
    training: Training = Training()
    lengths: tuple[PositiveInt, ...] = (512, 1024, 2048, 4096)

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
