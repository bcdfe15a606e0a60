"""What is said about money before anything happens."""

from __future__ import annotations

from artifacts.errors import NothingFits
from jobs.price import BACKENDS
from launcher.catalogue import fetch
from launcher.settings import Settings


def refuse_what_cannot_be_rented(settings: Settings) -> None:
    """A budget for a cloud that has no backend is refused before anything is made or downloaded."""
    if settings.budget is None or settings.cloud in (None, "any", *BACKENDS):
        return
    raise NothingFits(
        f"Nothing fits: this version cannot rent from {settings.cloud} yet.",
        costing="Nothing was bought.",
        next_step="launch dpo --cloud local, or without --budget: on this machine, at no cost.",
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
