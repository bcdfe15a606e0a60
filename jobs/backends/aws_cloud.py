"""AWS: on demand, by the second from running to terminated; a machine that is powered off is terminated.

A create call of our own: its user data arms the deadline, its shutdown behaviour makes powering off the end, its token
makes it one machine however often it is sent, and its tags are those by which SkyPilot knows a head node.
"""

from __future__ import annotations

import hashlib
import math
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

from artifacts.errors import CredentialProblem, LaunchError
from jobs.aws import codes, image, network, price, quota
from jobs.aws.account import Account
from jobs.aws.problems import AwsProblem, asking
from jobs.backends import CloudSilent, OfferFailed
from jobs.backends.provider import CreateUncertain, Instance, Order, Quote
from jobs.clouds import CLOUDS
from jobs.gpus import retired
from jobs.offer import Offer

THERE = ("pending", "running", "stopping", "stopped")
"""States that cost money, or may again; `shutting-down` and `terminated` do not."""
HEALTHY = frozenset({"pending", "running"})
DISK_BESIDE_GIB = 40
"""On the root volume beside the image and what the option needs: the container's image, unpacked, and its packages."""
LARGEST_DISK_GIB = 16384
LET_IN_EVERY_S = 60.0


class AwsCloud:
    """A `Provider`, of one region.

    Raises CredentialProblem where AWS does not accept the credentials or their user may not do a thing, which it
    names; AwsProblem where AWS does not answer.
    """

    name = "aws"
    cloud = CLOUDS["aws"]
    login_within_s = cloud.boot.high * 3600  # it is "running" before it boots
    on_host: tuple[str, str] = ("", "")
    """No key lies on the machine: it ends itself by powering off."""

    def __init__(self, account: Account, region: str, *, gpu: str | None, needed_disk_gib: float = 0.0) -> None:
        self.account, self.region, self._gpu = account, region, gpu
        self._needed_gib = math.ceil(needed_disk_gib) + DISK_BESIDE_GIB
        self._image: image.Image | None = None
        self._zones_of: dict[str, list[str]] = {}
        self._looked_at = float("-inf")

    def owner(self) -> str:
        return self.account.identity(self.region).account

    # ---- before a machine ----

    def quote(self, offer: Offer) -> Quote:
        """The instance, its root volume and its address; capacity is seen in the create call alone."""
        kind = offer.instance_type
        try:
            if not self._offering(kind):
                raise OfferFailed(f"AWS has no {kind} in {self.region}", why=retired(kind) or "")
            disk_gib = self._disk_gib()
        except AwsProblem as problem:
            raise _failed(problem) from problem
        self._require_quota(kind)
        return Quote(self._price(offer) + price.beside_the_instance(disk_gib), None)

    def _require_quota(self, kind: str) -> None:
        try:
            found = quota.quota_of(self.account, kind, self.region)
            too_small = found.too_small(kind, quota.vcpus_of(self.account, kind, self.region))
        except LaunchError as error:  # without the question the create call says it
            _log(f"the quota of {kind} is not known: {error}")
            return
        if too_small:
            raise OfferFailed(too_small)

    def rehearse(self, offer: Offer) -> None:
        """All that a create call needs, and the call itself as a question whether it is allowed. Nothing is made.

        Raises:
            CredentialProblem: AWS does not accept the credentials, or their user may not do it.
            OfferFailed: no machine of this offer can be had, as far as is seen before.
            AwsProblem: AWS does not answer.
        """
        self.account.identity(self.region)
        self.quote(offer)
        zone, subnet = next(iter(self._zones(offer.instance_type)[1].items()))
        asked = Order("launch-rehearsal-head", offer.instance_type, self.region, "", "#cloud-config")
        whole = request(asked, self._its_image(), self._disk_gib(), zone, subnet, group="")
        del whole["NetworkInterfaces"], whole["ClientToken"]
        client = self.account.client("ec2", self.region)
        try:
            with asking(self.region):
                client.run_instances(DryRun=True, SubnetId=subnet, **whole)
        except AwsProblem as problem:
            # Of room it cannot speak: it tries one zone, and makes nothing there.
            if problem.code not in {"DryRunOperation"} | codes.NO_CAPACITY | codes.NOT_IN_ZONE:
                raise _failed(problem) from problem

    def _price(self, offer: Offer) -> float:
        try:
            usd = price.on_demand(self.account, offer.instance_type, self.region)
        except LaunchError as error:
            _log(f"no price of now, so that of the plan, ${offer.price_per_hour:.3f}: {error}")
            usd = None
        return offer.price_per_hour if usd is None else usd

    def _its_image(self) -> image.Image:
        if self._image is None:
            self._image = image.image_for(self.account, self._gpu, self.region)
        return self._image

    def _disk_gib(self) -> int:
        size = max(self._its_image().size_gib, self._needed_gib)
        if size > LARGEST_DISK_GIB:
            raise OfferFailed(f"model and image need {size:,} GiB; a volume of AWS has {LARGEST_DISK_GIB:,} at most")
        return size

    def resources(self) -> Mapping[str, object]:
        return {"image_id": self._its_image().id, "disk_size": self._disk_gib()}

    def ensure_ssh_key(self, name: str, public: str) -> str:
        """The key goes over in the user data: none of the account's key pairs is made or read."""
        return ""

    # ---- the machine ----

    def create(self, order: Order) -> str:
        """The zones of the region, one after the other, until one has room; a refused call has made nothing."""
        try:
            made_from, disk_gib = self._its_image(), self._disk_gib()
            subnets, group = self._place(order)
        except AwsProblem as problem:
            raise OfferFailed(problem.what, why=problem.why) from problem
        refused: list[str] = []
        for zone, subnet in subnets.items():
            try:
                return self._run(request(order, made_from, disk_gib, zone, subnet, group))
            except _NotHere as error:
                _log(f"{zone}: {error}")
                refused.append(f"{zone}: {error.args[0]}")
        raise OfferFailed(f"no room for {order.instance_type} in any zone of {self.region}", why="; ".join(refused))

    def _place(self, order: Order) -> tuple[dict[str, str], str]:
        """The subnet of each zone that offers the type, and the security group."""
        vpc, zones = self._zones(order.instance_type)
        source = network.my_network(self.account.environ)
        if source == network.EVERYWHERE:
            _log(f"this computer's address is not known: port 22 of {order.name} is open to every address")
        computer = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]  # a store may be a team's
        name = f"{'-'.join(order.name.split('-')[:2])}-{computer}"  # launch-STORE-COMPUTER
        return zones, network.ensure_group(self.account, name, vpc, source, self.region)

    def _offering(self, instance_type: str) -> list[str]:
        """The zones that offer the type; asked once, as they hardly change."""
        if instance_type not in self._zones_of:
            self._zones_of[instance_type] = network.zones_offering(self.account, instance_type, self.region)
        return self._zones_of[instance_type]

    def _zones(self, instance_type: str) -> tuple[str, dict[str, str]]:
        """The region's network, and its subnet of each zone that offers the type."""
        vpc, subnets = network.default_subnets(self.account, self.region)
        zones = {zone: subnets[zone] for zone in self._offering(instance_type) if zone in subnets}
        if not zones:
            raise OfferFailed(f"no zone of {self.region} that has {instance_type} has a default subnet")
        return vpc, zones

    def _run(self, asked: Mapping[str, Any]) -> str:
        """One call, which boto3 does not repeat.

        Raises:
            _NotHere: another zone may have it.
        """
        client = self.account.client("ec2", self.region, attempts=1)
        try:
            with asking(self.region):
                made: Any = client.run_instances(**asked)
                return str(made["Instances"][0]["InstanceId"])
        except AwsProblem as problem:
            if problem.code in codes.NO_CAPACITY | codes.NOT_IN_ZONE:
                raise _NotHere(problem.code) from problem
            if problem.code in codes.NO_QUOTA:
                found = quota.family(str(asked["InstanceType"]))
                page = quota.Quota(*found, self.region, 0.0).page
                raise OfferFailed(
                    f"the quota {found[1]} ({found[0]}) of {self.region} is used up; ask for more at {page}",
                    why=problem.why,
                ) from problem
            if not problem.answered:
                raise CreateUncertain(problem.what, why=problem.why) from problem
            raise OfferFailed(problem.what, why=problem.why) from problem

    def named(self, name: str) -> list[Instance]:
        found = self._describe([{"Name": "tag:Name", "Values": [name]}])
        if found and time.monotonic() - self._looked_at > LET_IN_EVERY_S:
            self._looked_at = time.monotonic()
            self._let_in(found)
        return [self._instance(one) for one in found]

    def all(self) -> list[Instance]:
        return [self._instance(one) for one in self._describe([])]

    def terminate(self, ids: list[str]) -> None:
        client = self.account.client("ec2", self.region)
        for each in ids:  # of several ids in one call, one that is gone fails it for all
            try:
                with self._fresh(), asking(self.region):
                    client.terminate_instances(InstanceIds=[each])
            except AwsProblem as problem:
                if problem.code not in codes.NO_SUCH_INSTANCE:
                    raise

    def console(self) -> str:
        return f"https://{self.region}.console.aws.amazon.com/ec2/home?region={self.region}#Instances:"

    def _describe(self, filters: list[dict[str, Any]]) -> list[Any]:
        client = self.account.client("ec2", self.region)
        there = {"Name": "instance-state-name", "Values": list(THERE)}
        with self._fresh(), asking(self.region):
            pages: Any = client.get_paginator("describe_instances").paginate(Filters=[*filters, there])
            return [each for page in pages for group in page["Reservations"] for each in group["Instances"]]

    def _fresh(self) -> _Fresh:
        return _Fresh(self.account)

    def _let_in(self, found: list[Any]) -> None:
        """A computer that has moved to another network is let in from there."""
        source = network.my_network(self.account.environ)
        if source == network.EVERYWHERE:  # not known now: what it was is no wider
            return
        cards = [card for one in found for card in one.get("NetworkInterfaces", [])]
        groups = {str(group["GroupId"]) for card in cards for group in card.get("Groups", [])}
        for group in sorted(groups):
            try:
                network.let_in_again(self.account, group, source, self.region)
            except LaunchError as error:
                _log(f"the firewall of {group} stays as it is: {error}")

    def _instance(self, one: Any) -> Instance:
        tags = {str(tag["Key"]): str(tag["Value"]) for tag in one.get("Tags", [])}
        state = str(one["State"]["Name"])
        return Instance(
            id=str(one["InstanceId"]),
            name=tags.get("Name", ""),
            active=state == "running",
            healthy=state in HEALTHY,
            address=one.get("PublicIpAddress"),
            instance_type=str(one["InstanceType"]),
            region=self.region,
        )


def _failed(problem: AwsProblem) -> OfferFailed:
    """Of a question before the create call: refused, or not answered."""
    return (OfferFailed if problem.answered else CloudSilent)(problem.what, why=problem.why)


class _NotHere(Exception):
    """No such machine in this zone now."""


class _Fresh:
    """A session that is refused is read anew at the next question: somebody may sign in meanwhile."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, CredentialProblem):
            self._account.forget()


def request(order: Order, made_from: image.Image, disk_gib: int, zone: str, subnet: str, group: str) -> dict[str, Any]:
    """The `RunInstances` request of one machine in one zone."""
    cluster = order.name.removesuffix("-head")
    # By these SkyPilot finds a cluster and its head (sky/provision/constants.py).
    tags = {
        "Name": order.name,
        "ray-cluster-name": cluster,
        "skypilot-cluster-name": cluster,
        "ray-node-type": "head",
        "skypilot-head-node": "1",
        "launch": "dpo",
    }
    pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
    disk = {"VolumeSize": disk_gib, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}
    return {
        "ImageId": made_from.id,
        "InstanceType": order.instance_type,
        "MinCount": 1,
        "MaxCount": 1,
        # The same machine, however often the request arrives; another zone is another request.
        "ClientToken": hashlib.sha256(f"{order.name} {zone}".encode()).hexdigest(),
        "InstanceInitiatedShutdownBehavior": "terminate",
        "UserData": order.user_data,
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "SubnetId": subnet,
                "Groups": [group],
                "AssociatePublicIpAddress": True,
                "DeleteOnTermination": True,
            }
        ],
        "BlockDeviceMappings": [{"DeviceName": made_from.root_device, "Ebs": disk}],
        # One hop: a container with a network of its own does not reach the service, which hands out the user data.
        "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled", "HttpPutResponseHopLimit": 1},
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": pairs},
            {"ResourceType": "volume", "Tags": pairs},
        ],
    }


def _log(line: str) -> None:
    """Into a driver's log, or beside what a command prints."""
    print(line, file=sys.stderr, flush=True)
