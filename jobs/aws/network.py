"""Where a machine stands on AWS: zones that offer its type, their subnets, and who may reach its port 22."""

from __future__ import annotations

import ipaddress
import time
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

from jobs.aws.account import Account
from jobs.aws.problems import AwsProblem, asking
from jobs.backends import OfferFailed

ASK_ADDRESS = "https://checkip.amazonaws.com"
"""AWS's own answer to where a question comes from."""
EVERYWHERE = "0.0.0.0/0"
TIMEOUT_S = 5.0
LISTED_WITHIN_S = 20
SOURCES = ("IpRanges", "Ipv6Ranges", "PrefixListIds", "UserIdGroupPairs")
DESCRIPTION = "SSH to machines of dpo-launch, from the computer that rents them"


def zones_offering(account: Account, instance_type: str, region: str) -> list[str]:
    """The zones of `region` that offer the type at all; whether one is free, only a create call says."""
    client = account.client("ec2", region)
    filters = [{"Name": "instance-type", "Values": [instance_type]}]
    with asking(region):
        pages: Any = client.get_paginator("describe_instance_type_offerings").paginate(
            LocationType="availability-zone", Filters=filters
        )
        return sorted(str(each["Location"]) for page in pages for each in page["InstanceTypeOfferings"])


def default_subnets(account: Account, region: str) -> tuple[str, dict[str, str]]:
    """The region's default network, and its subnet of each zone.

    Raises:
        OfferFailed: somebody has deleted it.
    """
    client = account.client("ec2", region)
    with asking(region):
        networks: Any = client.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        if not networks:
            remedy = f"aws ec2 create-default-vpc --region {region}"
            raise OfferFailed(f"{region} has no default network (VPC)", why=f"One is made by: {remedy}")
        network = str(networks[0]["VpcId"])
        filters = [{"Name": "vpc-id", "Values": [network]}, {"Name": "default-for-az", "Values": ["true"]}]
        found: Any = client.describe_subnets(Filters=filters)["Subnets"]
    return network, {str(each["AvailabilityZone"]): str(each["SubnetId"]) for each in found}


def my_network(environ: Mapping[str, str]) -> str:
    """The addresses from which this computer is seen, as `A.B.C.D/N`; everywhere, where nobody says.

    `$LAUNCH_PUBLIC_ADDRESS` is an address or a network, for who leaves by several.
    """
    given = environ.get("LAUNCH_PUBLIC_ADDRESS")
    try:
        if given is None:
            with urllib.request.urlopen(ASK_ADDRESS, timeout=TIMEOUT_S) as answer:
                given = answer.read(64).decode("ascii").strip()
        return str(ipaddress.IPv4Network(given, strict=False))
    except (OSError, HTTPException, ValueError):
        return EVERYWHERE


def ensure_group(account: Account, name: str, network: str, source: str, region: str) -> str:
    """The security group of that name, which lets in port 22 from `source` and nothing else; its id."""
    client = account.client("ec2", region)
    found = _groups(client, name, network, region)
    if not found:
        tags = [{"ResourceType": "security-group", "Tags": [{"Key": "Name", "Value": name}]}]
        _unless_done("InvalidGroup.Duplicate", region, client.create_security_group, GroupName=name, VpcId=network,
                     Description=DESCRIPTION, TagSpecifications=tags)  # fmt: skip
        for _ in range(LISTED_WITHIN_S):  # a list may lag behind it
            found = _groups(client, name, network, region)
            if found:
                break
            time.sleep(1)
        else:
            raise AwsProblem(f"the security group {name} was made, and is not listed", code="InvalidGroup.NotFound")
    group: Any = found[0]
    _let_in(client, group, source, region)
    return str(group["GroupId"])


def _groups(client: Any, name: str, network: str, region: str) -> list[Any]:
    filters = [{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [network]}]
    with asking(region):
        found: list[Any] = client.describe_security_groups(Filters=filters)["SecurityGroups"]
    return found


def let_in_again(account: Account, group_id: str, source: str, region: str) -> None:
    """For a computer that has moved: its rule in a group of ours follows it."""
    client = account.client("ec2", region)
    with asking(region):
        found: Any = client.describe_security_groups(GroupIds=[group_id])["SecurityGroups"]
    if found and found[0].get("Description") == DESCRIPTION:
        _let_in(client, found[0], source, region)


def _let_in(client: Any, group: Any, source: str, region: str) -> None:
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
    have, stale = False, list[Any]()
    for rule in group["IpPermissions"]:
        rest = dict(rule)
        if all(rule.get(key) == value for key, value in ssh.items()):
            have = have or any(each["CidrIp"] == source for each in rule["IpRanges"])
            rest["IpRanges"] = [each for each in rule["IpRanges"] if each["CidrIp"] != source]
        if any(rest.get(key) for key in SOURCES):
            stale.append({key: value for key, value in rest.items() if value or key not in SOURCES})
    group_id = str(group["GroupId"])
    if not have:
        call, rules = client.authorize_security_group_ingress, [ssh | {"IpRanges": [{"CidrIp": source}]}]
        _unless_done("InvalidPermission.Duplicate", region, call, GroupId=group_id, IpPermissions=rules)
    if stale:
        call = client.revoke_security_group_ingress
        _unless_done("InvalidPermission.NotFound", region, call, GroupId=group_id, IpPermissions=stale)


def _unless_done(code: str, region: str, call: Any, **named: Any) -> None:
    """Two drivers of one store may do the same at one moment."""
    try:
        with asking(region):
            call(**named)
    except AwsProblem as problem:
        if problem.code != code:
            raise
