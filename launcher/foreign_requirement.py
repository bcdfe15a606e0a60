"""Reads what other calculators write: one figure of memory under a usual name, without FLOPs, so without a duration."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from artifacts.errors import UsageProblem
from jobs import gpus as table
from train.requirement import Option, TrainerChoice

NESTED = ("hardware", "requirements", "estimate")
VRAM = ("min_vram_gb", "vram_required_gb", "gpu_memory_gb", "required_vram_gb", "min_vram", "min_vram_gib", "vram_gb")
RAM = ("min_ram_gb", "ram_gb", "min_ram", "system_ram_gb", "required_ram_gb")
DISK = ("min_disk_gb", "disk_gb", "min_disk", "storage_gb", "required_disk_gb")
GPUS = ("num_gpus", "gpu_count", "gpus")
GPU = ("gpu", "gpu_name", "gpu_type", "recommended_gpu", "accelerator")

BYTES = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
SIZE = re.compile(r"\s*([0-9]+(?:[.,][0-9]+)?)\s*([kmgt]?i?b)?\s*", re.IGNORECASE)
THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
"""A comma before three digits: `12,288 MB` is no twelve megabytes. Any other is a decimal one."""
LARGEST_GIB = 100_000.0


@dataclass(frozen=True)
class MemoryOnly:
    """What a flat file says, as one option, and what was made of each of its figures."""

    option: Option
    understood: tuple[str, ...]
    warnings: tuple[str, ...]


def read_memory(document: object, path: Path) -> MemoryOnly | None:
    """The memory that `document` asks for, or None where it is no such file.

    Raises UsageProblem for a figure that cannot be, and for two that contradict each other, by key.
    """
    if not isinstance(document, dict):
        return None
    flat: dict[str, object] = {}
    for key, value in cast("dict[str, object]", document).items():
        if key in NESTED and isinstance(value, dict):
            flat |= {f"{key}.{name}": inner for name, inner in cast("dict[str, object]", value).items()}
        else:
            flat[key] = value
    understood: list[str] = []
    vram = _one(flat, VRAM, path, understood)
    if vram is None:
        return None
    ram, disk = _one(flat, RAM, path, understood), _one(flat, DISK, path, understood)
    gpus = _count(flat, path)
    known = {*VRAM, *RAM, *DISK, *GPUS, *GPU}
    option = Option(
        name=path.stem or "memory",
        device="cuda",
        gpus=gpus,
        min_vram_gib=vram,
        min_ram_gib=ram or 0.0,
        min_disk_gib=disk or 0.0,
        basis={"memory": f"{path.name}: " + "; ".join(understood)},
        trainer=TrainerChoice(precision="16bit"),
    )
    warnings = [f"{path.name}: {key} is not known, and is not used." for key in flat if _name(key) not in known]
    return MemoryOnly(option, tuple(understood), (*_named_gpus(flat, path), *warnings))


def _name(key: str) -> str:
    return key.rpartition(".")[2].casefold()


def _one(flat: Mapping[str, object], names: tuple[str, ...], path: Path, understood: list[str]) -> float | None:
    found = {key: _gib(key, value, path) for key, value in flat.items() if _name(key) in names}
    if not found:
        return None
    (first, size), *others = found.items()
    for key, other in others:
        if not math.isclose(other, size, rel_tol=0.01):
            raise UsageProblem(
                f"The requirement file {path} contradicts itself: {first} is {flat[first]!r}, {key} is {flat[key]!r}.",
                next_step=f"remove the wrong one from {path.name}.",
            )
    understood.append(f"{first} {flat[first]!r} is {size:.2f} GiB")
    return size


def _gib(key: str, value: object, path: Path) -> float:
    """GB and GiB are not the same; a bare number is in the unit that its name ends with, else in GB."""
    said = THOUSANDS.sub("", str(value)) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
    match = SIZE.fullmatch(said)
    if match is None:
        raise _nonsense(path, key, value, 'is not a size; write it as "28 GB" or "26 GiB"')
    suffix = _name(key).rpartition("_")[2]
    unit = (match[2] or (suffix if suffix in BYTES else "gb")).casefold()
    size = float(match[1].replace(",", ".")) * BYTES[unit] / 2**30
    if not match[2] and suffix not in BYTES and size > 1000:
        raise _nonsense(path, key, value, f'has no unit, and {value} GB cannot be meant; write "{value} MB"')
    if not 0 < size < LARGEST_GIB:
        raise _nonsense(path, key, value, "cannot be")
    return size


def _count(flat: Mapping[str, object], path: Path) -> int:
    for key, value in flat.items():
        if _name(key) in GPUS:
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 1024:
                raise _nonsense(path, key, value, "is not a number of GPUs")
            return value
    return 1


def _named_gpus(flat: Mapping[str, object], path: Path) -> list[str]:
    """What to type for a GPU that the file names: the memory decides, and any GPU that has it will do."""
    said: list[str] = []
    for key, value in flat.items():
        if _name(key) in GPU and value is not None:
            if table.find(str(value)) is None:
                close = table.nearest(str(value))
                raise _nonsense(path, key, value, "is no known GPU" + (f" (did you mean {close}?)" if close else ""))
            flag = f"--gpu {shlex.quote(str(value))}"
            said.append(f"{path.name}: {key} {value} is not used, since any GPU with the memory will do; or: {flag}")
    return said


def _nonsense(path: Path, key: str, value: object, why: str) -> UsageProblem:
    return UsageProblem(f"The requirement file {path}: {key}: {value!r} {why}.", next_step=f"correct {key} in it.")
