"""The wait for a command that a backend runs: how far it is, what it warns of, and a cancellation that stops it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from jobs.backends import Backend
from jobs.clock import Clock
from jobs.job import Attention, PhaseProgress, Progress
from jobs.lease import DriverWrites
from jobs.meter import PROGRESS_EVERY_S
from jobs.tail import MetricsTail

POLL_S = 0.5
GRACE_S = 60.0
GRACE_NOW_S = 5.0
"""After `launch cancel --now`: nothing of the run is kept, so that it need not save."""

OVERTIME_S = 60.0
"""By which a command may be late for the budget's line before the driver ends it."""
MEASURED_STEPS = 10


def cancel_mode(write: DriverWrites) -> str | None:
    """How the job is to be cancelled ("pull_first" or "now"), or None."""
    mode = write.cancel_requested()
    return None if mode == "no" else mode


@dataclass(frozen=True)
class TaskWatch:
    """Watches one submitted command. `tail` reads the metrics that a training writes; an evaluation writes none."""

    backend: Backend
    write: DriverWrites
    clock: Clock
    job_id: str
    tail: MetricsTail | None

    def wait(self) -> int:
        """Until the command ends, by itself or stopped by a cancellation. Its exit status."""
        began, shown_at, fresh, noticed = self.clock.monotonic(), float("-inf"), False, 0
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
            elif self.clock.monotonic() - shown_at >= PROGRESS_EVERY_S:
                shown_at = self.clock.monotonic()
                self.write.phase(PhaseProgress(name="Stage A against Stage B", done=round(shown_at - began), unit="s"))
            if status is not None:
                return status
            left_s = self.backend.time_left_s()
            if left_s is not None and left_s < -OVERTIME_S:  # the trainer's own limit has not ended it
                self.backend.stop(GRACE_S)
                continue
            mode = cancel_mode(self.write)
            if mode is not None:
                self.backend.stop(GRACE_NOW_S if mode == "now" else GRACE_S)

    def _show(self, tail: MetricsTail) -> None:
        progress = tail.progress(self.clock.now())
        assert progress is not None
        self.write.progress(progress)
        self.write.phase(PhaseProgress(name="training", done=progress.step, total=progress.max_steps, unit="steps"))
        self._compare_with_budget(progress)

    def _compare_with_budget(self, progress: Progress) -> None:
        """After ten steps: whether the whole job is still done in the time that the money buys, or what will be."""
        left_s = self.backend.time_left_s()
        if left_s is None or progress.step < MEASURED_STEPS or progress.eta_s is None:
            return
        steps_left = progress.max_steps - progress.step
        if progress.eta_s <= left_s or not steps_left:
            self.write.clear_attention("budget_short")
            return
        reached = progress.step + int(steps_left * max(0.0, left_s) / progress.eta_s)
        self.write.set_attention(
            Attention(
                code="budget_short",
                until=progress.as_of + timedelta(seconds=left_s),
                costing=True,
                command=f"launch status {self.job_id}",
                message=f"about {reached:,} of {progress.max_steps:,} steps are reached when the budget ends it",
            )
        )

    def _notice(self, tail: MetricsTail, since: int) -> None:
        for notice in tail.notices[since:]:
            print(f"step {notice.step}: {notice.message}", flush=True)
            if notice.code == "displaced":
                self.write.set_attention(Attention(code="displaced", command=f"launch logs {self.job_id}"))
