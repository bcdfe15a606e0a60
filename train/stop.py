"""Why and when a run stops: a signal, the end of its driver, its deadline."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from types import FrameType
from typing import Literal

GRACE_SECONDS = 60.0


class Stop:
    """What asks the run to end after the step that is under way. Set from signal handlers and a watching thread."""

    def __init__(self, started: float, max_seconds: float | None = None) -> None:
        """`started` is the process's start on the monotonic clock; `max_seconds` counts from it."""
        self._deadline = None if max_seconds is None else started + max_seconds
        self.requested = threading.Event()
        self._steps: deque[float] = deque(maxlen=10)
        self._save_seconds = 0.5
        self.hard_exit: threading.Timer | None = None

    def install(self) -> None:
        """SIGTERM and SIGINT finish the step and save."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def watch_stdin(self) -> None:
        """Ends the run when standard input ends: a driver holds its other end, and takes the trainer with it."""
        threading.Thread(target=self._until_eof, name="stdin", daemon=True).start()

    def request(self) -> None:
        self.requested.set()

    def stepped(self, seconds: float) -> None:
        self._steps.append(seconds)

    def saved(self, seconds: float) -> None:
        self._save_seconds = seconds

    def reason(self, now: float | None = None) -> Literal["signal", "deadline"] | None:
        """Why to stop before another step, or None. Near the deadline, what a step and a save take is left free."""
        if self.requested.is_set():
            return "signal"
        return None if self.has_room(max(self._steps, default=0.0), now) else "deadline"

    def has_room(self, seconds: float, now: float | None = None) -> bool:
        """Whether something that takes `seconds` can still end, and be saved, before the deadline."""
        if self._deadline is None:
            return True
        now = time.monotonic() if now is None else now
        return now + seconds + 2 * self._save_seconds <= self._deadline

    def settled(self) -> None:
        """The step ended and its result is saved: no hard exit is needed any more."""
        if self.hard_exit is not None:
            self.hard_exit.cancel()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.request()

    def _until_eof(self) -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        self.hard_exit = threading.Timer(GRACE_SECONDS, os._exit, (1,))
        self.hard_exit.daemon = True
        self.hard_exit.start()
        self.request()
