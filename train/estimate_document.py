"""`estimate/1`: what the calculator found of a model, its pairs and the ways to train on them. Pydantic only."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from train.config import Frozen
from train.data_report import DataCheck
from train.requirement import Gib, Measured, Model, Option, Requirement, Workload

CREATED_BY = "launch estimate"


class Comparison(Frozen):
    """A way that is worse than an option in every respect: shown so that a person sees why, never an option."""

    name: str
    why: str


class Need(Frozen):
    """The GPU memory of an option, or of what it is compared with, where every pair fills `max_length`."""

    option: str
    max_length: int
    min_vram_gib: Gib


class Estimate(Frozen):
    """`longest` is the tokens at which the options were traced: the longest pair as it is cut, else max_length.

    `parameters` counts the model with its adapter. `workload` is None where no pairs were named, `data` also where
    there was no tokenizer to count them by.
    """

    schema_: Literal["estimate/1"] = Field(default="estimate/1", alias="schema")
    model: Model
    parameters: int
    trainable_parameters: int
    batch_size: int
    at_once: int = Field(description="pairs at once on a device")
    max_length: int
    longest: int
    lora_r: int
    lora_target: tuple[str, ...]
    notes: tuple[str, ...] = ()
    options: tuple[Option, ...]
    comparison: tuple[Comparison, ...] = ()
    needs: tuple[Need, ...] = ()
    data: DataCheck | None = None
    workload: Workload | None = None

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def requirement(self, measured: tuple[Measured, ...] = ()) -> Requirement | None:
        """The requirement file, with what the machine was measured at; None without a workload."""
        if self.workload is None:
            return None
        return Requirement(
            schema="hardware-requirement/1",
            created_by=CREATED_BY,
            workload=self.workload,
            options=self.options,
            measured=measured,
        )
