# pyright: basic
"""The step of an 8B Llama with random weights on this machine's GPU: seconds a pair and memory of a home-made step, TRL
1.16 and this project's, and the traced peak beside the real one.

PYTHONPATH=. .venv-train/bin/python tests/bench/train_gpu.py [--tiny] [--out FILE]

In bf16 as it comes, and in NF4 with gradient checkpointing. One trainer is on the GPU at a time; the fastest of a way's
rounds counts. The weights are written to a folder and read from there as a job reads its own (some 16 GB of disk).
`limit` is the time of the FLOPs that the needed tokens take, at the rate of a matrix product of the same run. The
figures go to tests/bench/results/train_gpu.json, or FILE. `--tiny`: the same road with a small model on whatever is
here, to see that it runs; what it prints says nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.bench.case import CONFIG
from tests.bench.train_shapes import HEADING, REFERENCE_SHARE, SHAPES, needed_flop, row, rows_of, show
from tests.bench.train_ways import Setup, Way, our_trainer, our_ways, stock_trainer, stock_ways
from train.estimate import needed_gib
from train.estimate_traces import RECIPES, Work, trace_all
from train.model import load_base
from train.trace import Shape, Trace

RESULTS = Path(__file__).parent / "results" / "train_gpu.json"
TINY = CONFIG | {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
                 "num_key_value_heads": 2, "vocab_size": 1024}  # fmt: skip
ROUNDS = 2
"""After the first step, in which memory is looked at."""
SIDE = 8192
KINDS = {"bf16": (None, False, "16bit-lora"), "nf4": ("nf4", True, "nf4-qlora-ckpt")}
"""Quantization, gradient checkpointing, and what an estimate calls that."""
LENGTHS = (512, 1024, 2048, 4096)
TRACED = ("16bit-lora", "16bit-lora-ckpt", "nf4-qlora", "nf4-qlora-ckpt")
MIB = 2**20


class Gpu:
    """What is asked of the device. Without one, times and memory are a CPU's and of no worth."""

    def __init__(self) -> None:
        self.here = torch.cuda.is_available()
        self.device: Any = "cuda" if self.here else "cpu"
        self.name = torch.cuda.get_device_name() if self.here else "no GPU"

    def seconds(self, do: Callable[[], Any]) -> float:
        self.wait()
        started = time.perf_counter()
        do()
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        if self.here:
            torch.cuda.synchronize()

    def peak_mib(self, do: Callable[[], Any]) -> float:
        """Of what the allocator had given out, the model included."""
        if not self.here:
            do()
            return 0.0
        torch.cuda.reset_peak_memory_stats()
        do()
        return torch.cuda.max_memory_allocated() / MIB

    def clear(self) -> None:
        gc.collect()
        if self.here:
            torch.cuda.empty_cache()

    def product_rate(self, side: int) -> float:
        """FLOP/s of a bf16 matrix product."""
        one, other = (torch.randn(side, side, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        return 2 * side**3 / min(self.seconds(lambda: one @ other) for _ in range(20))


@contextmanager
def anonymous_memory() -> Iterator[dict[str, float]]:
    """`peak_mib`: the most of this process's own memory meanwhile; pages of files, which the system takes back, not."""

    def now() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))

    found = {"before_mib": now(), "peak_mib": 0.0}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            found["peak_mib"] = max(found["peak_mib"], now())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def write_model(config: dict[str, Any], folder: Path, device: str) -> None:
    """A Llama with random weights in bf16, in shards as large models come in."""
    with torch.device(device):
        LlamaForCausalLM._from_config(LlamaConfig(**config), dtype=torch.bfloat16).save_pretrained(
            folder, max_shard_size="5GB"
        )


class Weights:
    """The folder that `write_model` made. How it is read in each time, `measured` keeps."""

    def __init__(self, gpu: Gpu, base: Path) -> None:
        self.gpu, self.base = gpu, base
        self.largest_shard_mib = round(max(path.stat().st_size for path in base.glob("*.safetensors")) / MIB)
        self.measured: list[dict[str, Any]] = []

    def read(self, quantization: str | None) -> Any:
        """The model, by the trainer's own function."""
        self.gpu.clear()
        loaded: list[Any] = []
        with anonymous_memory() as memory:
            took = self.gpu.seconds(lambda: loaded.append(load_base(self.base, "bf16", quantization, self.gpu.device)))
        self.measured.append({
            "weights": quantization or "bf16", "seconds": round(took, 1), "largest_shard_mib": self.largest_shard_mib,
            "host_mib": round(memory["peak_mib"] - memory["before_mib"]),
        })  # fmt: skip
        print(self.measured[-1], flush=True)
        return loaded.pop()

    def setup(self, quantization: Any, checkpointing: bool) -> Setup:
        return Setup(lambda: self.read(quantization), "bf16", self.gpu.device, quantization, checkpointing)


def measure_way(gpu: Gpu, way: Way, pairs: int) -> tuple[float, float, float]:
    """Seconds a pair, of which of a whole reference pass, and the step's peak in MiB."""
    peak = gpu.peak_mib(way.step)  # which warms up too
    step = min(gpu.seconds(way.step) for _ in range(ROUNDS)) / pairs
    reference = min(gpu.seconds(way.reference) for _ in range(ROUNDS)) / pairs if way.reference else 0.0
    return step + REFERENCE_SHARE * reference, reference, peak


class Table:
    """The rows of the steps of one kind of weights, by shape."""

    def __init__(self, gpu: Gpu, kind: str, config: dict[str, Any], shapes: dict[str, Any]) -> None:
        self.gpu, self.kind, self.config, self.shapes = gpu, kind, config, shapes
        self.rate = gpu.product_rate(min(SIDE, 2 * config["hidden_size"]))
        self.found: dict[str, list[dict[str, Any]]] = {shape: [] for shape in shapes}

    def add(self, ways: Callable[..., dict[str, Way]], trainer: Any) -> None:
        for shape, lengths in self.shapes.items():
            for name, way in ways(trainer, rows_of(lengths, self.config["vocab_size"])).items():
                took, reference, peak = measure_way(self.gpu, way, len(lengths))
                more = {"reference_seconds_per_pair": round(reference, 4)}
                self.found[shape].append(row(shape, name, self.kind, took, peak) | more)

    def whole(self) -> list[dict[str, Any]]:
        """All of them, with the limit of each shape; shown."""
        for shape, lengths in self.shapes.items():
            limit = needed_flop(self.config, lengths) / self.rate / len(lengths)
            self.found[shape].append(row(shape, "limit", self.kind, limit, None))
            show(self.found[shape])
        return [one for rows in self.found.values() for one in rows]


def pairs_of(length: int) -> list[Shape]:
    """A pair: three quarters of it prompt, and one that is nothing but completions, which needs the most."""
    return [Shape(1, length, prompt) for prompt in (3 * length // 4, 1)]


def measure_memory(
    gpu: Gpu, name: str, trainer: Any, vocabulary: int, traced: dict[Work, Trace]
) -> list[dict[str, Any]]:
    """The real peak of a step of an option beside the traced one and the need that an estimate names."""
    found = []
    for (recipe, shape), trace in traced.items():
        if recipe != RECIPES[name][1]:
            continue
        lengths = (shape.prompt, shape.completion, shape.completion)
        (way,) = our_ways(trainer, rows_of([lengths], vocabulary)).values()
        gpu.clear()
        real = gpu.peak_mib(way.step)
        found.append({
            "option": name, "tokens": shape.length, "prompt": shape.prompt, "traced_mib": round(trace.peak_bytes / MIB),
            "real_mib": round(real), "ratio": round(trace.peak_bytes / MIB / real, 3) if real else None,
            "needed_mib": round(needed_gib(trace.peak_bytes) * 1024),
        })  # fmt: skip
        print(found[-1], flush=True)
    return found


def traces(config: dict[str, Any], lengths: tuple[int, ...]) -> dict[Work, Trace]:
    """Of every option and shape, by another process, which sees no GPU as an estimate does not."""
    work = [(RECIPES[name][1], shape) for name in TRACED for length in lengths for shape in pairs_of(length)]
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        found = other.submit(trace_all, LlamaConfig(**config), work).result()
    os.environ.pop("CUDA_VISIBLE_DEVICES") if seen is None else os.environ.update(CUDA_VISIBLE_DEVICES=seen)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    config = TINY if given.tiny else CONFIG
    shapes = dict(list(SHAPES.items())[: 1 if given.tiny else None])
    traced = traces(config, LENGTHS[:1] if given.tiny else LENGTHS)
    gpu = Gpu()
    document: dict[str, Any] = {"gpu": gpu.name, "torch": torch.__version__, "model": config, "steps": [], "memory": []}

    def keep() -> None:
        if not given.tiny:
            given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    print(f"{gpu.name}, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        base, out = Path(name) / "base", Path(name)
        write_model(config, base, gpu.device)
        weights = Weights(gpu, base)
        document["loading"] = weights.measured
        for kind, (quantization, checkpointing, option) in KINDS.items():
            setup, table = weights.setup(quantization, checkpointing), Table(gpu, kind, config, shapes)
            table.add(stock_ways, stock_trainer(setup, out))
            ours = our_trainer(setup, out)
            table.add(our_ways, ours)
            print(HEADING)
            document["steps"] += table.whole()
            document["memory"] += measure_memory(gpu, option, ours, config["vocab_size"], traced)
            del ours
            keep()
        for option in sorted(set(TRACED) - {option for _, _, option in KINDS.values()}):
            recipe = RECIPES[option][1]
            ours = our_trainer(weights.setup(recipe.quantization, recipe.gradient_checkpointing), out)
            document["memory"] += measure_memory(gpu, option, ours, config["vocab_size"], traced)
            del ours
            keep()


if __name__ == "__main__":
    main()
