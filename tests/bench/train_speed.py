# pyright: basic
"""Seconds a pair and peak memory of a DPO step on this CPU: a home-made step, TRL 1.16, and this project's.

`make bench-train`, or PYTHONPATH=. .venv-train/bin/python tests/bench/train_speed.py [--busy] [--deep] [SHAPE ...]

In one process, on the same threads; the ways take turns, and the fastest of their rounds counts, since other work on
the machine only adds. On a machine that others keep busy, `--busy` takes one thread and the processor's time in place
of the clock's, and saves nothing. The model is a random Llama of 4 layers of width 768 with 16,000 tokens, and at two
of the shapes one of 8 with 32,000 too (`--deep` takes it alone); gradient checkpointing is off everywhere (TRL turns
it on by default, which takes longer).
Where the reference can be kept, its pass counts half, as over two epochs. `limit` is the time of the FLOPs that the
needed tokens take, at the rate of the fastest matrix product of the same run.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.bench.allocator import peak_of
from tests.bench.train_shapes import HEADING, REFERENCE_SHARE, SHAPES, needed_flop, row, rows_of, show
from tests.bench.train_ways import DTYPES, Setup, Way, our_trainer, our_ways, stock_trainer, stock_ways
from train.cores import cores
from train.rate import cpu_name

SIZES: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 12,
    "num_key_value_heads": 12, "vocab_size": 16000, "max_position_embeddings": 8192, "pad_token_id": 0,
}  # fmt: skip
"""As small real models are: of the parameters that a token is multiplied with, 30% lie in the head (7% of an 8B's)."""
DEEP = SIZES | {"num_hidden_layers": 8, "vocab_size": 32000}
DEEP_SHAPES = ("384/128/128", "1500/300/300")
RESULTS = Path(__file__).parent / "results" / "train_cpu.json"
ROUNDS = 2
"""After the first step, in which memory is looked at."""
SIDE = 2048
BUSY = "--busy" in sys.argv


def product_rate(dtype: torch.dtype) -> float:
    """FLOP/s of a matrix product as large as the models', which is done again and again for the best."""
    one, other = torch.randn(SIDE, SIZES["hidden_size"]).to(dtype), torch.randn(SIZES["hidden_size"], SIDE).to(dtype)
    times = [seconds(lambda: one @ other) for _ in range(30)]
    return 2 * SIDE**2 * SIZES["hidden_size"] / min(times)


def seconds(do: Callable[[], Any]) -> float:
    clock = time.process_time if BUSY else time.perf_counter
    started = clock()
    do()
    return clock() - started


def peak_mib(way: Way, model_bytes: int) -> float:
    """The weights, and the highest running sum of the allocator's events in a step."""
    return (peak_of(way.step) + model_bytes) / 2**20


def measure(sizes: Mapping[str, Any], shape: str, dtype: Literal["fp32", "bf16"], folder: Path) -> list[dict[str, Any]]:
    """The rows of a shape in a precision."""
    lengths = SHAPES[shape]
    setup = Setup(lambda: LlamaForCausalLM(LlamaConfig(**sizes)).to(DTYPES[dtype]), dtype)
    rows = rows_of(lengths, sizes["vocab_size"])
    every = stock_ways(stock_trainer(setup, folder), rows) | our_ways(our_trainer(setup, folder), rows)
    weights = DTYPES[dtype].itemsize * parameters(sizes)
    peaks = {name: peak_mib(way, weights) for name, way in every.items()}  # the first step, which warms up too
    steps: dict[str, list[float]] = {name: [] for name in every}
    references: dict[str, list[float]] = {name: [] for name in every}
    rate = 0.0
    for _ in range(ROUNDS):
        rate = max(rate, product_rate(DTYPES[dtype]))
        for name, way in every.items():
            steps[name].append(seconds(way.step))
            references[name].append(seconds(way.reference) if way.reference else 0.0)
    found = []
    for name in every:
        reference = min(references[name]) / len(lengths)
        took = min(steps[name]) / len(lengths) + REFERENCE_SHARE * reference
        found.append(row(shape, name, dtype, took, peaks[name]) | {"reference_seconds_per_pair": round(reference, 4)})
    found.append(row(shape, "limit", dtype, needed_flop(sizes, lengths) / rate / len(lengths), None))
    return found


def parameters(sizes: Mapping[str, Any]) -> int:
    hidden, wide = sizes["hidden_size"], sizes["intermediate_size"]
    return sizes["num_hidden_layers"] * (4 * hidden**2 + 3 * hidden * wide) + 2 * hidden * sizes["vocab_size"]


def table(sizes: Mapping[str, Any], shapes: Iterable[str]) -> list[dict[str, Any]]:
    """The rows of the shapes in both precisions, printed as they come."""
    print(f"{sizes['num_hidden_layers']} layers of {sizes['hidden_size']}, {sizes['vocab_size']:,} tokens\n{HEADING}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for shape in shapes:
            for dtype in DTYPES:
                rows += (found := measure(sizes, shape, dtype, Path(name)))
                show(found)
                gc.collect()
    return rows


def main() -> None:
    asked = [word for word in sys.argv[1:] if not word.startswith("--")]
    torch.set_num_threads(threads := 1 if BUSY else cores())
    print(f"{cpu_name()}, {threads} threads, torch {torch.__version__}{', processor time' * BUSY}")
    if "--deep" in sys.argv:
        table(DEEP, asked or DEEP_SHAPES)
        return
    rows = table(SIZES, asked or SHAPES)
    if not asked:
        deep = {"model": DEEP, "rows": table(DEEP, DEEP_SHAPES)}
        document = {"cpu": cpu_name(), "threads": threads, "torch": torch.__version__, "model": SIZES, "rows": rows,
                    "deep": deep}  # fmt: skip
        if not BUSY:
            RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
