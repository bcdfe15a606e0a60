# pyright: basic
"""A process that waits for its own memory on a disk is said to, and one that computes or reads files is not."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import train
from train.swap import Look, thrashing

CGROUPS = Path("/sys/fs/cgroup/memory")
LIMIT_MIB = 96
USES = """
import sys, threading, time
from train.swap import swap_watched

said = []
over = threading.Event()
def end(problem):
    said.append(problem)
    over.set()

with swap_watched(end, window_s=3):
    memory = bytearray(int(sys.argv[1]) * 2**20)
    until = time.monotonic() + float(sys.argv[2])
    while not over.is_set() and time.monotonic() < until:
        for page in range(0, len(memory), 4096):
            memory[page] = 1
            if page % 2**22 == 0 and (over.is_set() or time.monotonic() > until):
                break
print(said[0] if said else "nothing to say")
"""


def obstacle() -> str | None:
    if os.geteuid() != 0:
        return "a swap file and a limit of memory need root"
    if not (CGROUPS / "memory.limit_in_bytes").exists():
        return "no control group (v1) of memory here that could be limited"
    return None


@contextlib.contextmanager
def little_memory(folder: Path) -> Iterator[Path]:
    """A control group of 96 MiB, and a swap file."""
    file, group = folder / "swap", CGROUPS / f"launch-test-{uuid.uuid4().hex[:8]}"
    file.touch(mode=0o600)
    with file.open("r+b") as opened:
        os.posix_fallocate(opened.fileno(), 0, 512 * 2**20)
    subprocess.run(["mkswap", file], check=True, capture_output=True)
    subprocess.run(["swapon", file], check=True)
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(LIMIT_MIB * 2**20))
        yield group
    finally:
        group.rmdir()
        subprocess.run(["swapoff", file], check=True)


def used(mib: int, seconds: float, group: Path | None = None) -> str:
    """What is said by a process that walks through so much memory for so long."""
    enter = (lambda: (group / "cgroup.procs").write_text("0")) if group else None
    environ = os.environ | {"PYTHONPATH": str(Path(train.__file__).parent.parent), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", USES, str(mib), str(seconds)], env=environ, preexec_fn=enter, check=True,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.stdout


@pytest.mark.skipif(obstacle() is not None, reason=str(obstacle()))
def test_real_swapping_is_noticed_and_memory_that_fits_is_not(tmp_path: Path) -> None:
    with little_memory(tmp_path) as group:
        said = used(3 * LIMIT_MIB, 60, group)
        assert "This machine is swapping: 0." in said
        assert "GiB of the trainer's memory lie on a disk" in said
        assert used(LIMIT_MIB // 2, 6, group) == "nothing to say\n"
    assert used(3 * LIMIT_MIB, 6) == "nothing to say\n"


@pytest.mark.parametrize(
    ("last", "why"),
    [
        (Look(60, 100_000, 3, 0), "weights are read from a file"),
        (Look(60, 100_000, 100, 900), "it computes all the same"),
        (Look(60, 20, 3, 900), "what lies in swap is not touched"),
    ],
)
def test_what_looks_like_it_and_is_not(last: Look, why: str) -> None:
    assert not thrashing(Look(0, 0, 0, last.swapped_mib), last), why
    assert thrashing(Look(0, 0, 0, 900), Look(60, 100_000, 3, 900))
