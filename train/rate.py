# pyright: basic, reportMissingImports=false
"""`python -m train rate --device cpu`: how fast this machine trains, in a few seconds.

Times a real LoRA step (forward and backward of a random Llama with PEFT) at two sizes, and solves
`seconds = step_overhead_s + flop / flop_per_s` for each precision.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train.errors import InputError

SECONDS_A_SIZE = 1.5
"""Steps are repeated for so long at one size; the fastest counts, since other work on the machine only adds."""

LORA_R = 16
SIZES = {"cpu": ((256, 2, 64), (512, 4, 256)), "cuda": ((1024, 4, 512), (2048, 8, 2048))}
"""(hidden size, layers, tokens a sequence) of the small and the large step; a batch has two sequences, as DPO's."""


def run(device: str) -> int:
    """Prints `rate/1` as one JSON document; exit code 0.

    Raises:
        InputError: `device` is not one that this machine has.
    """
    print(json.dumps(measure(device)))
    return 0


def measure(device: str) -> dict[str, Any]:
    """The `rate/1` document: `flop_per_s` is FLOPs of forward and backward a second, overhead in seconds a step."""
    import torch

    if device not in SIZES:
        raise InputError(f"There is no device {device!r}.", next_step="name cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("torch sees no GPU on this machine.", next_step="--device cpu")
    # On a GPU 16 bits are what the run will use; on a CPU both are asked for, since only some have bf16 products.
    sixteen = "bf16" if device == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    precisions = ("fp32", sixteen)
    return {
        "schema": "rate/1",
        "device": device,
        "name": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "rows": [{"precision": precision, **_solve(device, precision)} for precision in precisions],
    }


def cpu_name() -> str:
    """The CPU's model, as the system names it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _solve(device: str, precision: str) -> dict[str, float]:
    (flop, seconds), (more_flop, more_seconds) = (_step(device, precision, *size) for size in SIZES[device])
    return solve(flop, seconds, more_flop, more_seconds)


def solve(flop: float, seconds: float, more_flop: float, more_seconds: float) -> dict[str, float]:
    """Rate and overhead through two measured points.

    Where noise makes the overhead negative, it is 0 and the rate is that of the larger step.
    """
    slope = (more_seconds - seconds) / (more_flop - flop)
    overhead = seconds - flop * slope
    if slope <= 0 or overhead < 0:
        slope, overhead = more_seconds / more_flop, 0.0
    return {"flop_per_s": 1 / slope, "step_overhead_s": overhead}


def _step(device: str, precision: str, hidden: int, layers: int, tokens: int) -> tuple[float, float]:
    """FLOPs and seconds of one step."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers, vocab_size=4096,
            num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64, use_cache=False,
        )  # fmt: skip
        model = LlamaForCausalLM(config).to(device=device, dtype=dtype)
        lora = LoraConfig(r=LORA_R, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(model, lora).train()
        ids = torch.randint(0, config.vocab_size, (2, tokens), device=device)

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        model.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()

    step()
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops()), _fastest(step)


def _fastest(step: Callable[[], None]) -> float:
    fastest, until = float("inf"), time.perf_counter() + SECONDS_A_SIZE
    while (start := time.perf_counter()) < until:
        step()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest
