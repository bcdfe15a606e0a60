"""Work on all cores of this machine: a pool of processes that ends with the one that asks."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import connection
from pathlib import Path
from typing import Any, TypeVar

Work = TypeVar("Work")
Done = TypeVar("Done")

AHEAD = 2
"""Pieces of work a process that wait for it: enough that it never waits, and little memory."""


QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of processor time a period, and the period, of this process's control group (Linux, cgroup v2)."""


def cores() -> int:
    """Cores that this process may use: those that it may run on, within what its container's quota is worth."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = (QUOTA.read_text().strip() if QUOTA.is_file() else "max").partition(" ")
    return allowed if quota == "max" else max(1, min(allowed, int(quota) // int(period)))


def pool(processes: int, initializer: Callable[..., None], *arguments: Any) -> ProcessPoolExecutor:
    """Processes that have what was imported, which is most of the time; torch and tokenizers have no thread yet."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    return ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(initializer, *arguments))


def in_order(
    executor: ProcessPoolExecutor, processes: int, do: Callable[[Work], Done], work: Iterable[Work]
) -> Iterator[Done]:
    """`do` of each piece of work, in order; of `work` only a few pieces are read ahead. Raises what `do` does."""
    waiting: deque[Future[Done]] = deque()
    for piece in work:
        waiting.append(executor.submit(do, piece))
        if len(waiting) >= AHEAD * processes:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _begin(initializer: Callable[..., None], *arguments: Any) -> None:
    """What a process does first: it ends when the one that asks is gone, however that ended."""
    asking = multiprocessing.parent_process()
    assert asking is not None

    def end() -> None:
        connection.wait([asking.sentinel])
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()
    initializer(*arguments)
