"""The accounts that there are credentials for here: all machines on each, and the end of some."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Protocol

from artifacts.errors import LaunchError
from jobs.aws.account import Account, signs_of_credentials
from jobs.lambda_key import lambda_key
from jobs.reap import Machine

AT_ONCE = 8
END_WITHIN_S = 180.0
POLL_S = 2.0


class CloudAccount(Protocol):
    cloud: str
    console: str
    """Where a person ends a machine by hand."""

    def machines(self, say: Callable[[str], None]) -> list[Machine]:
        """Every one that costs money, or may again; `say` hears what could not be seen."""
        ...

    def end(self, machines: Collection[Machine]) -> set[str]:
        """Asks for their end until the list has them no more; the ids of those still there after three minutes."""
        ...


def accounts_here(environ: Mapping[str, str] = os.environ) -> list[CloudAccount]:
    """Raises CredentialProblem where what there is cannot be used."""
    found: list[CloudAccount] = []
    key = lambda_key(environ)
    if key is not None:
        found.append(LambdaMachines(key, environ))
    if signs_of_credentials(environ):
        found.append(AwsMachines(environ))
    return found


class LambdaMachines:
    cloud, console = "lambda", "https://cloud.lambda.ai/instances"

    def __init__(self, key: str, environ: Mapping[str, str]) -> None:
        from jobs.lambda_api import LambdaApi

        self._api = LambdaApi(key, environ)

    def machines(self, say: Callable[[str], None]) -> list[Machine]:
        return [
            Machine(
                cloud="lambda",
                id=one.id,
                name=one.name or "",
                status=one.status,
                instance_type=one.instance_type.name,
                region=one.region.name,
                price_per_hour=None if (cents := one.instance_type.price_cents_per_hour) is None else cents / 100,
            )
            for one in self._api.instances()
            if one.costs
        ]

    def end(self, machines: Collection[Machine]) -> set[str]:
        return {one.id for one in self._api.end([machine.id for machine in machines])}


class AwsMachines:
    """In all regions that the account has enabled."""

    cloud, console = "aws", "https://console.aws.amazon.com/ec2/home#Instances:"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    @cached_property
    def _account(self) -> Account:
        return Account(self._environ)

    def machines(self, say: Callable[[str], None]) -> list[Machine]:
        regions = self._account.regions()
        found: list[Machine] = []
        unseen: list[LaunchError] = []
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for region, asked in [(region, pool.submit(self._in, region)) for region in regions]:
                try:
                    found += asked.result()
                except LaunchError as error:  # a company may close a region to its people
                    unseen.append(error)
                    say(f"aws {region} is not seen: {error.what}")
        if unseen and len(unseen) == len(regions):
            raise unseen[0]
        return found

    def _in(self, region: str) -> list[Machine]:
        from jobs.backends.aws_cloud import AwsCloud

        return [
            Machine("aws", one.id, one.name, "running" if one.active else "not running", one.instance_type, region)
            for one in AwsCloud(self._account, region, gpu=None).all()
        ]

    def end(self, machines: Collection[Machine]) -> set[str]:
        from jobs.backends.aws_cloud import AwsCloud

        ids, left = {machine.id for machine in machines}, list(machines)
        give_up = time.monotonic() + END_WITHIN_S
        while left:
            for region in sorted({one.region for one in left}):
                here = AwsCloud(self._account, region, gpu=None)
                here.terminate([one.id for one in left if one.region == region])
            left = [one for region in {one.region for one in left} for one in self._in(region) if one.id in ids]
            if not left or time.monotonic() > give_up:
                break
            time.sleep(POLL_S)
        return {one.id for one in left}


def look(accounts: Sequence[CloudAccount], say: Callable[[str], None]) -> list[Machine]:
    """The machines of all; what cannot be seen is said, and raised where nothing can."""
    found: list[Machine] = []
    unseen: list[LaunchError] = []
    for account in accounts:
        try:
            found += account.machines(say)
        except LaunchError as error:
            unseen.append(error)
    if unseen and len(unseen) == len(accounts):
        raise unseen[0]
    for problem in unseen:
        say(str(problem))
    return found
