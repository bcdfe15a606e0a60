"""What is known of GPUs by their data sheets, under the names that catalogues and drivers give them. Data."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Literal

from jobs.offer import Rate

OLDEST = (7, 0)
"""The oldest compute capability (Volta) that the trainer has pins for. One set is not enough: torch's wheels for CUDA
12.8 and later have no kernels for Volta, and those for CUDA 12.6, which have, have none for Blackwell: jobs/pins."""

EFFICIENCY = 0.35
"""Of the peak, what a LoRA step of an 8B model is assumed to reach, until a run on that GPU says better. Measured on an
H100 in bf16: 0.34 to 0.37 with pairs of over 2,000 tokens, 0.18 with 640 (tests/bench/results/train_gpu.json)."""
LOW, HIGH = 0.6, 2.0
"""Range of the hours that follow: an assumption deserves a wide one."""

SHEETS = datetime(2026, 11, 1, tzinfo=UTC)
"""When the data sheets were read."""


@dataclass(frozen=True)
class Gpu:
    """Peaks are dense tensor-core TFLOP/s with 32-bit accumulation; bf16 is None where the GPU has none.

    `vram_gib` is what it is sold as, `usable_gib` the least that CUDA reports of one: the driver and error correction
    keep the rest. From what PyTorch says when memory runs out ("has a total capacity of"), as people posted it.
    """

    name: str
    vram_gib: float
    usable_gib: float
    compute_capability: tuple[int, int]
    bf16_tflops: float | None
    fp16_tflops: float
    bandwidth_gb_s: float
    source: str
    arch: Literal["x86_64", "arm64"] = "x86_64"
    aliases: tuple[str, ...] = ()


_NVIDIA = "nvidia.com/en-us"
TABLE = (
    Gpu("V100", 16, 15.7, (7, 0), None, 125, 900, f"{_NVIDIA}/data-center/v100", aliases=("Tesla V100-SXM2-16GB",)),
    Gpu("V100-32GB", 32, 31.7, (7, 0), None, 125, 900, f"{_NVIDIA}/data-center/v100",
        aliases=("Tesla V100-SXM2-32GB",)),
    Gpu("T4", 16, 14.5, (7, 5), None, 65, 320, f"{_NVIDIA}/data-center/tesla-t4", aliases=("Tesla T4",)),
    Gpu("RTX6000", 24, 23.6, (7, 5), None, 130.5, 672, "NVIDIA Turing GPU architecture, WP-09183-001",
        aliases=("Quadro RTX 6000",)),
    Gpu("A10", 24, 22.0, (8, 6), 125, 125, 600, f"{_NVIDIA}/data-center/products/a10-gpu", aliases=("NVIDIA A10",)),
    Gpu("A10G", 24, 22.0, (8, 6), 70, 70, 600, "NVIDIA A10G data sheet (aws.amazon.com/ec2/instance-types/g5)",
        aliases=("NVIDIA A10G",)),
    Gpu("A6000", 48, 44.3, (8, 6), 154.8, 154.8, 768, "NVIDIA Ampere GA102 GPU architecture, V2.1",
        aliases=("RTX A6000", "NVIDIA RTX A6000", "RTXA6000")),
    Gpu("A100", 40, 39.3, (8, 0), 312, 312, 1555, f"{_NVIDIA}/data-center/a100",
        aliases=("A100-40GB", "NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB")),
    Gpu("A100-80GB", 80, 79.1, (8, 0), 312, 312, 2039, f"{_NVIDIA}/data-center/a100",
        aliases=("A100-80GB-SXM", "NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe")),
    Gpu("L4", 24, 21.9, (8, 9), 121, 121, 300, f"{_NVIDIA}/data-center/l4", aliases=("NVIDIA L4",)),
    Gpu("L40S", 48, 44.3, (8, 9), 362, 362, 864, f"{_NVIDIA}/data-center/l40s", aliases=("NVIDIA L40S",)),
    Gpu("H100", 80, 79.1, (9, 0), 989, 989, 3350, f"{_NVIDIA}/data-center/h100",
        aliases=("H100-SXM", "H100-80GB", "NVIDIA H100 80GB HBM3")),
    Gpu("H100-PCIe", 80, 79.1, (9, 0), 756, 756, 2000, f"{_NVIDIA}/data-center/h100", aliases=("NVIDIA H100 PCIe",)),
    Gpu("H200", 141, 139.7, (9, 0), 989, 989, 4800, f"{_NVIDIA}/data-center/h200", aliases=("NVIDIA H200",)),
    Gpu("GH200", 96, 94.5, (9, 0), 989, 989, 4000, f"{_NVIDIA}/data-center/grace-hopper-superchip", "arm64",
        ("NVIDIA GH200 480GB",)),
    Gpu("B200", 180, 178.0, (10, 0), 2250, 2250, 8000, f"{_NVIDIA}/data-center/dgx-b200", aliases=("NVIDIA B200",)),
    Gpu("RTX 3090", 24, 23.6, (8, 6), 71, 71, 936, "NVIDIA Ampere GA102 GPU architecture, V2.1"),
    Gpu("RTX 4090", 24, 23.5, (8, 9), 165.2, 165.2, 1008, "NVIDIA Ada GPU architecture, V2.02"),
    Gpu("RTX 5070", 12, 11.5, (12, 0), 61.7, 61.7, 672, "NVIDIA RTX Blackwell GPU architecture, V1.1"),
    Gpu("RTX 5090", 32, 31.3, (12, 0), 209.5, 209.5, 1792, "NVIDIA RTX Blackwell GPU architecture, V1.1"),
)  # fmt: skip

_NOISE = re.compile(r"nvidia|geforce|[\s_-]+")


def _plain(name: str) -> str:
    return _NOISE.sub("", name.casefold())


_BY_NAME = {_plain(name): gpu for gpu in TABLE for name in (gpu.name, *gpu.aliases)}


@cache
def find(name: str) -> Gpu | None:
    """The GPU that a catalogue, a driver or a person calls so, or None."""
    return _BY_NAME.get(_plain(name))


UNKNOWN_USABLE = 0.9
"""Of the memory that a GPU is sold with, what is counted on where the GPU is not in the table."""


def usable_gib(name: str | None, vram_gib: float) -> float:
    """Of `vram_gib`, as a catalogue or a driver has it, what a process on such a GPU can have."""
    card = find(name) if name else None
    return min(vram_gib, card.usable_gib) if card else UNKNOWN_USABLE * vram_gib


def smallest_usable(sold_as_gb: int) -> float:
    """What a process can have on any GPU in the table that is sold with so many GB."""
    return min(gpu.usable_gib for gpu in TABLE if gpu.vram_gib == sold_as_gb)


def nearest(name: str) -> str | None:
    """The name in the table that is spelled most like it, or None."""
    close = difflib.get_close_matches(_plain(name), list(_BY_NAME), n=1, cutoff=0.5)
    return _BY_NAME[close[0]].name if close else None


def rate_of(gpu: Gpu, precision: str) -> Rate:
    """What its data sheet lets expect, until a run on one says better."""
    peak = gpu.bf16_tflops if precision == "bf16" and gpu.bf16_tflops else gpu.fp16_tflops
    return Rate(
        device="cuda",
        name=gpu.name,
        precision=precision,
        flop_per_s=peak * 1e12 * EFFICIENCY,
        basis=f"{peak:g} TFLOP/s by the data sheet of {gpu.name} ({gpu.source}), {EFFICIENCY:.0%} of it assumed; "
        "no run on one yet",
        source="sheet",
        measured_at=SHEETS,
        low=LOW,
        high=HIGH,
    )


# AWS asked users to move off p3 by December 2025; SkyPilot's catalogue dropped its rows in July 2026.
RETIRED = {
    "p3": "AWS has retired p3 (V100). What replaces it: g6e.xlarge (L40S, 48 GB) or g5.xlarge (A10G, 24 GB); A100 "
    "comes only as p4d and p4de with 8 GPUs, H100 as p5."
}


RETIRED_WITH = {"V100": "p3", "V100-32GB": "p3"}
"""GPUs that a cloud had in retired types alone."""


def retired_with(gpu: Gpu) -> str | None:
    """Why a GPU is found no more, where it went with an instance type; None for any other."""
    return RETIRED.get(RETIRED_WITH.get(gpu.name, ""))


def retired(instance_type: str) -> str | None:
    """Why an instance type cannot be had any more, and what replaces it; None for any other."""
    return RETIRED.get(re.split(r"[.d]", instance_type, maxsplit=1)[0])
