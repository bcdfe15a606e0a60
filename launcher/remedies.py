"""What would fit where nothing does: each as the literal command, with what it would do, found by planning it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.offer import Plan
from launcher.console import duration, money
from launcher.request import Market
from launcher.workload import as_flags

MANY = 5
NEXT_TO_NOTHING = 0.01
"""A budget (USD) with which one asks what it would take."""


@dataclass(frozen=True)
class Remedy:
    flags: dict[str, Any]
    """What to change of the flags that were given; None takes one away."""
    does: str


def remedies(flags: Mapping[str, Any], market: Market, first: Plan) -> list[Remedy]:
    """Changes of the flags that make a fitting plan, at most five. `first` fitted nothing.

    `flags` are those that were typed: what stands in a file or a variable cannot be taken away by typing less.
    """
    return [found for found in _found(flags, market, first) if found is not None][:MANY]


def _found(flags: Mapping[str, Any], market: Market, first: Plan) -> Iterator[Remedy | None]:
    settings = market.request.settings
    if settings.budget is not None:
        if first.budget_needed_usd is not None and first.budget_needed_usd > settings.budget:
            yield _tried(market, budget=first.budget_needed_usd)
        if settings.max_steps is None:
            yield _most_epochs(market)
            yield from _parts(market)
        if settings.cloud not in (None, "any"):
            yield _tried(market, cloud="any")
    yield _later(market, first)
    if settings.budget is None:
        needed = market.plan(choice_alone=True, budget=NEXT_TO_NOTHING).budget_needed_usd
        yield None if needed is None else _tried(market, budget=needed)
    elif flags.get("budget") is not None:
        yield _tried(market, budget=None, **({"cloud": None} if flags.get("cloud") else {}))
    yield _in_4_bits(flags, market, first)


def _tried(market: Market, **changes: Any) -> Remedy | None:
    """These changes, where a plan with them fits."""
    plan = market.plan(choice_alone=True, needed=False, **changes)
    choice = plan.choice
    if choice is None:
        return None
    part = f"{plan.steps:,} of {plan.steps_total:,} steps" if plan.partial else f"all {plan.steps:,} steps"
    hours = "" if choice.hours_expected is None else f", about {duration(choice.hours_expected * 3600)}"
    where = f"{choice.option.name} on {choice.offer.cloud} {choice.offer.gpu or 'CPU'}"
    return Remedy(changes, f"{part}: {where}{hours}, {money(choice.cost_expected)}")


def _most_epochs(market: Market) -> Remedy | None:
    """As many whole epochs as fit. Fewer steps never cost more, so that halves are looked at."""
    least, most = 0, math.ceil(market.request.requirement.workload.training.epochs) - 1
    best: Remedy | None = None
    while least < most:
        epochs = (least + most + 1) // 2
        found = _tried(market, epochs=float(epochs))
        least, most = (epochs, most) if found else (least, epochs - 1)
        best = found or best
    return best


def _parts(market: Market) -> Iterator[Remedy | None]:
    """The part that this budget buys, and where that is none on a rented machine, the least budget for a sensible one.

    A tenth of an epoch is sensible, and more steps than this machine does in the time at no cost.
    """
    budget = market.request.settings.budget
    part = market.plan(choice_alone=True, needed=False, partial=True)
    if not market.request.settings.partial:
        yield _tried(market, partial=True)
    if part.choice is not None and part.choice.offer.price_per_hour > 0:
        return
    least = market.budget_for_part(at_least=0 if part.choice is None else part.choice.steps + 1)
    if budget is not None and least is not None and least > budget:
        yield _tried(market, partial=True, budget=least)


def _later(market: Market, first: Plan) -> Remedy | None:
    """The time that it would take, where that alone is against it."""
    hours = [one.hours_expected for one in first.offers if {gap.code for gap in one.why_not} == {"within"}]
    known = [each for each in hours if each is not None]
    return _tried(market, within=float(math.ceil(min(known)))) if known else None


def _in_4_bits(flags: Mapping[str, Any], market: Market, first: Plan) -> Remedy | None:
    """An estimate of one's own, where memory is what lacks and the requirement file has no way with 4-bit weights."""
    requirement = market.request.requirement
    lacks = any(gap.code == "vram" for one in first.offers for gap in one.why_not)
    if not lacks or not flags.get("requirements") or any(o.trainer.quantization == "nf4" for o in requirement.options):
        return None
    named = as_flags(requirement.workload)
    if named is None:
        return None
    return Remedy(
        {"requirements": None, **named},
        "looks for ways with 4-bit weights too, which the requirement file does not have",
    )
