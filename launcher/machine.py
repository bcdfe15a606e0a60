# pyright: reportUnknownMemberType=false
# (the NVML bindings have no types)
"""This machine as a catalogue: what it offers at $0."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from functools import cache
from pathlib import Path

import psutil

from jobs.offer import Offer

GIB = 1024**3


@cache
def host_name() -> str:
    return socket.gethostname()


def gpus() -> list[tuple[str, float]]:
    """Name and memory (GiB) of each NVIDIA GPU here, read through NVML; empty where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        found: list[tuple[str, float]] = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            found.append((str(pynvml.nvmlDeviceGetName(handle)), float(memory.total) / GIB))
        return found
    finally:
        pynvml.nvmlShutdown()


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
