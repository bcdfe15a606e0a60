"""Which backend runs an offer."""

from __future__ import annotations

from typing import Protocol

from jobs.backends import Backend
from jobs.backends.local import LocalBackend
from jobs.clock import Clock
from jobs.home import Home
from jobs.job import Job
from jobs.lease import DriverWrites
from jobs.offer import PricedOffer
from jobs.store import Store


class BackendOf(Protocol):
    def __call__(
        self, home: Home, store: Store, write: DriverWrites, job: Job, choice: PricedOffer, number: int, clock: Clock
    ) -> Backend:
        """The backend of attempt `number`, which tries `choice`."""
        ...


def backend_of(
    home: Home, store: Store, write: DriverWrites, job: Job, choice: PricedOffer, number: int, clock: Clock
) -> Backend:
    if choice.offer.cloud == "local":
        return LocalBackend(home, job.spec)
    # What rents is imported where something is rented: SSH and the client of SkyPilot's server.
    from jobs.backends.lambda_cloud import LambdaCloud
    from jobs.backends.rented import RentedMachine
    from jobs.skypilot import SkyPilot

    provider = LambdaCloud()
    sky = SkyPilot(home, store.store_id, lambda_key=provider.key)
    return RentedMachine(home, store, write, job, choice, number, clock, provider=provider, sky=sky)
