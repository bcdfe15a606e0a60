"""A cloud as its own API shows it: what a machine costs there now, making one, seeing it, ending it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from artifacts.errors import LaunchError, MachineGone
from jobs.clock import Clock
from jobs.clouds import Cloud
from jobs.offer import Offer


class CreateUncertain(LaunchError):
    """The create call was sent and not answered well: it may or may not have made a machine. Only the list tells."""


@dataclass(frozen=True)
class Quote:
    """What an offer's provider says of it now."""

    price_per_hour: float
    capacity: bool | None
    """None where it cannot be asked."""


@dataclass(frozen=True)
class Order:
    """One machine to be made. `user_data` is cloud-init's: it arms the deadline before anything else runs.

    `ssh_key_name` is empty where the provider keeps no keys: the key is in the user data then.
    """

    name: str
    instance_type: str
    region: str
    ssh_key_name: str
    user_data: str


@dataclass(frozen=True)
class Instance:
    """A machine that is listed and costs money, or soon will."""

    id: str
    name: str
    active: bool
    healthy: bool
    address: str | None
    instance_type: str
    region: str


LOOK_S = 2.0
"""Between two looks at the provider's list."""
LISTED_WITHIN_S = 120.0
"""A machine that a create call has made stands in the list by then."""
ABSENCES = 3
"""Lists in a row without a machine that was in one before: one alone may lag."""
BETWEEN_S = 2.0


class Wanted(Protocol):
    """Of a machine's record, what tells it from others."""

    @property
    def instance_name(self) -> str: ...
    @property
    def owner(self) -> str | None: ...


def is_its_owner(provider: Provider, machine: Wanted) -> bool:
    """Whether the provider is asked by those who rented it. LaunchError where it does not say."""
    return machine.owner is None or machine.owner == provider.owner()


def gone(provider: Provider, machine: Wanted, clock: Clock) -> bool:
    """Whether no machine of the name is listed any more.

    Where the provider does not answer, or is asked with other credentials, nobody knows: False.
    """
    try:
        for look in range(ABSENCES):
            if look:
                clock.sleep(BETWEEN_S)
            if provider.named(machine.instance_name):
                return False
        return is_its_owner(provider, machine)
    except LaunchError:
        return False


def raise_if_gone(provider: Provider, machine: Wanted, clock: Clock, *, job_id: str, why: str = "") -> None:
    """Raises MachineGone where it is listed no more."""
    if gone(provider, machine, clock):
        raise MachineGone(
            f"The machine {machine.instance_name} is gone, and nobody here has ended it",
            why=why,
            next_step=f"launch resume {job_id}",
        )


class Provider(Protocol):
    name: str
    """SkyPilot's, and that of its offers."""
    cloud: Cloud
    on_host: tuple[str, str]
    """Address and key with which a machine can end itself; the key lies on it, readable by root alone.

    Both are empty where powering off ends it.
    """

    login_within_s: float
    """From active to the first login."""

    def owner(self) -> str:
        """Who rents: an account, or a mark of the key where no account is named. LaunchError where it is not said."""
        ...

    def quote(self, offer: Offer) -> Quote:
        """Raises OfferFailed where the provider no longer sells it."""
        ...

    def ensure_ssh_key(self, name: str, public: str) -> str:
        """The name under which the provider knows the key; it is added where it is not known.

        Empty where the key is to go over in the user data.
        """
        ...

    def resources(self) -> Mapping[str, object]:
        """What the task's `resources` say beside type and region."""
        ...

    def create(self, order: Order) -> str:
        """One call, never repeated. The machine's id.

        Raises:
            OfferFailed: refused; there is no machine.
            CredentialProblem: refused, and so would any other be.
            CreateUncertain: nobody knows.
        """
        ...

    def named(self, name: str) -> list[Instance]:
        """The machines of exactly that name that are still listed."""
        ...

    def all(self) -> list[Instance]:
        """Every machine of the account that is still listed."""
        ...

    def terminate(self, ids: list[str]) -> None:
        """Asks for their end; that it came is seen in `named` alone."""
        ...

    def console(self) -> str:
        """Where a person ends a machine by hand."""
        ...
