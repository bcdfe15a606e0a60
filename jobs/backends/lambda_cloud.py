"""Lambda: by the minute, from healthy to terminated; a machine that was shut down goes on being billed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from artifacts.errors import CredentialProblem
from jobs import lambda_api
from jobs.backends import CloudSilent, OfferFailed
from jobs.backends.provider import CreateUncertain, Instance, Order, Quote
from jobs.clouds import CLOUDS
from jobs.guard import address_on_host
from jobs.lambda_http import LambdaProblem
from jobs.lambda_key import lambda_key
from jobs.offer import Offer

CONSOLE = "https://cloud.lambda.ai/instances"
HEALTHY = frozenset({"booting", "active"})


class LambdaCloud:
    """A `Provider`. Raises CredentialProblem where there is no key, and LambdaProblem where Lambda does not answer."""

    name = "lambda"
    cloud = CLOUDS["lambda"]
    login_within_s = 300.0

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        key = lambda_key(environ)
        if key is None:
            raise CredentialProblem(
                "There is no key of Lambda.",
                why="Neither $LAMBDA_API_KEY nor ~/.lambda_cloud/lambda_keys holds one.",
                next_step="make one at https://cloud.lambda.ai/api-keys and write api_key = KEY into that file",
            )
        self.key = key
        self.on_host = (address_on_host(environ), key)
        self._api = lambda_api.LambdaApi(key, environ)

    def owner(self) -> str:
        """Lambda's API names no account."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:12]

    def quote(self, offer: Offer) -> Quote:
        with _before_the_create():
            types, _ = self._api.instance_types()
        found = types.get(offer.instance_type)
        if found is None:
            raise OfferFailed(f"Lambda no longer sells {offer.instance_type}")
        free = any(region.name == offer.region for region in found.regions_with_capacity_available)
        return Quote(found.instance_type.price_cents_per_hour / 100, free)

    def ensure_ssh_key(self, name: str, public: str) -> str:
        with _before_the_create():
            return self._api.ensure_ssh_key(name, public)

    def resources(self) -> Mapping[str, object]:
        return {}

    def create(self, order: Order) -> str:
        try:
            return self._api.launch(
                name=order.name,
                region=order.region,
                instance_type=order.instance_type,
                ssh_key_name=order.ssh_key_name,
                user_data=order.user_data,
            )
        except lambda_api.CreateUncertain as error:
            raise CreateUncertain(error.what, why=error.why) from error
        except LambdaProblem as error:
            raise OfferFailed(error.what, why=error.why) from error

    def named(self, name: str) -> list[Instance]:
        return [_instance(one) for one in self._api.named(name)]

    def all(self) -> list[Instance]:
        return [_instance(one) for one in self._api.instances() if one.costs]

    def terminate(self, ids: list[str]) -> None:
        self._api.terminate(ids)

    def console(self) -> str:
        return CONSOLE


@contextmanager
def _before_the_create() -> Generator[None]:
    """Nothing has been asked for yet that costs money: another cloud may have it."""
    try:
        yield
    except LambdaProblem as error:
        raise CloudSilent(error.what, why=error.why) from error


def _instance(one: lambda_api.Instance) -> Instance:
    return Instance(
        id=one.id,
        name=one.name or "",
        active=one.status == "active",
        healthy=one.status in HEALTHY,
        address=one.ip,
        instance_type=one.instance_type.name,
        region=one.region.name,
    )
