"""Notices when this process waits for its own memory on a disk: a step then takes hours, and nothing else says why.

Of Linux: what of the process lies in swap (VmSwap), its major page faults, and the processor time that it gets
(proc(5), /proc/PID/status and /proc/PID/stat). All three are needed: what was swapped out once and is never touched
again costs nothing, and reading weights in is major faults too. Needs no torch.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from train.errors import TrainError

WINDOW_S = 60.0
LOOKS = 12
"""Looks at /proc in a window."""
LEAST_SWAPPED_MIB = 64.0
FAULTS_A_SECOND = 30.0
"""A disk with moving heads does a hundred reads a second."""
BUSY = 0.5
"""Of one core, in user mode: a step that computes uses more."""


@dataclass(frozen=True)
class Look:
    """At one moment (seconds, monotonic): major faults and user-mode seconds so far, MiB of the process in swap."""

    at: float
    major_faults: int
    user_s: float
    swapped_mib: float


def look(process: Path = Path("/proc/self")) -> Look:
    # The name, in brackets, may have blanks; of what follows it, majflt is the 10th field and utime the 12th.
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    status = (process / "status").read_text()
    swapped = next((line.split()[1] for line in status.splitlines() if line.startswith("VmSwap:")), "0")
    return Look(time.monotonic(), int(fields[9]), int(fields[11]) / os.sysconf("SC_CLK_TCK"), int(swapped) / 1024)


def thrashing(first: Look, last: Look) -> bool:
    """Whether the process mostly waited for swapped memory between the two."""
    seconds = last.at - first.at
    return (
        min(first.swapped_mib, last.swapped_mib) >= LEAST_SWAPPED_MIB
        and (last.major_faults - first.major_faults) / seconds >= FAULTS_A_SECOND
        and (last.user_s - first.user_s) / seconds < BUSY
    )


@contextlib.contextmanager
def swap_watched(end: Callable[[TrainError], None], *, window_s: float = WINDOW_S) -> Generator[None]:
    """Calls `end` from a thread of its own, once, when a whole window was spent so. Nothing where there is no /proc."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(over, end, window_s), name="swap", daemon=True)
    if Path("/proc/self/stat").exists():
        thread.start()
    try:
        yield
    finally:
        over.set()


def _watch(over: threading.Event, end: Callable[[TrainError], None], window_s: float) -> None:
    looks: deque[Look] = deque(maxlen=LOOKS + 1)
    while not over.wait(window_s / LOOKS):
        looks.append(look())
        if len(looks) > LOOKS and thrashing(looks[0], looks[-1]):
            end(problem(looks[0], looks[-1]))
            return


def problem(first: Look, last: Look) -> TrainError:
    seconds = last.at - first.at
    return TrainError(
        f"This machine is swapping: {last.swapped_mib / 1024:.1f} GiB of the trainer's memory lie on a disk",
        f"in {seconds:.0f} s it computed for {last.user_s - first.user_s:.0f} s, and waited "
        f"{last.major_faults - first.major_faults:,} times for a page; a step would take hours",
        "end other programs, take a smaller --max-length or an option in 4 bits (launch plan dpo), or rent: "
        "--budget 5 --cloud lambda. The last checkpoint is kept",
    )
