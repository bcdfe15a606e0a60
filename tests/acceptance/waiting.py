"""Waits for something that the world does, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_S = 0.02


def until(reached: Callable[[], bool], what: str, *, seconds: float = 120, poll_s: float = POLL_S) -> None:
    """Returns when `reached()`; fails the test, naming `what`, when it does not come."""
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come within {seconds:g} s")
        time.sleep(poll_s)  # how often the world is looked at; nothing is assumed to have happened after it
