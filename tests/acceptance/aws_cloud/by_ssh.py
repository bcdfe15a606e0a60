"""A driver inside the test, as in the fake Lambda's tests, for machines of both clouds."""

from __future__ import annotations

import os
from pathlib import Path

from jobs.aws.account import Account
from jobs.backends import Backend
from jobs.backends.aws_cloud import AwsCloud
from jobs.backends.rented import RentedMachine
from jobs.clock import Clock
from jobs.home import Home
from jobs.job import Job
from jobs.lease import DriverWrites
from jobs.offer import PricedOffer
from jobs.store import Store
from tests.acceptance.aws_cloud.cloud import AwsWithMachines
from tests.acceptance.lambda_cloud.by_ssh import BySsh, InTest
from tests.acceptance.lambda_cloud.cloud import Cloud
from tests.acceptance.program import Program


class InTestOfBoth(InTest):
    """One job on Lambda, AWS or any; the task goes over by SSH where it would go through SkyPilot."""

    def __init__(
        self,
        program: Program,
        cloud: Cloud,
        aws: AwsWithMachines,
        said_to: Path,
        *words: str,
        clock: Clock | None = None,
    ) -> None:
        self.aws = aws
        super().__init__(program, cloud, said_to, *words, clock=clock)

    def _backend(
        self, home: Home, store: Store, write: DriverWrites, job: Job, choice: PricedOffer, number: int, clock: Clock
    ) -> Backend:
        if choice.offer.cloud == "lambda":
            return super()._backend(home, store, write, job, choice, number, clock)
        account = Account(dict(os.environ) | dict(self.program.environ))
        provider = AwsCloud(account, str(choice.offer.region), gpu=choice.offer.gpu)
        sky = BySsh(home.root / "by-ssh", store.store_id, self.aws, lambda: self.before_launch())  # type: ignore[arg-type]
        self.sky = sky
        return RentedMachine(home, store, write, job, choice, number, clock, provider=provider, sky=sky)
