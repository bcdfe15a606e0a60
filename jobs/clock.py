"""Time, as a parameter: budgets, deadlines and leases are tested in simulated time."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """The wall clock, aware, in UTC: for what people read."""
        ...

    def monotonic(self) -> float:
        """Seconds from some start, never set back, suspended time included where the system can: for durations."""
        ...

    def sleep(self, seconds: float) -> None:
        """Lets time pass: between two looks at the world, never instead of one."""
        ...


class SystemClock:
    """This machine's clocks. Linux has a boot-time clock that goes on through suspend; elsewhere the monotonic one."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        boot_time = getattr(time, "CLOCK_BOOTTIME", None)
        return time.monotonic() if boot_time is None else time.clock_gettime(boot_time)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
