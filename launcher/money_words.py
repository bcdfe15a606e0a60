"""What is said about money before anything happens."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping

from artifacts.errors import CredentialProblem, LaunchError, NothingFits, UsageProblem
from jobs.clouds import CLOUDS
from jobs.offer import Plan, PricedOffer
from jobs.price import BACKENDS
from launcher.catalogue import fetch
from launcher.console import duration, money
from launcher.settings import Settings


def refuse_what_cannot_be_rented(settings: Settings) -> None:
    """A budget for a cloud that has no backend is refused before anything is made or downloaded."""
    if settings.budget is None or settings.cloud in (None, "any", *BACKENDS):
        return
    raise NothingFits(
        f"Nothing fits: this version cannot rent from {settings.cloud} yet.",
        costing="Nothing was bought.",
        next_step=f"launch {settings.method} --cloud local, or without --budget: on this machine, at no cost.",
    )


def no_budget_line(settings: Settings, needed_usd: float | None, *, priced: bool) -> str | None:
    """The first line where a cloud was named and no budget: nothing is bought, and what budget the job would need.

    Where no offer of the cloud is `priced`, the commands that get its prices.
    """
    if settings.budget is not None or settings.cloud in (None, "local"):
        return None
    said = f"--cloud {settings.cloud} without --budget buys nothing, so this runs on this machine. "
    if not priced:
        clouds = ("lambda", "aws") if settings.cloud == "any" else (str(settings.cloud),)
        return f"{said}What it would cost there: {'; '.join(fetch(cloud) for cloud in clouds)}"
    if needed_usd is None:
        return said + "What it would cost there is not known."
    return said + f"There the whole job is expected to cost ${needed_usd:,.2f}."


def before_renting(plan: Plan, settings: Settings) -> list[str]:
    """What must be said before a machine is rented: what it can cost, how long results wait, what will lie on it."""
    choice = plan.choice
    if choice is None or not choice.offer.price_per_hour:
        return []
    deadline_h = max(0.0, (choice.hours_affordable or 0.0) - CLOUDS[choice.offer.cloud].teardown.high)
    until = f"{duration(deadline_h * 3600)} after it starts"
    if settings.hold is not None:
        until = f"{settings.hold:g} min after the training, {until} at the latest"
    from jobs.backends.choose import usable_clouds

    elsewhere = sorted(usable_clouds(plan) - {choice.offer.cloud})
    return [
        f"Expected to cost {money(choice.cost_expected)}; {money(choice.cost_worst)} at most: the machine ends itself.",
        f"If this computer goes away, the results wait on the machine until {until}, then it ends.",
        *LIES_THERE[choice.offer.cloud],
        *(f"If there is none, one of {cloud}. {said}" for cloud in elsewhere for said in LIES_THERE[cloud]),
    ]


LIES_THERE = {
    "lambda": (
        (
            "On it will lie: your model and data, and your Lambda API key (a copy for root, with which it ends "
            "itself, and SkyPilot's, which its user can read; neither is in the trainer's container)."
        ),
    ),
    "aws": (
        "On it will lie: your model and data, and no credential of AWS: it ends itself by powering off.",
        "AWS charges its disk and address beside it, some cents an hour, and they are within the budget.",
    ),
}
"""By cloud."""


def check_can_start(plan: Plan, settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """What is missing here to rent the chosen machine, or for the trainer's image, is said before anybody is asked.

    Returns what else is to be said: offers that cannot be had, where others of the plan can.

    Raises:
        CredentialProblem: no key, or one that cannot be used.
        NothingFits: the cloud would refuse each offer of the plan.
        UsageProblem: the program is installed without what rents; no container engine, no image.
    """
    choice = plan.choice
    if choice is None:
        return []
    if choice.offer.cloud == "local":
        if settings.container:
            from jobs.container import find_image

            find_image(choice.option.device, choice.offer.gpu, settings.image)
        return []
    said = _check_credentials(plan, choice, environ)
    on_aws = choice.offer.cloud == "aws"
    missing = [name for name in ("skypilot", "fabric", *(("boto3", "awscli") if on_aws else ())) if not _has(name)]
    if missing:
        extras = "cloud,aws" if on_aws else "cloud"
        raise UsageProblem(
            f"Renting needs {' and '.join(missing)}, which this installation lacks.",
            next_step=f"pipx install '.[{extras}]' (or: pip install 'dpo-launch[{extras}]')",
        )
    return said


def _check_credentials(plan: Plan, choice: PricedOffer, environ: Mapping[str, str]) -> list[str]:
    if choice.offer.cloud == "aws":
        return _rehearse(plan, environ)
    from jobs.lambda_key import lambda_key, new_key

    if lambda_key(environ) is None:
        raise CredentialProblem("There is no key of Lambda here, so nothing can be rented.", next_step=new_key())
    return []


def _rehearse(plan: Plan, environ: Mapping[str, str]) -> list[str]:
    """What AWS would refuse of the plan's first offers there, until one that it would not."""
    from jobs.aws.account import Account
    from jobs.backends import CloudSilent, OfferFailed
    from jobs.backends.aws_cloud import AwsCloud
    from jobs.backends.choose import place, ranked

    offers = ranked(plan)
    elsewhere = [one for one in offers if one.offer.cloud != "aws"]
    kinds: dict[tuple[str, str, str | None], PricedOffer] = {}
    for one in offers:
        if one.offer.cloud == "aws":
            kinds.setdefault(place(one), one)
    account, refused = Account(environ), list[str]()
    for one in list(kinds.values())[:REHEARSED]:
        offer = one.offer
        cloud = AwsCloud(account, str(offer.region), gpu=offer.gpu, needed_disk_gib=one.option.min_disk_gib)
        try:
            cloud.rehearse(offer)
        except CloudSilent as error:
            return [*refused, f"{error.what}: {error.why}. The job asks again."]
        except LaunchError as error:
            if not (isinstance(error, OfferFailed) or elsewhere or refused):
                raise
            refused.append(_refusal(one, error))
        else:
            return [*refused, _instead(one)] if refused else []
    if elsewhere:
        return [*refused, _instead(elsewhere[0])]
    if len(refused) < len(kinds):
        return [*refused, "The next of the plan is tried in its place."]
    raise NothingFits(
        "AWS would refuse every machine that fits.", why="\n".join(refused), costing="Nothing was bought.",
        next_step="what the line above names, or another --region or --instance-type, or --cloud any",
    )  # fmt: skip


def _refusal(one: PricedOffer, error: LaunchError) -> str:
    said = " ".join(part for part in (error.what, error.why) if part)
    return f"{one.offer.cloud} {one.offer.instance_type} in {one.offer.region}: {said}"


def _instead(one: PricedOffer) -> str:
    offer, expected = one.offer, money(one.cost_expected)
    return f"{offer.cloud} {offer.instance_type} in {offer.region} is tried in its place: {expected} expected."


REHEARSED = 4
"""Offers that are tried before the question: each takes AWS a second or two to answer for."""


def _has(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
