# pyright: basic
"""Seconds a pair and peak memory of a DPO step on this CPU: a home-made step, TRL 1.16, and this project's.

`make bench-train`, or PYTHONPATH=. .venv-train/bin/python tests/bench/train_speed.py [--busy] [SHAPE ...]

In one process, on the same threads; the ways take turns, and the fastest of their rounds counts, since other work on
the machine only adds. On a machine that others keep busy, `--busy` takes one thread and the processor's time in place
of the clock's, and saves nothing. The model is a random Llama of 4 layers of width 768 with 16,000 tokens
(tests/bench/train_ways.py); gradient checkpointing is off everywhere (TRL turns it on by default, which takes longer).
Where the reference can be kept, its pass counts half, as over two epochs. `limit` is the time of the FLOPs that the
needed tokens take, at the rate of the fastest matrix product of the same run.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.bench.allocator import peak_of
from tests.bench.train_ways import DTYPES, SIZES, Way, ways
from train.cores import cores
from train.rate import cpu_name
from train.rows import Row

RESULTS = Path(__file__).parent / "results" / "train_cpu.json"
ROUNDS = 2
"""After the first step, in which memory is looked at."""
SHAPES: dict[str, list[tuple[int, int, int]]] = {
    "384/128/128": [(384, 128, 128)],
    "1500/300/300": [(1500, 300, 300)],
    "3000/400/400": [(3000, 400, 400)],
    # Medians of 67 visits, note against note with other numbers, in tokens of the BPE that visit_pairs.py trains.
    "aci_bench": [(1705, 668, 670)],
    # The sample project's first batch.
    "demo": [(34, 25, 28), (38, 30, 27), (34, 25, 25), (40, 27, 30), (38, 30, 26), (39, 30, 26), (37, 26, 27),
             (35, 30, 26)],
}  # fmt: skip
"""(prompt, chosen, rejected) tokens of the pairs of a batch."""
SIDE = 2048
REFERENCE_SHARE = 0.5
BUSY = "--busy" in sys.argv


def rows_of(lengths: list[tuple[int, int, int]]) -> list[Row]:
    draw = random.Random(0)
    parts = [[[draw.randrange(2, SIZES["vocab_size"]) for _ in range(n)] for n in pair] for pair in lengths]
    return [Row(prompt_ids=prompt, chosen_ids=chosen, rejected_ids=rejected) for prompt, chosen, rejected in parts]


def needed_flop(lengths: list[tuple[int, int, int]]) -> float:
    """Of a step and half a reference pass: frozen weights are multiplied forward, and backward for their inputs.

    Tokens of the prompt once; attention's products are two forward and four backward, under the causal mask.
    """
    hidden, layers = SIZES["hidden_size"], SIZES["num_hidden_layers"]
    a_token = 2 * layers * (4 * hidden**2 + 3 * hidden * SIZES["intermediate_size"])
    a_label = 2 * hidden * SIZES["vocab_size"]
    flop = 0.0
    for prompt, chosen, rejected in lengths:
        tokens, labels = prompt - 1 + chosen + rejected, chosen + rejected
        seen = prompt**2 / 2 + sum(prompt * completion + completion**2 / 2 for completion in (chosen, rejected))
        product = 2 * layers * hidden * seen
        forward = tokens * a_token + labels * a_label + 2 * product
        flop += forward * (1 + REFERENCE_SHARE) + tokens * a_token + labels * a_label + 4 * product
    return flop


def product_rate(dtype: torch.dtype) -> float:
    """FLOP/s of a matrix product as large as the model's, which is done again and again for the best."""
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


def measure(shape: str, dtype: str, folder: Path) -> list[dict[str, Any]]:
    """The rows of a shape in a precision."""
    lengths = SHAPES[shape]
    every = ways(dtype, rows_of(lengths), folder)
    weights = DTYPES[dtype].itemsize * parameters()
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
    found.append(row(shape, "limit", dtype, needed_flop(lengths) / rate / len(lengths), None))
    return found


def parameters() -> int:
    hidden, wide = SIZES["hidden_size"], SIZES["intermediate_size"]
    return SIZES["num_hidden_layers"] * (4 * hidden**2 + 3 * hidden * wide) + 2 * hidden * SIZES["vocab_size"]


def row(shape: str, variant: str, dtype: str, took: float, peak: float | None) -> dict[str, Any]:
    peak = None if peak is None else round(peak)
    return {"shape": shape, "variant": variant, "dtype": dtype, "seconds_per_pair": round(took, 4), "peak_mib": peak}


def show(rows: list[dict[str, Any]]) -> None:
    home, limit = (
        next(one["seconds_per_pair"] for one in rows if one["variant"] == name) for name in ("home_made", "limit")
    )
    for one in rows:
        took, peak = one["seconds_per_pair"], one["peak_mib"]
        reference = one.get("reference_seconds_per_pair") or ""
        print(
            f"{one['shape']:<13} {one['dtype']:<5} {one['variant']:<16} {took:>9.4f} {reference:>9} "
            f"{home / took:>7.2f} {limit / took:>7.0%} {'' if peak is None else peak:>7}",
            flush=True,
        )


def main() -> None:
    shapes = [word for word in sys.argv[1:] if word != "--busy"] or list(SHAPES)
    torch.set_num_threads(threads := 1 if BUSY else cores())
    print(f"{cpu_name()}, {threads} threads, torch {torch.__version__}{', processor time' * BUSY}")
    print(f"{'shape':<13} {'dtype':<5} {'variant':<16} {'s a pair':>9} {'reference':>9} {'x home':>7} {'limit':>7} MiB")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for shape in shapes:
            for dtype in DTYPES:
                rows += (found := measure(shape, dtype, Path(name)))
                show(found)
                gc.collect()
    if shapes == list(SHAPES) and not BUSY:
        document = {"cpu": cpu_name(), "threads": threads, "torch": torch.__version__, "model": SIZES, "rows": rows}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
