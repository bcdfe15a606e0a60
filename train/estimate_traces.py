# pyright: basic, reportMissingImports=false
"""The recipes that are traced, and their traces of a whole model, on as many processes as there are cores."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import as_completed
from typing import Any

import torch
from transformers import PretrainedConfig

from train.cores import cores, pool
from train.shared_prompt import obstacle
from train.trace import Recipe, Shape, Trace, policy, trace_step

RECIPES: Mapping[str, tuple[str, Recipe]] = {
    "16bit-lora": ("cuda", Recipe(torch.bfloat16)),
    "16bit-lora-ckpt": ("cuda", Recipe(torch.bfloat16, gradient_checkpointing=True)),
    "int8-lora-ckpt": ("cuda", Recipe(torch.bfloat16, gradient_checkpointing=True, quantization="int8")),
    "nf4-qlora": ("cuda", Recipe(torch.bfloat16, quantization="nf4")),
    "nf4-qlora-ckpt": ("cuda", Recipe(torch.bfloat16, gradient_checkpointing=True, quantization="nf4")),
    "cpu-bf16": ("cpu", Recipe(torch.bfloat16)),
    "cpu-fp32": ("cpu", Recipe(torch.float32)),
    "cpu-nf4-ckpt": ("cpu", Recipe(torch.bfloat16, gradient_checkpointing=True, quantization="nf4")),
}

Work = tuple[Recipe, Shape]


def trace_all(
    config: PretrainedConfig, work: Iterable[Work], progress: Callable[[int, int], None] = lambda *_: None
) -> dict[Work, Trace]:
    """The trace of each recipe at each shape; `progress` hears how many of how many are done.

    Raises:
        InputError: the adapter's modules are none of the model's.
    """
    # The longest first: so all processes end at about the same time.
    wanted = sorted(dict.fromkeys(work), key=_effort, reverse=True)
    found: dict[Work, Trace] = {}
    # Never a step in this process: a CUDA build of PyTorch starts threads at its first, and forks none after it.
    with pool(min(cores(), len(wanted)), _begin) as executor:
        futures = {executor.submit(trace_model, config, *each): each for each in wanted}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                found[futures[future]] = future.result()
                progress(done, len(wanted))
        except BaseException:  # a model that cannot be made: once is enough
            executor.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def _effort(work: Work) -> tuple[int, bool]:
    recipe, shape = work
    return shape.pairs, recipe.gradient_checkpointing


def _begin() -> None:
    torch.set_num_threads(1)
    gc.freeze()  # what was imported is no garbage: a collection looks at a trace's own objects alone


def shares_prompts(config: PretrainedConfig, recipe: Recipe, max_length: int) -> bool:
    """Whether the trainer computes each prompt once, as far as the model's class and configuration say."""
    return obstacle(policy(_of_layers(config, 1), recipe), max_length) is None


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
