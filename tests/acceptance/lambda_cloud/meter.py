"""What the fake cloud charges: it judges the ledger, and knows nothing of it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

BILLING_UNIT_S = 60


@dataclass(frozen=True)
class Reading:
    """One instance. Times are epoch seconds of the cloud's clock; None where that has not come.

    Attributes:
        billed_s: healthy to terminate, up to whole begun minutes; an instance that never was healthy costs nothing.
        usd: `billed_s` at the price of the launch.
    """

    id: str
    name: str
    account: str
    price_cents_per_hour: int
    launched_at: float
    active_at: float | None = None
    terminated_at: float | None = None
    billed_s: int = 0
    usd: float = 0.0


class Meter:
    """Runs for each instance from healthy to terminate, by begun minute (Lambda's billing), at the launch's price."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._readings: dict[str, Reading] = {}

    def launched(self, instance_id: str, name: str, account: str, price_cents_per_hour: int) -> None:
        """The price is frozen here."""
        with self._lock:
            self._readings[instance_id] = Reading(instance_id, name, account, price_cents_per_hour, self._clock())

    def active(self, instance_id: str) -> None:
        """From here on it costs; a second call changes nothing."""
        self._set(instance_id, "active_at")

    def terminated(self, instance_id: str) -> None:
        """From here on it costs no more; a second call changes nothing."""
        self._set(instance_id, "terminated_at")

    def _set(self, instance_id: str, field: str) -> None:
        with self._lock:
            reading = self._readings[instance_id]
            if getattr(reading, field) is None:
                self._readings[instance_id] = replace(reading, **{field: self._clock()})

    def read(self) -> list[Reading]:
        """Every instance that ever was, in the order of the launches; what still runs is billed up to now."""
        with self._lock:
            return [self._billed(reading) for reading in self._readings.values()]

    def named(self, name: str) -> list[Reading]:
        """Those of one name."""
        return [reading for reading in self.read() if reading.name == name]

    def total_usd(self) -> float:
        """All of them, the running ones up to now."""
        return sum(reading.usd for reading in self.read())

    def _billed(self, reading: Reading) -> Reading:
        if reading.active_at is None:
            return reading
        end = self._clock() if reading.terminated_at is None else reading.terminated_at
        units = math.ceil(max(0.0, end - reading.active_at) / BILLING_UNIT_S)
        billed_s = units * BILLING_UNIT_S
        return replace(reading, billed_s=billed_s, usd=billed_s / 3600 * reading.price_cents_per_hour / 100)
