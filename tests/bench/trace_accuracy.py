"""The traced peak against the allocator's: PyTorch's profiler (`profile_memory`) over a real CPU step of small models,
and where there is a GPU, `torch.cuda.max_memory_allocated` over the same step on it.

PYTHONPATH=. .venv-train/bin/python tests/bench/trace_accuracy.py [--save]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, MistralConfig, PretrainedConfig, Qwen2Config

from tests.bench.allocator import peak_of
from train.last_layer import LastLayer
from train.shared_prompt import ATTENTION
from train.trace import Recipe, Shape, inputs, materialize, policy, row_of, step, trace_step, trainable_of

RESULTS = Path(__file__).parent / "results" / "trace_accuracy.json"
SIZES: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "num_attention_heads": 8,
    "num_key_value_heads": 2, "vocab_size": 1024, "use_cache": False,
}  # fmt: skip
MODELS: dict[str, PretrainedConfig] = {
    "Llama": LlamaConfig(**SIZES),
    "Mistral": MistralConfig(**SIZES, sliding_window=None),
    "Qwen2": Qwen2Config(**SIZES),
}
RECIPES = {
    "r=16 on q, v": Recipe(torch.bfloat16),
    "r=16 on q, v, checkpointing": Recipe(torch.bfloat16, gradient_checkpointing=True),
    "Stage A's r=16 on q, v": Recipe(torch.bfloat16, own_adapter=True),
    "r=64 on all linear, fp32": Recipe(
        torch.float32,
        lora_r=64,
        lora_target=("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"),
    ),
}


def real(config: PretrainedConfig, recipe: Recipe, shape: Shape) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model with weights, and a batch of it, on the CPU."""
    model = policy(config, recipe, attention=ATTENTION)
    materialize(model)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.02)
    for name, buffer in model.named_buffers():
        buffer.fill_(1e-3) if buffer.is_floating_point() else buffer.zero_()
        assert name
    if recipe.share_prompts:
        LastLayer(model)
    return model, inputs(shape)


def cuda_peak(config: PretrainedConfig, recipe: Recipe, shape: Shape) -> int:
    """Bytes that the CUDA allocator had given out at most while a step ran, the model and the batch included.

    What cuBLAS keeps for itself, forward and backward, is not: an allowance is for that, as for the context.
    """
    some = torch.ones((64, 64), device="cuda", dtype=recipe.dtype, requires_grad=True)
    (some @ some).sum().backward()
    del some
    kept = torch.cuda.memory_allocated()
    model, batch = real(config, recipe, shape)
    model.to("cuda")
    batch = {name: tensor.to("cuda") for name, tensor in batch.items()}
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    step(model, trainable_of(model), batch, recipe, row_of(shape, "cuda"), device="cuda", method=shape.method)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - kept


def allocated_peak(config: PretrainedConfig, recipe: Recipe, shape: Shape) -> int:
    """Bytes: what is there before the step, and the highest running sum of the allocator's events in it."""
    model, batch = real(config, recipe, shape)
    kept = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in (*model.parameters(), *model.buffers(), *batch.values())
    }
    return sum(kept.values()) + peak_of(
        lambda: step(model, trainable_of(model), batch, recipe, row_of(shape), method=shape.method)
    )


def row(model: str, recipe: str, shape: Shape) -> dict[str, Any]:
    """The figures of one step. What CUDA says is there where a GPU is."""
    traced = trace_step(MODELS[model], RECIPES[recipe], shape).peak_bytes
    allocated = allocated_peak(MODELS[model], RECIPES[recipe], shape)
    found: dict[str, Any] = {
        "model": model, "adapter": recipe, "pairs": shape.pairs, "tokens": shape.length, "prompt": shape.prompt,
        "traced_bytes": traced, "allocated_bytes": allocated, "ratio": round(traced / allocated, 4),
    }  # fmt: skip
    if torch.cuda.is_available():
        on_gpu = cuda_peak(MODELS[model], RECIPES[recipe], shape)
        found |= {"cuda_bytes": on_gpu, "cuda_ratio": round(traced / on_gpu, 4)}
    return found


def main() -> None:
    rows = [
        row(model, recipe, Shape(2, length, 3 * length // 4))
        for model in MODELS
        for recipe in RECIPES
        for length in (512, 1024, 2048)
    ]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    cuda = f" {'CUDA MiB':>9} {'ratio':>6}" if gpu else ""
    print(f"{'model':<9} {'adapter':<30} {'tokens':>6} {'traced MiB':>11} {'allocated MiB':>14} {'ratio':>7}{cuda}")
    for one in rows:
        cuda = f" {one['cuda_bytes'] / 2**20:>9.1f} {one['cuda_ratio']:>6.3f}" if gpu else ""
        print(
            f"{one['model']:<9} {one['adapter']:<30} {one['tokens']:>6} {one['traced_bytes'] / 2**20:>11.1f} "
            f"{one['allocated_bytes'] / 2**20:>14.1f} {one['ratio']:>7.3f}{cuda}"
        )
    print(f"The GPU is a {gpu}." if gpu else "No GPU here: nothing was compared with torch.cuda.max_memory_allocated.")
    if "--save" in sys.argv:
        document = {"torch": torch.__version__, "gpu": gpu, "rows": rows}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
