"""The fake Lambda itself: accounts, what it sells, its instances and their states. HTTP is in `api.py`."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from tests.acceptance.lambda_cloud.faults import CODES, NO_CAPACITY, QUOTA, Boot, Faults
from tests.acceptance.lambda_cloud.meter import Meter

DEFAULT_KEY = "secret_first_account"
SECOND_KEY = "secret_second_account"
# Lambda's limits on what a launch request may hold.
LARGEST_NAME = 64
LARGEST_USER_DATA = 1_000_000


class Refused(Exception):
    """The answer is an error of Lambda's: HTTP status, code, message."""

    def __init__(self, status: int, code: str | None = None, message: str | None = None) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code or CODES[status][0]
        self.message = message or CODES[status][1]


class Machine(Protocol):
    """What stands behind an instance."""

    @property
    def address(self) -> str: ...
    def start(self) -> None:
        """Begins to boot; returns at once."""
        ...

    def ready(self) -> bool:
        """It has booted: its sshd answers (or never will, where it was told so)."""
        ...

    def destroy(self) -> None:
        """Ends everything in it and removes its disk."""
        ...


@dataclass(frozen=True)
class Nothing:
    """No machine: for tests of what talks to the API alone."""

    address: str = "127.0.0.1"

    def start(self) -> None: ...
    def ready(self) -> bool:
        return True

    def destroy(self) -> None: ...


@dataclass(frozen=True)
class Order:
    """What a machine is made from."""

    instance_id: str
    name: str
    authorized_keys: tuple[str, ...]
    user_data: str | None
    boot: Boot


MakeMachine = Callable[[Order], Machine]


@dataclass(frozen=True)
class TypeForSale:
    """A type, its price, and the regions that have capacity now."""

    name: str
    gpu_description: str
    price_cents_per_hour: int
    vcpus: int
    memory_gib: int
    storage_gib: int
    gpus: int
    regions: tuple[str, ...]
    architecture: str = "x86_64"

    def document(self) -> dict[str, object]:
        """As in an instance's `instance_type`."""
        return {
            "name": self.name,
            "description": f"{self.gpus}x {self.gpu_description}",
            "gpu_description": self.gpu_description,
            "price_cents_per_hour": self.price_cents_per_hour,
            "architecture": self.architecture,
            "specs": {
                "vcpus": self.vcpus,
                "memory_gib": self.memory_gib,
                "storage_gib": self.storage_gib,
                "gpus": self.gpus,
            },
        }


REGIONS: Mapping[str, str] = {
    "us-east-1": "Virginia, USA",
    "us-west-1": "California, USA",
    "us-west-2": "Arizona, USA",
    "us-south-1": "Texas, USA",
    "europe-central-1": "Germany",
}
# Prices of November 2026.
CATALOGUE = (
    TypeForSale("gpu_1x_a10", "A10 (24 GB PCIe)", 129, 30, 200, 1400, 1, ("us-east-1", "us-west-1")),
    TypeForSale("gpu_1x_a100", "A100 (40 GB PCIe)", 199, 30, 200, 512, 1, ("us-west-2",)),
    TypeForSale("gpu_1x_a100_sxm4", "A100 (40 GB SXM4)", 199, 30, 200, 512, 1, ("us-east-1", "us-west-2")),
    TypeForSale("gpu_1x_a6000", "A6000 (48 GB)", 109, 14, 100, 512, 1, ("us-south-1",)),
    TypeForSale("gpu_1x_h100_pcie", "H100 (80 GB PCIe)", 329, 26, 225, 1024, 1, ("us-west-1",)),
    TypeForSale("gpu_1x_gh200", "GH200 (96 GB)", 229, 64, 432, 4096, 1, ("us-east-1",), architecture="arm64"),
)


@dataclass
class Instance:
    """One machine of one account, as it is listed."""

    id: str
    name: str
    sold: TypeForSale
    region: str
    ssh_key_names: list[str]
    tags: list[dict[str, str]]
    user_data: str | None
    machine: Machine
    boot: Boot
    launched_at: float
    status: str = "booting"
    hidden_until: float = 0.0
    gone_at: float | None = None

    def document(self) -> dict[str, object]:
        """As Lambda lists it. The address is there once it is active."""
        address = self.machine.address if self.status in ("active", "unhealthy", "terminating") else None
        return {
            "id": self.id,
            "name": self.name,
            "ip": address,
            "private_ip": address,
            "status": self.status,
            "ssh_key_names": self.ssh_key_names,
            "file_system_names": [],
            "file_system_mounts": [],
            "region": {"name": self.region, "description": REGIONS.get(self.region, self.region)},
            "instance_type": self.sold.document(),
            "hostname": f"{self.id}.cloud.lambda.ai",
            "is_reserved": False,
            "actions": {},
            "tags": self.tags,
            "firewall_rulesets": [],
        }


@dataclass
class Account:
    """What one key may see: its instances and SSH keys, nobody else's."""

    name: str
    quota: int = 8
    instances: dict[str, Instance] = field(default_factory=dict[str, Instance])
    ssh_keys: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    firewall_rules: list[dict[str, object]] = field(default_factory=list[dict[str, object]])


class Provider:
    """The cloud. All methods may be called from any thread."""

    def __init__(
        self,
        faults: Faults,
        make_machine: MakeMachine = lambda _: Nothing(),
        *,
        boot_s: float = 0.0,
        terminate_s: float = 0.5,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.faults = faults
        self.meter = Meter(clock)
        self.boot_s = boot_s
        self.terminate_s = terminate_s
        self._make_machine = make_machine
        self._clock = clock
        self._lock = threading.RLock()
        self._accounts: list[Account] = []
        self._keys: dict[str, Account] = {}
        self._types = {each.name: each for each in CATALOGUE}
        self.add_account(DEFAULT_KEY, "first")
        self.add_account(SECOND_KEY, "second")

    # What a test sets.

    def add_account(self, key: str, name: str, *, quota: int = 8) -> None:
        """A further customer, with this key."""
        with self._lock:
            self._keys[key] = Account(name, quota)
            self._accounts.append(self._keys[key])

    def revoke(self, key: str, *, in_its_place: str | None = None) -> None:
        """The key is refused from now on (401), and another one good for the same account; what runs costs on."""
        with self._lock:
            account = self._keys.pop(key)
            if in_its_place is not None:
                self._keys[in_its_place] = account

    def set_type(
        self, name: str, *, price_cents_per_hour: int | None = None, regions: tuple[str, ...] | None = None
    ) -> None:
        """Price and capacity of a type from now on; what runs keeps its price."""
        with self._lock:
            sold = self._types[name]
            price = sold.price_cents_per_hour if price_cents_per_hour is None else price_cents_per_hour
            kept = sold.regions if regions is None else regions
            self._types[name] = replace(sold, price_cents_per_hour=price, regions=kept)

    def set_quota(self, key: str, quota: int) -> None:
        """How many instances the account may have at once."""
        with self._lock:
            self._keys[key].quota = quota

    def set_status(self, instance_id: str, status: str) -> None:
        """Lambda lists it so from now on (`unhealthy`, `preempted`, ...)."""
        with self._lock:
            self.find(instance_id).status = status

    def find(self, instance_id: str) -> Instance:
        """The instance, whoever owns it, listed or not.

        Raises:
            KeyError: there never was one, or it is gone.
        """
        with self._lock:
            for account in self._accounts:
                if instance_id in account.instances:
                    return account.instances[instance_id]
        raise KeyError(instance_id)

    def everything(self) -> list[Instance]:
        """All instances that are not gone, of all accounts, hidden ones too."""
        with self._lock:
            return [each for account in self._accounts for each in account.instances.values()]

    def reset(self) -> None:
        """A new cloud: nothing runs, prices, capacity and accounts as at first. The meter goes on."""
        with self._lock:
            instances = self.everything()
            for instance in instances:
                self.meter.terminated(instance.id)
            self.faults.clear()
            self._accounts.clear()
            self._keys.clear()
            self._types = {each.name: each for each in CATALOGUE}
            self.add_account(DEFAULT_KEY, "first")
            self.add_account(SECOND_KEY, "second")
        for instance in instances:
            instance.machine.destroy()

    # What a customer asks.

    def account(self, key: str) -> Account:
        """Whose key it is.

        Raises:
            Refused: nobody's (401).
        """
        with self._lock:
            if key not in self._keys:
                raise Refused(401)
            return self._keys[key]

    def types(self) -> dict[str, object]:
        """`GET /instance-types`."""
        with self._lock:
            return {
                sold.name: {
                    "instance_type": sold.document(),
                    "regions_with_capacity_available": [
                        {"name": region, "description": REGIONS.get(region, region)} for region in sold.regions
                    ],
                }
                for sold in self._types.values()
            }

    def listed(self, account: Account) -> list[dict[str, object]]:
        """`GET /instances`."""
        with self._lock:
            now = self._clock()
            return [each.document() for each in account.instances.values() if each.hidden_until <= now]

    def get(self, account: Account, instance_id: str) -> dict[str, object]:
        """`GET /instances/ID`.

        Raises:
            Refused: 404.
        """
        with self._lock:
            instance = account.instances.get(instance_id)
            if instance is None or instance.hidden_until > self._clock():
                raise Refused(404)
            return instance.document()

    def launch(self, account: Account, body: Mapping[str, object], *, list_lag_s: float = 0.0) -> list[str]:
        """`POST /instance-operations/launch`.

        Raises:
            Refused: parameters (400, 404), capacity (400), quota (400).
        """
        with self._lock:
            sold, region, names = self._checked(account, body)
            quantity = _whole(body.get("quantity", 1))
            if len(account.instances) + quantity > account.quota:
                raise Refused(400, QUOTA, "Quota exceeded.")
            if region not in sold.regions:
                raise Refused(400, NO_CAPACITY, "Not enough capacity to fulfill launch request.")
            return [self._launch_one(account, body, sold, region, names, list_lag_s) for _ in range(quantity)]

    def _checked(self, account: Account, body: Mapping[str, object]) -> tuple[TypeForSale, str, list[str]]:
        """Type, region and names of SSH keys, as Lambda's schema has them."""
        known = {
            "region_name", "instance_type_name", "ssh_key_names", "quantity", "name", "user_data", "tags", "hostname",
            "image", "file_system_names", "file_system_mounts", "firewall_rulesets",
        }  # fmt: skip
        if extra := sorted(set(body) - known):
            raise Refused(400, message=f"Unknown parameters: {', '.join(extra)}.")
        sold = self._types.get(str(body.get("instance_type_name")))
        region = str(body.get("region_name"))
        if sold is None:
            raise Refused(404, message="No such instance type.")
        if region not in REGIONS:
            raise Refused(404, message="No such region.")
        names = body.get("ssh_key_names")
        if not isinstance(names, list) or len(names) != 1:
            raise Refused(400, message="Exactly one SSH key must be specified.")
        if names[0] not in account.ssh_keys:
            raise Refused(404, message="No such SSH key.")
        if len(str(body.get("name") or "")) > LARGEST_NAME:
            raise Refused(400, message="The name is too long.")
        if len(str(body.get("user_data") or "")) > LARGEST_USER_DATA:
            raise Refused(400, message="The user data is too long.")
        _check_tags(body.get("tags"))
        return sold, region, [str(names[0])]

    def _launch_one(
        self,
        account: Account,
        body: Mapping[str, object],
        sold: TypeForSale,
        region: str,
        names: list[str],
        lag_s: float,
    ) -> str:
        boot = self.faults.take_boot()
        user_data = body.get("user_data")
        text = None if user_data is None else str(user_data)
        instance_id, name = uuid.uuid4().hex, str(body.get("name") or "")
        keys = tuple(account.ssh_keys[each]["public_key"] for each in names)
        machine = self._make_machine(Order(instance_id, name, keys, None if boot.ignore_user_data else text, boot))
        tags = body.get("tags")
        instance = Instance(
            id=instance_id,
            name=name,
            sold=sold,
            region=region,
            ssh_key_names=names,
            tags=[dict(each) for each in tags] if isinstance(tags, list) else [],
            user_data=text,
            machine=machine,
            boot=boot,
            launched_at=self._clock(),
            hidden_until=self._clock() + lag_s,
        )
        account.instances[instance_id] = instance
        self.meter.launched(instance_id, name, account.name, sold.price_cents_per_hour)
        machine.start()
        return instance_id

    def terminate(self, account: Account, body: Mapping[str, object]) -> list[dict[str, object]]:
        """`POST /instance-operations/terminate`: the bill ends here.

        Raises:
            Refused: one of the ids is none of the account's (404); then none is ended.
        """
        ids = body.get("instance_ids")
        if not isinstance(ids, list) or not ids:
            raise Refused(400, message="instance_ids: a list of at least one id is required.")
        with self._lock:
            if any(each not in account.instances for each in ids):
                raise Refused(404)
            ended = [account.instances[str(each)] for each in ids]
            for instance in ended:
                instance.status = "terminating"
                if instance.gone_at is None:
                    instance.gone_at = self._clock() + self.terminate_s
                self.meter.terminated(instance.id)
            return [instance.document() for instance in ended]

    def add_ssh_key(self, account: Account, body: Mapping[str, object]) -> dict[str, str]:
        """`POST /ssh-keys`.

        Raises:
            Refused: malformed, or the name is taken (400).
        """
        name, public_key = str(body.get("name") or ""), str(body.get("public_key") or "").strip()
        if not name or not re.match(r"(ssh-|ecdsa-)\S+ \S+", public_key):
            raise Refused(400, message="A name and a public key are required.")
        with self._lock:
            if name in account.ssh_keys:
                raise Refused(400, "global/duplicate", "An SSH key of this name exists.")
            account.ssh_keys[name] = {"id": uuid.uuid4().hex, "name": name, "public_key": public_key}
            return account.ssh_keys[name]

    def delete_ssh_key(self, account: Account, key_id: str) -> None:
        """`DELETE /ssh-keys/ID`.

        Raises:
            Refused: 404.
        """
        with self._lock:
            for name, each in account.ssh_keys.items():
                if each["id"] == key_id:
                    del account.ssh_keys[name]
                    return
        raise Refused(404)

    def step(self) -> None:
        """Brings about what is due: booting to active or unhealthy, terminating to gone. `Api` does it all the time."""
        with self._lock:
            now = self._clock()
            due: list[tuple[Account, Instance]] = []
            for account, instance in [(a, i) for a in self._accounts for i in a.instances.values()]:
                if instance.gone_at is not None:
                    if instance.gone_at <= now:
                        due.append((account, instance))
                elif instance.status == "booting" and self._booted(instance, now):
                    instance.status = "unhealthy" if instance.boot.unhealthy else "active"
                    if instance.status == "active":
                        self.meter.active(instance.id)
        for account, instance in due:
            instance.machine.destroy()  # first: what is in no list any more does not run
            with self._lock:
                account.instances.pop(instance.id, None)

    def _booted(self, instance: Instance, now: float) -> bool:
        boot_s = self.boot_s if instance.boot.boot_s is None else instance.boot.boot_s
        return not instance.boot.stuck and now >= instance.launched_at + boot_s and instance.machine.ready()


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Refused(400, message="quantity: at least 1.")
    return value


def _check_tags(tags: object) -> None:
    if tags is None:
        return
    if not isinstance(tags, list) or not all(
        isinstance(each, dict) and set(each) == {"key", "value"} and all(isinstance(v, str) for v in each.values())
        for each in tags
    ):
        raise Refused(400, message="tags: a list of {key, value} is required.")
