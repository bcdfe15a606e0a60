"""Which backend runs an offer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol

from jobs.backends import Backend
from jobs.backends.local import LocalBackend
from jobs.clock import Clock
from jobs.home import Home
from jobs.job import Job, State
from jobs.lambda_key import lambda_key
from jobs.lease import DriverWrites
from jobs.offer import Plan, PricedOffer
from jobs.store import Store


class BackendOf(Protocol):
    def __call__(
        self, home: Home, store: Store, write: DriverWrites, job: Job, choice: PricedOffer, number: int, clock: Clock
    ) -> Backend:
        """The backend of attempt `number`, which tries `choice`."""
        ...


def _with_the_jobs_key(home: Home, job: Job) -> Mapping[str, str]:
    """What a machine was rented with serves to end it, where a driver that takes over was started without a key."""
    kept = home.root / "skypilot" / ".lambda_cloud" / "lambda_keys"
    if lambda_key(os.environ) is not None or not kept.is_file():
        return os.environ
    if all(attempt.state is State.ENDED for attempt in job.attempts):
        return os.environ
    return dict(os.environ) | {"LAMBDA_API_KEY": kept.read_text().partition("=")[2].strip()}


def backend_of(
    home: Home, store: Store, write: DriverWrites, job: Job, choice: PricedOffer, number: int, clock: Clock
) -> Backend:
    if choice.offer.cloud == "local":
        return LocalBackend(home, job.spec)
    if choice.offer.cloud == "aws":
        return _on_aws(home, store, write, job, choice, number, clock)
    # What rents is imported where something is rented: SSH and the client of SkyPilot's server.
    from jobs.backends.lambda_cloud import LambdaCloud
    from jobs.backends.rented import RentedMachine
    from jobs.skypilot import SkyPilot

    provider = LambdaCloud(_with_the_jobs_key(home, job))
    sky = SkyPilot(home, store.store_id, lambda_key=provider.key)
    return RentedMachine(home, store, write, job, choice, number, clock, provider=provider, sky=sky)


def _on_aws(
    home: Home, store: Store, write: DriverWrites, job: Job, choice: PricedOffer, number: int, clock: Clock
) -> Backend:
    from jobs.aws.account import Account
    from jobs.backends.aws_cloud import AwsCloud
    from jobs.backends.rented import RentedMachine
    from jobs.skypilot import SkyPilot
    from jobs.skypilot.aws_folder import kept_keys

    under_way = any(attempt.state is not State.ENDED for attempt in job.attempts)
    account = Account(os.environ, kept_keys(home) if under_way else None)
    provider = AwsCloud(
        account, str(choice.offer.region), gpu=choice.offer.gpu, needed_disk_gib=choice.option.min_disk_gib
    )
    sky = SkyPilot(home, store.store_id, aws=account)
    return RentedMachine(home, store, write, job, choice, number, clock, provider=provider, sky=sky)


def usable_clouds(plan: Plan) -> set[str]:
    """Where a driver may rent for this plan: what fits there, and there are credentials for, or it was chosen."""
    assert plan.choice is not None, "a plan that fits nothing is no job"
    mine = plan.choice.offer.cloud
    fitting = {one.offer.cloud for one in plan.offers if one.fits} - {"local"}
    return {cloud for cloud in fitting if cloud == mine or has_credentials(cloud)}


def has_credentials(cloud: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether there is something here to rent with; that it is accepted, only its provider says."""
    if cloud == "lambda":
        return lambda_key(environ) is not None
    from jobs.aws.account import signs_of_credentials

    return cloud != "aws" or signs_of_credentials(environ)


def ranked(plan: Plan) -> list[PricedOffer]:
    """The offers to try: the chosen one, then what else fits, as the plan has it, on clouds that can be rented from."""
    assert plan.choice is not None, "a plan that fits nothing is no job"
    usable = usable_clouds(plan)
    return [plan.choice, *(one for one in plan.offers if one.fits and one.offer.cloud in usable and one != plan.choice)]


def place(choice: PricedOffer) -> tuple[str, str, str | None]:
    """What one create call asks for: an exact type in one region."""
    return choice.offer.cloud, choice.offer.instance_type, choice.offer.region
