"""The wait for a command that a backend runs: how far it is, what it warns of, and a cancellation that stops it."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.backends import Backend
from jobs.clock import Clock
from jobs.job import Attention, PhaseProgress
from jobs.lease import DriverWrites
from jobs.tail import MetricsTail

POLL_S = 0.5
PROGRESS_EVERY_S = 2.0
GRACE_S = 60.0
GRACE_NOW_S = 5.0
"""After `launch cancel --now`: nothing of the run is kept, so that it need not save."""


def cancel_mode(write: DriverWrites) -> str | None:
    """How the job is to be cancelled ("pull_first" or "now"), or None."""
    mode = write.cancel_requested()
    return None if mode == "no" else mode


@dataclass(frozen=True)
class TaskWatch:
    """Watches one submitted command. `tail` reads the metrics that it writes, where it writes any."""

    backend: Backend
    write: DriverWrites
    clock: Clock
    job_id: str
    tail: MetricsTail | None

    def wait(self) -> int:
        """Until the command ends, by itself or stopped by a cancellation. Its exit status."""
        shown_at, fresh, noticed = float("-inf"), False, 0
        while True:
            status = self.backend.poll(POLL_S)
            if self.tail is not None:
                fresh = self.tail.read() or fresh
                due = status is not None or self.clock.monotonic() - shown_at >= PROGRESS_EVERY_S
                if fresh and due:
                    self._show(self.tail)
                    shown_at, fresh = self.clock.monotonic(), False
                if len(self.tail.notices) > noticed:
                    self._notice(self.tail, noticed)
                noticed = len(self.tail.notices)
            if status is not None:
                return status
            mode = cancel_mode(self.write)
            if mode is not None:
                self.backend.stop(GRACE_NOW_S if mode == "now" else GRACE_S)

    def _show(self, tail: MetricsTail) -> None:
        progress = tail.progress(self.clock.now())
        assert progress is not None
        self.write.progress(progress)
        self.write.phase(PhaseProgress(name="training", done=progress.step, total=progress.max_steps, unit="steps"))

    def _notice(self, tail: MetricsTail, since: int) -> None:
        for notice in tail.notices[since:]:
            print(f"step {notice.step}: {notice.message}", flush=True)
            if notice.code == "displaced":
                self.write.set_attention(Attention(code="displaced", command=f"launch logs {self.job_id}"))
