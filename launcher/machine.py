# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportAttributeAccessIssue=false
# (the NVML bindings have no types)
"""This machine as a catalogue: what it offers at $0."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from functools import cache
from pathlib import Path
from typing import NamedTuple

import psutil

from jobs.offer import Offer

GIB = 1024**3


@cache
def host_name() -> str:
    return socket.gethostname()


class Gpus(NamedTuple):
    """NVIDIA GPUs as (name, memory in GiB), and why NVML could not say (None: it did, or there is no driver here)."""

    cards: list[tuple[str, float]]
    problem: str | None = None


def look_for_gpus() -> Gpus:
    """Asks NVML. A machine without its library has no NVIDIA driver, which is no problem."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        absent = error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
        return Gpus([], None if absent else f"NVML does not start: {error}")
    try:
        found: list[tuple[str, float]] = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            found.append((str(pynvml.nvmlDeviceGetName(handle)), float(memory.total) / GIB))
        return Gpus(found)
    except pynvml.NVMLError as error:  # a card that fell off the bus, or one without memory of its own
        return Gpus([], f"NVML cannot read the GPU: {error}")
    finally:
        pynvml.nvmlShutdown()


def gpus() -> list[tuple[str, float]]:
    """Name and memory (GiB) of each NVIDIA GPU here that can be used; empty where there is none."""
    return look_for_gpus().cards


def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def free_disk_gib(folder: Path) -> float:
    """Free space where `folder` is or will be made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / GIB


def memory_gib() -> float:
    """Physical memory, or what the control group of a container leaves of it."""
    total = psutil.virtual_memory().total
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
    except OSError:
        limit = "max"
    return min(total, int(limit) if limit.isdigit() else total) / GIB


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def offers(folder: Path, device: str = "auto") -> list[Offer]:
    """One offer with this machine's GPUs, where it has any, and one with its CPU alone. `device` narrows them."""
    cpu = Offer(
        cloud="local",
        instance_type=f"{host_name()} (CPU)",
        ram_gib=memory_gib(),
        cores=cores(),
        disk_gib=free_disk_gib(folder),
    )
    found: list[Offer] = []
    cards = gpus() if device in ("auto", "cuda") else []
    if cards:
        name, vram = min(cards, key=lambda card: card[1])
        card = {"instance_type": host_name(), "gpus": len(cards), "gpu": name, "vram_gib": vram}
        found.append(cpu.model_copy(update=card))
    if device in ("auto", "cpu"):
        found.append(cpu)
    return found
