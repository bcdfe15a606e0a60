"""Lambda's REST API with types: what it sells, what runs on the account, make one, end some.

LambdaProblem (jobs.lambda_http)
└── CreateUncertain   a machine may or may not have been made: list by its name
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from jobs import lambda_http
from jobs.lambda_http import LambdaProblem, LambdaUnreachable, Pace, RateLimited
from jobs.lambda_models import (
    AddedSshKey,
    Instance,
    Instances,
    Launched,
    SshKey,
    SshKeys,
    TypeOnSale,
    Types,
)

A = TypeVar("A", bound=BaseModel)

PAUSE_S = 1.0
"""Between two requests: Lambda's documented limit."""
LAUNCH_PAUSE_S = 12.0
"""Between two launches: five a minute."""
LONGEST_NAME = 64
LARGEST_USER_DATA = 10**6
"""Of a name, in characters, and of user data, in bytes, as the specification of the launch request has them."""


class CreateUncertain(LambdaProblem):
    """Never send it again: list, and see whether a machine of that name is there, now and a minute later."""


class LambdaApi:
    """What reads or can be repeated is tried again for `patience_s`; a launch is sent once.

    All methods raise KeyRefused (exit 4), LambdaRefused, RateLimited or LambdaUnreachable of `jobs.lambda_http`.
    """

    def __init__(
        self,
        key: str,
        environ: Mapping[str, str],
        *,
        timeout_s: float = 10.0,
        patience_s: float = 30.0,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.address = lambda_http.base_address(environ)
        self._key, self._timeout_s, self._patience_s = key, timeout_s, patience_s
        self._monotonic, self._sleep = monotonic, sleep
        self._pace = None if lambda_http.is_loopback(self.address) else Pace(monotonic=monotonic, sleep=sleep)

    def instance_types(self) -> tuple[dict[str, TypeOnSale], dict[str, str]]:
        """Types by name; and by name a line for each that cannot be read."""
        data = _parsed(Types, self._again("GET", "instance-types"), "a list of instance types").data
        types: dict[str, TypeOnSale] = {}
        odd: dict[str, str] = {}
        for name, entry in data.items():
            try:
                types[name] = TypeOnSale.model_validate(entry)
            except ValidationError as error:
                where = ".".join(map(str, error.errors()[0]["loc"]))
                odd[name] = f"Lambda's live price of {name} is not used: {where} cannot be"
        return types, odd

    def instances(self) -> list[Instance]:
        """All that the account has. A list with one entry that cannot be read is none: that one might be ours."""
        return _parsed(Instances, self._again("GET", "instances"), "a list of instances").data

    def named(self, name: str) -> list[Instance]:
        """Those of exactly this name that are still there. Lambda lets several machines have one name."""
        return [instance for instance in self.instances() if instance.name == name and instance.costs]

    def launch(
        self,
        *,
        name: str,
        region: str,
        instance_type: str,
        ssh_key_name: str,
        user_data: str,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Rents one machine, and gives its id. Sent once: Lambda has no token that would make a repetition harmless.

        Raises:
            NoCapacity, QuotaReached, RateLimited, LambdaRefused, KeyRefused, LambdaUnreachable: none was made.
            CreateUncertain: one may have been made.
        """
        if len(name) > LONGEST_NAME or len(user_data.encode()) > LARGEST_USER_DATA:
            raise ValueError(f"a name of {len(name)} characters, user data of {len(user_data.encode())} bytes")
        body: dict[str, object] = {
            "region_name": region,
            "instance_type_name": instance_type,
            "ssh_key_names": [ssh_key_name],
            "name": name,
            "user_data": user_data,
        }
        if tags:
            body["tags"] = [{"key": key, "value": value} for key, value in tags.items()]
        if self._pace:
            self._pace.wait("launch", LAUNCH_PAUSE_S)
        try:
            answer = self._once("POST", "instance-operations/launch", body)
            (made,) = _parsed(Launched, answer, "the id of a machine").data.instance_ids
        except LambdaUnreachable as error:
            if not error.sent:
                raise
            raise _uncertain(name, error.why) from None
        except ValueError:
            raise _uncertain(name, "it answered with more than one id") from None
        return made

    def terminate(self, ids: Sequence[str]) -> None:
        """Asks for the end of these. An answer is no proof: look at `instances()` until they are gone.

        An id that Lambda knows no more is no error: it is gone.
        """
        if not ids:
            return
        try:
            self._again("POST", "instance-operations/terminate", {"instance_ids": list(ids)})
        except lambda_http.LambdaRefused as error:
            if error.code != "global/object-does-not-exist":
                raise
            if len(ids) > 1:  # which of them is not said, and the others may have been left
                for one in ids:
                    self.terminate([one])

    def end(self, ids: Sequence[str], *, patience_s: float = 180.0) -> list[Instance]:
        """Asks for their end until the list has them no more, or for `patience_s`; those that are still there then.

        What is `terminating` is not asked again, and still is there.
        """
        until = self._monotonic() + patience_s
        pause_s = 1.0
        while True:
            left = [instance for instance in self.instances() if instance.id in set(ids) and instance.costs]
            if not left or self._monotonic() >= until:
                return left
            self.terminate([instance.id for instance in left if instance.status != "terminating"])
            self._sleep(pause_s)
            pause_s = min(pause_s * 2, 8.0)

    def ssh_keys(self) -> list[SshKey]:
        return _parsed(SshKeys, self._again("GET", "ssh-keys"), "a list of SSH keys").data

    def add_ssh_key(self, name: str, public: str) -> SshKey:
        answer = self._once("POST", "ssh-keys", {"name": name, "public_key": public})
        return _parsed(AddedSshKey, answer, "an SSH key").data

    def ensure_ssh_key(self, name: str, public: str) -> str:
        """The name under which the account has this public key; added as `name`, or `name-2` and so on."""
        wanted = public.split()[:2]
        keys = self.ssh_keys()
        if found := next((key.name for key in keys if key.public_key.split()[:2] == wanted), None):
            return found
        taken = {key.name for key in keys}
        free = next(each for number in range(1, len(taken) + 2)
                    if (each := name if number == 1 else f"{name}-{number}") not in taken)  # fmt: skip
        try:
            return self.add_ssh_key(free, public).name
        except LambdaProblem:  # another launch may have added it in between, or the answer was lost
            found = next((key.name for key in self.ssh_keys() if key.public_key.split()[:2] == wanted), None)
            if found is None:
                raise
            return found

    def _once(self, method: str, path: str, body: object | None = None) -> bytes:
        if self._pace:
            self._pace.wait("any", PAUSE_S)
        return lambda_http.send(self.address, self._key, method, path, body, timeout_s=self._timeout_s)

    def _again(self, method: str, path: str, body: object | None = None) -> bytes:
        """As `_once`, until it answers or `patience_s` is over."""
        until = self._monotonic() + self._patience_s
        pause_s = 0.5
        while True:
            try:
                return self._once(method, path, body)
            except (RateLimited, LambdaUnreachable) as error:
                pause_s = max(pause_s, error.retry_after_s) if isinstance(error, RateLimited) else pause_s
                if self._monotonic() + pause_s >= until:
                    raise
            self._sleep(pause_s)
            pause_s = min(pause_s * 2, 8.0)


def _parsed(model: type[A], answer: bytes, expected: str) -> A:
    try:
        return model.model_validate_json(answer)
    except ValidationError:
        raise LambdaUnreachable(
            "Lambda gives no answer that can be used.", why=f"its answer is not {expected}"
        ) from None


def _uncertain(name: str, why: str) -> CreateUncertain:
    return CreateUncertain(
        f"Whether Lambda made the machine {name} is not known.",
        why=why,
        costing="It may be there, and cost money.",
        next_step="launch status (it looks by name), or https://cloud.lambda.ai/instances",
    )
