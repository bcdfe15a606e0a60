"""`hardware-requirement/1`: what a workload is and the ways to run it, as a calculator says them.

Memory in GiB, sizes in bytes, times in seconds.

    python -m train.requirement > docs/hardware-requirement-1.schema.json        prints the JSON Schema
"""

from __future__ import annotations

import json
import re
import sys
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from train.config import Method, Precision, Quantization

Gib = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Part(BaseModel):
    """A part of the file. Unknown keys are kept aside, to be named in a warning (`unknown_keys`)."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)


class Source(Part):
    """A folder (`path`) or a repository on the model hub (`hub_id`, `revision`): exactly one."""

    path: str | None = None
    hub_id: str | None = None
    revision: str | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Source:
        if (self.path is None) == (self.hub_id is None):
            raise ValueError("needs exactly one of path and hub_id")
        return self


class Adapter(Part):
    path: str
    kind: Literal["lora"] = "lora"
    r: int | None = Field(default=None, gt=0)
    target_modules: tuple[str, ...] | None = None
    trainable_parameters: int | None = Field(default=None, gt=0)
    bytes_on_disk: int | None = Field(default=None, ge=0)


class Model(Part):
    base: Source
    adapter: Adapter | None = None
    architecture: str | None = None
    parameters: int | None = Field(default=None, gt=0, description="of the base")
    bytes_on_disk: int | None = Field(default=None, ge=0)


class DataSet(Part):
    train_path: str
    train_examples: int = Field(gt=0)
    train_bytes: int | None = Field(default=None, ge=0)
    val_path: str | None = None
    val_examples: int | None = Field(default=None, ge=0)
    val_bytes: int | None = Field(default=None, ge=0)


class Schedule(Part):
    epochs: float = Field(gt=0, allow_inf_nan=False)
    batch_size: int = Field(gt=0)
    max_length: int = Field(gt=0)
    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    beta: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    steps: int | None = Field(default=None, gt=0)
    lora_r: int | None = Field(default=None, gt=0, description="rank of a new adapter, for a model without one")
    lora_target: tuple[str, ...] | None = Field(default=None, description="modules of a new adapter")


class Workload(Part):
    method: Method = "dpo"
    model: Model
    data: DataSet
    training: Schedule


class TrainerChoice(Part):
    precision: Precision = "auto"
    quantization: Quantization | None = None
    gradient_checkpointing: bool = False
    share_prompts: bool = True


class Option(Part):
    """One way to run the workload, and what it needs of a machine. `basis` says what each figure rests on."""

    name: str
    device: Literal["cuda", "cpu"]
    gpus: int = Field(ge=0)
    min_vram_gib: Gib = 0.0
    min_ram_gib: Gib = 0.0
    min_disk_gib: Gib = 0.0
    flop_per_step: Positive | None = None
    basis: dict[str, Any] = {}
    trainer: TrainerChoice = TrainerChoice()

    @model_validator(mode="after")
    def _device_and_gpus_agree(self) -> Option:
        if self.device == "cpu" and (self.gpus or self.min_vram_gib):
            raise ValueError(f"option {self.name!r}: device is cpu, but gpus or min_vram_gib is not 0")
        if self.device == "cuda" and not self.gpus:
            raise ValueError(f"option {self.name!r}: device is cuda, but gpus is 0")
        return self


class Measured(Part):
    """How fast the machine on which the file was made trains: `step_overhead_s` + FLOPs / `flop_per_s` a step."""

    machine: str
    device: Literal["cuda", "cpu"]
    name: str
    precision: Precision
    flop_per_s: Positive
    step_overhead_s: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    measured_at: str


class Requirement(Part):
    schema_: Literal["hardware-requirement/1"] = Field(alias="schema")
    created_by: str | None = None
    workload: Workload
    options: tuple[Option, ...] = Field(min_length=1)
    measured: tuple[Measured, ...] = ()


def unknown_keys(part: BaseModel, at: str = "") -> list[str]:
    """The dotted paths of keys that this version does not know, in the order of the file."""
    found = [f"{at}{key}" for key in part.model_extra or {}]
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        key = field.alias or name
        if isinstance(value, BaseModel):
            found += unknown_keys(value, f"{at}{key}.")
        elif isinstance(value, tuple):
            for index, item in enumerate(value):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
                if isinstance(item, BaseModel):
                    found += unknown_keys(item, f"{at}{key}[{index}].")
    return found


_VERSION = re.compile(r"hardware-requirement/(\d+)")


def version_of(document: object) -> int | None:
    """The version that a document's `schema` names, or None where it is not of this family."""
    named = cast("dict[str, object]", document).get("schema") if isinstance(document, dict) else None
    match = _VERSION.fullmatch(str(named))
    return int(match[1]) if match else None


def json_schema() -> str:
    """The JSON Schema of `hardware-requirement/1`, as it is published.

    It does not say what must hold between two keys: exactly one of `path` and `hub_id`; neither `gpus` nor
    `min_vram_gib` where `device` is cpu, and `gpus` where it is cuda.
    """
    schema = Requirement.model_json_schema(by_alias=True)
    schema |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "hardware-requirement/1"}
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json_schema())
