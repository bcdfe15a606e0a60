"""`run.json`: everything that one run of the trainer needs, in one frozen document."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

Method = Literal["dpo", "orpo", "kto", "sft"]
METHODS: tuple[Method, ...] = ("dpo", "orpo", "kto", "sft")
"""Each is a module of this package that has its data, its loss and what is checked before the first step."""


LEAST_BATCH: dict[Method, int] = {"dpo": 1, "orpo": 1, "kto": 2, "sft": 1}
"""KTO estimates from the examples of a step what counts as a gain."""


def noun(method: Method) -> Literal["pairs", "examples"]:
    """What a method's data is counted in."""
    return "pairs" if method in ("dpo", "orpo") else "examples"


Precision = Literal["auto", "16bit", "bf16", "fp16", "fp32"]
Quantization = Literal["nf4", "int8"]

# The names that TRL 1.16's DPOTrainer knows (trl/trainer/dpo_trainer.py, `_compute_loss`), checked before any
# training, since TRL itself only finds an unknown one at the first step.
LOSS_TYPES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip


class Frozen(BaseModel):
    """A document that is written once and read by others: unknown keys are errors, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelRef(Frozen):
    """Where Stage A is. `base` is a folder or a hub id; `adapter` is a LoRA folder over it, or None.

    What the folders hold was settled before this was written (`train.stage_a.identify`): with an adapter, Stage A is
    base + adapter; without one, Stage A is the full model in `base`, and a new LoRA starts as the identity on it.
    `named` is the base as a person named it, where `base` is that made absolute: results say it so.
    """

    base: str
    named: str | None = None
    base_revision: str | None = None
    adapter: str | None = None


class Data(Frozen):
    """Paths of JSONL files of what the method trains on: preference pairs, or completions."""

    train: Path
    val: Path | None = None


class Training(Frozen):
    """The schedule. `batch_size` is pairs (or examples) a step over all devices; `micro_batch_size` is on one.

    `loss_type`, `loss_weights` and `label_smoothing` are DPO's, the weights of the two kinds of example KTO's.
    """

    epochs: float = Field(default=1, gt=0)
    max_steps: PositiveInt | None = None
    batch_size: PositiveInt = 1
    micro_batch_size: PositiveInt | None = None
    max_length: PositiveInt = 1024
    learning_rate: float = Field(default=5e-6, gt=0, allow_inf_nan=False)
    lr_scheduler: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: int = Field(default=0, ge=0)
    beta: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    loss_type: tuple[str, ...] = ("sigmoid",)
    loss_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    desirable_weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    undesirable_weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    eval_every: PositiveInt | None = None
    save_every: PositiveInt | None = None
    seed: int = 42
    lora_r: PositiveInt = 16
    lora_alpha: PositiveInt | None = None
    lora_target: tuple[str, ...] = ("q_proj", "v_proj")


class Execution(Frozen):
    """How the run uses its device; the `trainer` part of a requirement's option."""

    device: Literal["cuda", "cpu"] = "cpu"
    precision: Precision = "auto"
    quantization: Quantization | None = None
    gradient_checkpointing: bool = False
    share_prompts: bool = Field(default=True, description="false: TRL's own step, each prompt computed twice")
    threads: PositiveInt | None = None
    processes: PositiveInt = Field(default=1, description="data-parallel processes on this machine, a GPU each")


class RunConfig(Frozen):
    """The trainer's whole configuration (`run/1`).

    `output_dir` receives `metrics.jsonl`, `checkpoints/checkpoint-N/`, `adapter/`, `adapter_last/`, `data.json`,
    `end.json`. `reference_cache` is a folder shared by runs: reference log-probabilities by content.
    `max_seconds` counts from the trainer's start.
    """

    schema_: Literal["run/1"] = Field(default="run/1", alias="schema")
    job: str
    method: Method = "dpo"
    model: ModelRef
    data: Data
    training: Training = Training()
    execution: Execution = Execution()
    output_dir: Path
    reference_cache: Path
    max_seconds: float | None = Field(default=None, gt=0)
    lock: str | None = Field(default=None, description="name and SHA-256 of the trainer's lock file")

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class EvalConfig(Frozen):
    """What `python -m train evaluate` compares (`evalrun/1`): Stage A and a trained adapter on held-out data.

    `test` is JSONL. Lines with `facts` are checked fact by fact; lines with `chosen`/`rejected` give loss, reward
    accuracy, margin and the proxy of unsupported terms. `train` and `val` are what the adapter was trained and chosen
    on: held-out data is neither of these files and shares no prompt with them.
    """

    schema_: Literal["evalrun/1"] = Field(default="evalrun/1", alias="schema")
    job: str
    method: Method = "dpo"
    model: ModelRef
    trained_adapter: Path
    test: Path
    train: Path | None = None
    val: Path | None = None
    output: Path
    reference_cache: Path
    training: Training = Training()
    execution: Execution = Execution()
    max_examples: PositiveInt = 400
    max_new_tokens: PositiveInt = 256
    temperature: float = Field(default=1.0, gt=0)
    terms: Path | None = None
    seed: int = 1234

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class End(Frozen):
    """`end.json`: why the trainer stopped, and where."""

    schema_: Literal["end/1"] = Field(default="end/1", alias="schema")
    reason: Literal["finished", "max_steps", "deadline", "signal", "error"]
    step: int
    max_steps: int
    message: str | None = None
    best_step: int | None = None
    seconds: float

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
