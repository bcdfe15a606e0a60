"""Which backend runs an offer."""

from __future__ import annotations

from collections.abc import Callable

from jobs.backends import Backend
from jobs.backends.local import LocalBackend
from jobs.clock import Clock
from jobs.home import Home
from jobs.job import Job
from jobs.offer import PricedOffer
from jobs.store import Store

BackendOf = Callable[[Home, Store, Job, PricedOffer, int, Clock], Backend]
"""Home, store, job, what is tried, the attempt's number and the clock -> the backend of that attempt."""


def backend_of(home: Home, store: Store, job: Job, choice: PricedOffer, number: int, clock: Clock) -> Backend:
    if choice.offer.cloud == "local":
        return LocalBackend(home, job.spec)
    raise NotImplementedError(choice.offer.cloud)
