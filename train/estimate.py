# pyright: basic, reportMissingImports=false
"""`python -m train estimate`: what a workload needs of a machine, from a traced step, as `hardware-requirement/1`."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig

from train.errors import InputError
from train.estimate_config import EstimateConfig
from train.requirement import Requirement
from train.trace import Recipe, Shape, Trace, trace_step
from train.weights import read_json, read_weights

GIB = 2**30
CONTEXT_GIB = 0.6
"""Assumed, not measured: the CUDA context and the libraries' workspaces."""
FRAGMENTATION = 0.05
"""Assumed, not measured: what the caching allocator holds beyond live storage, as a share of it."""
ENVIRONMENT_GIB = 12.0
"""Assumed: Python, torch with CUDA, and the image."""

RECIPES: tuple[tuple[str, str, Recipe], ...] = (
    ("16bit-lora", "cuda", Recipe(torch.bfloat16)),
    ("16bit-lora-checkpointing", "cuda", Recipe(torch.bfloat16, gradient_checkpointing=True)),
    ("int8-lora-checkpointing", "cuda", Recipe(torch.bfloat16, gradient_checkpointing=True, quantization="int8")),
    ("nf4-qlora", "cuda", Recipe(torch.bfloat16, quantization="nf4")),
    ("nf4-qlora-checkpointing", "cuda", Recipe(torch.bfloat16, gradient_checkpointing=True, quantization="nf4")),
    ("cpu-bf16", "cpu", Recipe(torch.bfloat16)),
    ("cpu-fp32", "cpu", Recipe(torch.float32)),
)


def run(asked: EstimateConfig) -> int:
    """Prints the requirement on stdout and progress on stderr."""
    config = model_config(Path(asked.model.base))
    weights = read_weights(Path(asked.model.base))
    pairs = {name: _lines(path) for name, path in (("train", asked.data.train), ("val", asked.data.val)) if path}
    options, table, facts = [], [], None
    for name, device, plain in RECIPES:
        print(f"tracing {name}", file=sys.stderr)
        recipe = replace(plain, lora_r=asked.lora_r, lora_target=asked.lora_target)
        facts = trace_model(config, recipe, Shape(asked.batch_size, asked.max_length))
        options.append(_option(name, device, recipe, facts, asked))
        if device == "cuda":
            for length in asked.lengths:
                peak = trace_model(config, recipe, Shape(asked.batch_size, length)).peak_bytes
                table.append({"max_length": length, "option": name, "min_vram_gib": needed_gib(peak)})
    assert facts is not None
    adapter = {"adapter": {"path": asked.model.adapter}} if asked.model.adapter else {}
    data = {"train_path": str(asked.data.train), "train_examples": pairs["train"]}
    data["train_bytes"] = asked.data.train.stat().st_size
    if asked.data.val:
        data |= {"val_path": str(asked.data.val), "val_examples": pairs["val"]}
    document = {
        "schema": "hardware-requirement/1",
        "created_by": "train estimate",
        "workload": {
            "model": {
                "base": {"path": asked.model.base}, **adapter,
                "architecture": (config.architectures or [None])[0], "parameters": facts.base_parameters,
                "trainable_parameters": facts.trainable_parameters,
                "bytes_on_disk": sum(t.nbytes for t in weights.values()) or 2 * facts.base_parameters,
            },
            "data": data,
            "training": {
                "epochs": asked.epochs, "batch_size": asked.batch_size, "max_length": asked.max_length,
                "learning_rate": asked.learning_rate, "beta": asked.beta,
                "steps": max(1, math.ceil(pairs["train"] / asked.batch_size * asked.epochs)),
            },
        },
        "options": options,
        "fits_table": table,
    }  # fmt: skip
    print(Requirement.model_validate(document).model_dump_json(by_alias=True, exclude_none=True, indent=1))
    return 0


def model_config(folder: Path) -> PretrainedConfig:
    """The configuration in a model folder, or a `config.json` itself. Raises InputError with what is wrong."""
    file = folder / "config.json" if folder.is_dir() else folder
    values = read_json(file)
    kind = values.pop("model_type", None)
    try:
        return AutoConfig.for_model(kind, **values)
    except ValueError as problem:
        raise InputError(f"{file}: the architecture {kind!r} is not known.", str(problem), "check --model") from problem


def trace_model(config: PretrainedConfig, recipe: Recipe, shape: Shape) -> Trace:
    """The trace of the whole model: of 2 and of 3 layers, and a straight line on from there, since layers are alike."""
    layers = config.num_hidden_layers
    if layers <= 3:
        return trace_step(_of_layers(config, layers), recipe, shape)
    two, three = (trace_step(_of_layers(config, count), recipe, shape) for count in (2, 3))
    on = {name: value + (layers - 2) * (getattr(three, name) - value) for name, value in vars(two).items()}
    return Trace(**on)


def _of_layers(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    values: dict[str, Any] = config.to_dict()
    if values.get("layer_types"):
        values["layer_types"] = values["layer_types"][:layers]
    return type(config).from_dict(values | {"num_hidden_layers": layers})


def needed_gib(peak_bytes: int) -> float:
    """What a GPU must have: the traced peak, a share for fragmentation, and the context."""
    return round(peak_bytes / GIB * (1 + FRAGMENTATION) + CONTEXT_GIB, 2)


def _option(name: str, device: str, recipe: Recipe, trace: Trace, asked: EstimateConfig) -> dict[str, Any]:
    dtype = recipe.dtype
    weights_gib = trace.base_parameters * dtype.itemsize / GIB
    cuda = device == "cuda"
    precision = "fp32" if dtype == torch.float32 else "16bit" if cuda else "bf16"
    return {
        "name": name, "device": device, "gpus": int(cuda),
        "min_vram_gib": needed_gib(trace.peak_bytes) if cuda else 0,
        "min_ram_gib": round((weights_gib if cuda else trace.peak_bytes / GIB * (1 + FRAGMENTATION)) + 4, 1),
        "min_disk_gib": round(trace.base_parameters * 2 / GIB + ENVIRONMENT_GIB + 2, 1),
        "flop_per_step": trace.flop + trace.forward_flop,
        "basis": {
            "memory": f"one step traced on fake tensors, every pair at {asked.max_length} tokens",
            "traced_bytes": trace.peak_bytes,
            "extrapolated": "from 2 and 3 layers; equal to the full trace (tests/train/test_trace.py)",
            "flop_per_step": "counted in the trace: the policy's step and the reference's forward",
            "allowance": {"context_gib": CONTEXT_GIB if cuda else 0, "fragmentation": FRAGMENTATION, "measured": False},
            "disk_gib": {"environment": ENVIRONMENT_GIB, "checkpoints": 2},
            "versions": {each: version(each) for each in ("torch", "trl", "transformers", "peft")},
        },
        "trainer": {
            "precision": precision, "quantization": recipe.quantization,
            "gradient_checkpointing": recipe.gradient_checkpointing,
        },
    }  # fmt: skip


def _lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(1 for line in file if line.strip())
    except OSError as problem:
        raise InputError(f"{path} cannot be read", str(problem), "check the path of the data") from problem
