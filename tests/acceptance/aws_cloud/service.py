"""A fake AWS: moto's server behind a front that serves what moto has not, goes wrong when told to, and has machines.

Over HTTP like the real one, at one address for all services. Of EC2's instances the front keeps state and address to
what stands behind them (`Machine`); without machines an instance runs at once, at 127.0.0.1.
"""

from __future__ import annotations

import io
import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES, InstanceType, InstanceTypeBackend
from moto.ec2.models.instances import Instance
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from tests.acceptance.lambda_cloud.faults import Boot
from tests.acceptance.lambda_cloud.provider import MakeMachine, Order
from tests.catalogues.aws_server import product

ACCOUNT = "123456789012"
REGIONS = ("us-east-1", "us-west-2")
IMAGE = "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) 20261001"
IMAGE_GIB = 75
IMAGES = {region: f"ami-{index:017x}" for index, region in enumerate(REGIONS, start=1)}
QUOTAS = {"L-417A185B": 96.0, "L-DB2E81BA": 64.0, "L-1216C47A": 32.0}
TICK_S = 0.05
MINIMUM_S = 60
# What AWS has retired and moto's tables left out, as its documentation had it.
P3 = {"p3.2xlarge": 8, "p3.8xlarge": 32, "p3.16xlarge": 64}


@dataclass(frozen=True)
class Asked:
    """One request. `status` 0 where the connection was cut."""

    operation: str
    region: str
    body: Mapping[str, str]
    status: int


@dataclass
class Fault:
    """What the next requests for `operation` are answered, `times` of them; with `zone`, those for that zone alone.

    `though_it_works`: it is carried out all the same. `cut`: no answer. `page`: that of a proxy.
    """

    operation: str
    code: str = "InternalError"
    message: str = "This cloud is not a real one."
    status: int = 400
    times: int = 1
    zone: str | None = None
    though_it_works: bool = False
    cut: bool = False
    page: bool = False


@dataclass(frozen=True)
class Reading:
    """One instance. Times are epoch seconds; what has not come is None."""

    id: str
    name: str
    instance_type: str
    running_at: float | None = None
    ended_at: float | None = None

    @property
    def billed_s(self) -> int:
        """By the second from running to terminated, at least a minute; what never ran costs nothing."""
        if self.running_at is None:
            return 0
        return max(MINIMUM_S, math.ceil((self.ended_at or time.time()) - self.running_at))


class BaseImage(Ami):
    """With a disk of the size that AWS's has; moto's are all of 15 GiB."""

    @property
    def block_device_mappings(self) -> list[dict[str, Any]]:
        (disk,) = super().block_device_mappings
        return [disk | {"Ebs": disk["Ebs"] | {"VolumeSize": IMAGE_GIB}}]


_WHOLE = threading.Lock()
"""moto's state, which is the process's, is not looked at while it is made anew, whichever fake does that."""


class _Quiet(MotoRequestHandler):
    def log_request(self, *_: object) -> None: ...


@dataclass
class _Machine:
    instance: Instance
    machine: Any


@dataclass
class FakeAws:
    """`address` is its URL. What is not said by a fault is moto's."""

    make_machine: MakeMachine | None = None
    products: dict[tuple[str, str], float] = field(default_factory=dict[tuple[str, str], float])
    """USD an hour by type and region."""
    quotas: dict[str, float] = field(default_factory=lambda: dict(QUOTAS))
    faults: list[Fault] = field(default_factory=list[Fault])
    asked: list[Asked] = field(default_factory=list[Asked])
    address: str = ""

    def __enter__(self) -> FakeAws:
        _sell_p3()
        self._lock = threading.Lock()
        self._machines: dict[str, _Machine] = {}
        self._readings: dict[str, Reading] = {}
        self._stop = threading.Event()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self, True, request_handler=_Quiet)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._threads = [
            threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        ]
        self._threads += [threading.Thread(target=self._watch, daemon=True)]
        for thread in self._threads:
            thread.start()
        self.reset()
        return self

    def __exit__(self, *_: object) -> None:
        self._end_machines()
        self._stop.set()
        self._server.shutdown()
        for thread in self._threads:
            thread.join()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        """For the program under test: keys, and no way to anything else."""
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "AKIAFAKEFAKEFAKE1234",
            "AWS_SECRET_ACCESS_KEY": "secretOfTheFakeCloud",
            "AWS_EC2_METADATA_DISABLED": "true",
            "LAUNCH_PUBLIC_ADDRESS": "203.0.113.7",
        }

    def reset(self) -> None:
        """Nothing runs, nothing goes wrong, nothing was asked yet. The meter keeps what it read."""
        self._end_machines()
        with _WHOLE:
            for region in REGIONS:
                backend = ec2_backends[ACCOUNT][region]
                backend.reset()
                image = BaseImage(backend, IMAGES[region], name=IMAGE, owner_alias="amazon", architecture="x86_64")
                backend.amis[image.id] = image
        self.faults.clear()
        self.asked.clear()
        self.quotas = dict(QUOTAS)

    # ---- what a test looks at ----

    def instances(self) -> list[Instance]:
        """Every one that is not terminated."""
        return [one for region in REGIONS for one in _all(region) if one.state not in ("terminated", "shutting-down")]

    def terminated(self) -> list[Instance]:
        return [one for region in REGIONS for one in _all(region) if one.state == "terminated"]

    def machine(self, name: str) -> Any:
        """What stands behind the one instance of that name."""
        (found,) = [each for each in self._machines.values() if _name(each.instance) == name]
        return found.machine

    def readings(self) -> list[Reading]:
        with self._lock:
            return list(self._readings.values())

    def operations(self, operation: str) -> list[Asked]:
        return [each for each in self.asked if each.operation == operation]

    def fail(self, operation: str, code: str = "InternalError", **more: Any) -> None:
        self.faults.append(Fault(operation, code, **more))

    # ---- HTTP ----

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        raw = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(raw)
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        body = dict(parse_qsl(raw.decode())) if not target else {}
        operation = target.partition(".")[2] or body.get("Action", "")
        authorization = environ.get("HTTP_AUTHORIZATION", "")
        region = authorization.split("/")[2] if authorization.count("/") > 2 else ""
        zone = self._zone(region, body)
        fault = self._take(operation, zone)
        answer: tuple[str, list[tuple[str, str]], bytes]
        if fault is not None and not fault.though_it_works:
            answer = self._error(fault, operation, json_=bool(target))
        elif target.startswith(("ServiceQuotas", "AWSPriceListService")):
            answer = self._own(operation, json.loads(raw), region)
        else:
            answer = self._motos(environ)
            self._after(operation, body, answer[0])
            if fault is not None:
                answer = self._error(fault, operation, json_=bool(target))
        cut = fault is not None and fault.cut
        status = 0 if cut else int(answer[0].split()[0])
        self.asked.append(Asked(operation, region, body, status))
        if cut:
            environ["werkzeug.socket"].shutdown(2)
        start_response(answer[0], answer[1])
        return [answer[2]]

    def _motos(self, environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
        said: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], _: object = None) -> Callable[[bytes], object]:
            said[:] = [status, headers]
            return lambda _: None

        body = b"".join(self._moto(environ, start))
        return said[0], said[1], body

    def _own(self, operation: str, asked: Any, region: str) -> tuple[str, list[tuple[str, str]], bytes]:
        """Service Quotas and the Price List, of which moto has nothing."""
        if operation == "GetServiceQuota":
            document: Any = {"Quota": {"QuotaCode": asked["QuotaCode"], "Value": self.quotas[asked["QuotaCode"]]}}
        else:
            kind = next(each["Value"] for each in asked["Filters"] if each["Field"] == "instanceType")
            prices = [product(kind, place, str(usd)) for (known, place), usd in self.products.items() if known == kind]
            document = {"FormatVersion": "aws_v1", "PriceList": prices}
        return "200 OK", [("Content-Type", "application/x-amz-json-1.1")], json.dumps(document).encode()

    def _error(self, fault: Fault, operation: str, *, json_: bool) -> tuple[str, list[tuple[str, str]], bytes]:
        if fault.page:
            return "502 Bad Gateway", [("Content-Type", "text/html")], b"<!doctype html>\n<title>502</title>"
        status = f"{fault.status} Fault"
        if json_:
            said = json.dumps({"__type": fault.code, "message": fault.message})
            return status, [("Content-Type", "application/x-amz-json-1.1")], said.encode()
        error = f"<Error><Code>{fault.code}</Code><Message>{escape(fault.message)}</Message></Error>"
        if operation == "GetCallerIdentity":
            whole = f"<ErrorResponse>{error}<RequestId>1</RequestId></ErrorResponse>"
        else:
            whole = f"<Response><Errors>{error}</Errors><RequestID>1</RequestID></Response>"
        return status, [("Content-Type", "text/xml")], whole.encode()

    def _take(self, operation: str, zone: str | None) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.operation == operation and fault.times > 0 and fault.zone in (None, zone):
                    fault.times -= 1
                    return fault
        return None

    def _zone(self, region: str, body: Mapping[str, str]) -> str | None:
        subnet = body.get("NetworkInterface.1.SubnetId")
        return ec2_backends[ACCOUNT][region].get_subnet(subnet).availability_zone if subnet else None

    # ---- machines ----

    def _after(self, operation: str, body: Mapping[str, str], status: str) -> None:
        if not status.startswith("200"):
            return
        if operation == "RunInstances":
            for one in [each for region in REGIONS for each in _all(region) if each.id not in self._readings]:
                self._made(one)
        elif operation == "TerminateInstances":
            self._look()

    def _made(self, one: Instance) -> None:
        with self._lock:
            self._readings[one.id] = Reading(one.id, _name(one), one.instance_type)
        if self.make_machine is None:
            one.nics[0].public_ip = "127.0.0.1"
            self._set(one.id, running_at=time.time())
            return
        text = one.user_data.decode() if one.user_data else None
        machine = self.make_machine(Order(one.id.removeprefix("i-"), _name(one), (), text, Boot()))
        one._state.name, one._state.code = "pending", 0
        one.nics[0].public_ip = machine.address
        with self._lock:
            self._machines[one.id] = _Machine(one, machine)
        machine.start()

    def _set(self, instance_id: str, **values: float) -> None:
        with self._lock:
            self._readings[instance_id] = replace(self._readings[instance_id], **values)

    def _watch(self) -> None:
        while not self._stop.wait(TICK_S):
            self._look()

    def _look(self) -> None:
        """What has booted runs; what has powered itself off, or is to end, ends."""
        with _WHOLE:
            self._look_at_all()

    def _look_at_all(self) -> None:
        with self._lock:
            machines = dict(self._machines)
        for instance_id, each in machines.items():
            one, machine = each.instance, each.machine
            if one.state == "pending" and machine.ready():
                one._state.name, one._state.code = "running", 16
                self._set(instance_id, running_at=time.time())
            if getattr(machine, "powered_off", False) and one.state in ("pending", "running"):
                one.terminate() if one.instance_initiated_shutdown_behavior == "terminate" else one.stop()
            if one.state in ("terminated", "shutting-down"):
                self._set(instance_id, ended_at=time.time())
                with self._lock:
                    self._machines.pop(instance_id, None)
                machine.destroy()
        for region in REGIONS:
            for one in _all(region):
                reading = self._readings.get(one.id)
                if one.state != "terminated" or reading is None:
                    continue
                for card in one.nics.values():
                    card.delete_on_termination = False  # moto takes a second terminate for one of that card
                if reading.ended_at is None:
                    self._set(one.id, ended_at=time.time())

    def _end_machines(self) -> None:
        with self._lock:
            machines = list(self._machines.values())
            self._machines.clear()
        for each in machines:
            each.machine.destroy()


def _all(region: str) -> list[Instance]:
    return list(ec2_backends[ACCOUNT][region].all_instances())


def _name(one: Instance) -> str:
    return next((str(tag["value"]) for tag in one.get_tags() if tag["key"] == "Name"), "")


def _sell_p3() -> None:
    """Adds what moto's tables of types have lost, as they would have it."""
    like = INSTANCE_TYPES["g5.xlarge"]
    for name, vcpus in P3.items():
        if name in INSTANCE_TYPES:
            continue
        INSTANCE_TYPES[name] = like | {"InstanceType": name, "VCpuInfo": {"DefaultVCpus": vcpus}}
        InstanceTypeBackend.instance_types.append(InstanceType(name))
        for region in REGIONS:
            offerings = INSTANCE_TYPE_OFFERINGS["availability-zone"][region]
            for zone in (f"{region}a", f"{region}b"):
                offerings.append({"InstanceType": name, "Location": zone, "LocationType": "availability-zone"})
