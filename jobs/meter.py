"""How far a long call is, for people who watch: not written down oftener than they read it, and how fast it goes."""

from __future__ import annotations

from jobs.clock import Clock
from jobs.job import PhaseProgress
from jobs.lease import DriverWrites

PROGRESS_EVERY_S = 2.0


class Meter:
    def __init__(self, write: DriverWrites, clock: Clock) -> None:
        self._write, self._clock = write, clock
        self._said_at = float("-inf")
        self._first: tuple[str, float, float] | None = None

    def __call__(self, phase: PhaseProgress) -> bool:
        """Writes it into store and log, if it is time to. Whether it was."""
        now = self._clock.monotonic()
        phase = self._with_speed(phase, now)
        if now - self._said_at < PROGRESS_EVERY_S:
            return False
        self._said_at = now
        print(f"{phase.name} {phase.done:,.0f} {phase.unit}" if phase.total else phase.name, flush=True)
        self._write.phase(phase)
        return True

    def _with_speed(self, phase: PhaseProgress, now: float) -> PhaseProgress:
        """Bytes a second since the first that was heard of this call: what was there before it took no time."""
        if phase.unit != "bytes":
            return phase
        if self._first is None or self._first[0] != phase.name or phase.done < self._first[2]:
            self._first = (phase.name, now, phase.done)
        _, began, done = self._first
        return phase.model_copy(update={"per_s": (phase.done - done) / (now - began)}) if now > began else phase
