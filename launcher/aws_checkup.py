"""What `launch doctor` says of AWS: whose credentials, the region, the quotas of GPUs, prices; each with its remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from artifacts.errors import CredentialProblem, LaunchError
from jobs.aws import network, price, quota
from jobs.aws.account import Account, no_credentials, signs_of_credentials

ASKED_FOR = "g5.xlarge"
"""A type that is sold nearly everywhere, to see whether prices and zones are told at all."""
KINDS = (("G", "g5.xlarge"), ("P", "p4d.24xlarge"))


def region_of(environ: Mapping[str, str]) -> str:
    """The one that a person has set for AWS's own tools, without the files; else the oldest."""
    return environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def look(environ: Mapping[str, str]) -> tuple[Literal["good", "note", "broken"], str, str | None]:
    """Level (`good`, `note`, `broken`), what was found, and the remedy."""
    if not signs_of_credentials(environ):
        missing = no_credentials()
        return "note", "no credentials here; nothing is rented there", missing.next_step
    region = region_of(environ)
    try:
        account = Account(environ)
        identity = account.identity()
        enabled = account.regions()
    except CredentialProblem as error:
        return "broken", f"{error.what} {error.why}".strip(), error.next_step
    except LaunchError as error:
        return "note", f"{error.what} Why: {error.why}", error.next_step
    if region not in enabled:
        remedy = f"aws account enable-region --region-name {region}, or another AWS_REGION"
        return "broken", f"the account {identity.account} has not enabled {region}", remedy
    said, remedies = [f"account {identity.account} is known"], list[str]()
    for each, remedy in (_quotas(account, region), _prices(account, region), _zones(account, region)):
        said.append(each)
        remedies += [remedy] if remedy else []
    return "note" if remedies else "good", "; ".join(said), " and ".join(remedies) or None


def _quotas(account: Account, region: str) -> tuple[str, str]:
    found: list[str] = []
    empty: list[quota.Quota] = []
    try:
        for name, kind in KINDS:
            of = quota.quota_of(account, kind, region)
            found.append(f"{name} {of.vcpus:g} vCPUs")
            empty += [of] if of.vcpus < 1 else []
    except LaunchError as error:
        return f"quotas are not known: {error.what}", error.next_step
    remedy = ", ".join(f"raise {of.name} ({of.code}) at {of.page}" for of in empty)
    return f"quotas in {region}: {', '.join(found)}", remedy


def _prices(account: Account, region: str) -> tuple[str, str]:
    try:
        usd = price.on_demand(account, ASKED_FOR, region)
    except LaunchError as error:
        return f"prices are the catalogue's: {error.what}", error.next_step
    return ("prices are told" if usd else f"no price of {ASKED_FOR} in {region}"), ""


def _zones(account: Account, region: str) -> tuple[str, str]:
    try:
        number = len(network.zones_offering(account, ASKED_FOR, region))
        network.default_subnets(account, region)
    except LaunchError as error:
        return f"no machine can be placed: {error.what}", error.next_step or error.why
    return f"{number} zone{'' if number == 1 else 's'} with {ASKED_FOR}", ""
