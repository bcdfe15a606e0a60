"""What would fit where nothing does: each as the literal command, with what it would do, found by planning it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jobs.offer import Plan
from launcher.console import duration, money
from launcher.settings import Settings

MANY = 4


@dataclass(frozen=True)
class Remedy:
    flags: dict[str, Any]
    """What to change of the flags that were given."""
    does: str


def remedies(settings: Settings, epochs: float, planned: Callable[..., Plan], first: Plan) -> list[Remedy]:
    """Changes of the flags that make a fitting plan, the smallest first, at most four. `first` fitted nothing."""
    found: list[Remedy] = []
    for changes in _changes(settings, epochs, first):
        plan = planned(**changes)
        choice = plan.choice
        if choice is None:
            continue
        part = f"{plan.steps:,} of {plan.steps_total:,} steps" if plan.partial else f"all {plan.steps:,} steps"
        hours = "" if choice.hours_expected is None else f", about {duration(choice.hours_expected * 3600)}"
        where = choice.offer.gpu or "CPU"
        found.append(Remedy(changes, f"{part} on {choice.offer.cloud} {where}{hours}, {money(choice.cost_expected)}"))
    return found[:MANY]


def _changes(settings: Settings, epochs: float, first: Plan) -> Iterator[dict[str, Any]]:
    if settings.budget is not None and first.budget_needed_usd and first.budget_needed_usd > settings.budget:
        yield {"budget": first.budget_needed_usd}
    if epochs > 1:
        yield {"epochs": 1.0}
    if settings.cloud not in (None, "any") and settings.budget is not None:
        yield {"cloud": "any"}
    hours = [one.hours_expected for one in first.offers if {gap.code for gap in one.why_not} == {"within"}]
    known = [each for each in hours if each is not None]
    if known:
        yield {"within": float(-(-min(known) // 1))}
    if not settings.partial and settings.budget is not None:
        yield {"partial": True}
    if settings.budget is not None:
        yield {"budget": None, "cloud": None, "partial": settings.partial}
