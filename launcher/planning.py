"""`plan()`: requirement x offers x budget -> every way to run the job, best first, and the one chosen. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jobs.offer import Chosen, Offer, Plan, PricedOffer, Rate
from jobs.price import price
from train.requirement import Option, Requirement

PARTIAL_SHARE = 0.1
"""Of an epoch's steps: what partial training on a CPU does (848 of 8,484 in the case this was made for)."""


def steps_an_epoch(requirement: Requirement) -> int:
    workload = requirement.workload
    return math.ceil(workload.data.train_examples / workload.training.batch_size)


def steps_in_full(requirement: Requirement) -> int:
    return math.ceil(requirement.workload.training.epochs * steps_an_epoch(requirement))


def steps_in_part(requirement: Requirement) -> int:
    return max(1, math.floor(PARTIAL_SHARE * steps_an_epoch(requirement)))


def plan(
    requirement: Requirement,
    offers: Sequence[Offer],
    rates: Sequence[Rate],
    *,
    budget_usd: float | None = None,
    cloud: str | None = None,
    within_hours: float = 24.0,
    max_steps: int | None = None,
    partial: bool = False,
) -> Plan:
    """Pair every option with every offer, price each pair, rank them, and choose.

    Without a budget nothing is bought: this machine's GPU runs the whole job where an option fits it, else its CPU
    runs a part of it, and time is no reason against either. With one, chosen is the cheapest expected cost of what
    fits; ties go to the sooner. The result does not depend on the order of `offers`.
    """
    free = budget_usd is None
    whole = steps_in_full(requirement)

    def steps_of(option: Option) -> int:
        in_part = partial or (free and option.device == "cpu")
        return max_steps or (steps_in_part(requirement) if in_part else whole)

    ranked = sorted(
        (
            price(
                option,
                offer,
                steps=steps_of(option),
                rate=rate_for(option, rates),
                budget_usd=budget_usd,
                within_hours=None if free else within_hours,
            )
            for option in requirement.options
            for offer in offers
            if (_is_free(offer) if free else cloud in (None, "any", offer.cloud))
            if (option.device == "cpu") == (offer.gpus == 0)
        ),
        key=_rank,
    )
    best = ranked[0] if ranked and ranked[0].fits else None
    steps = best.steps if best else max_steps or (steps_in_part(requirement) if partial else whole)
    return Plan(
        requirement=requirement.workload.model.architecture or "model",
        budget_usd=budget_usd,
        budget_needed_usd=None,
        steps=steps,
        steps_total=whole,
        partial=steps < whole,
        offers=tuple(ranked),
        chosen=best and Chosen(offer=0, reason=_reason(best, ranked)),
    )


def _is_free(offer: Offer) -> bool:
    return offer.cloud == "local" and offer.price_per_hour == 0


def rate_for(option: Option, rates: Sequence[Rate]) -> Rate | None:
    """The newest rate of this machine for the option's device and precision."""
    wanted = (precision_on(option),)
    if option.device == "cuda" and option.trainer.precision in ("auto", "16bit"):
        wanted = ("bf16", "fp16")  # a GPU was measured in the one that it has
    fitting = [rate for rate in rates if rate.device == option.device and rate.precision in wanted]
    return max(fitting, key=lambda rate: rate.measured_at, default=None)


def precision_on(option: Option) -> str:
    """What `auto` and `16bit` become on a device; a GPU without bf16 says so when it trains."""
    asked = option.trainer.precision
    if asked == "auto":
        return "fp32" if option.device == "cpu" else "bf16"
    return "bf16" if asked == "16bit" else asked


def _rank(priced: PricedOffer) -> tuple[object, ...]:
    unknown = math.inf
    cost = priced.cost_expected if priced.cost_expected is not None else unknown
    hours = priced.hours_expected if priced.hours_expected is not None else unknown
    return (
        not priced.fits,
        cost,
        priced.option.device == "cpu",  # at the same cost a GPU is the sooner one, measured or not
        hours,
        -priced.option.min_vram_gib,  # of two ways that fit one GPU, the one that gives up less precision
        len(priced.why_not),
        priced.option.name,
        priced.offer.cloud,
        priced.offer.instance_type,
        priced.offer.region or "",
        priced.offer.price_per_hour,
    )


def _reason(best: PricedOffer, ranked: Sequence[PricedOffer]) -> str:
    if best.offer.gpus:
        return f"{best.option.name} fits this machine's {best.offer.gpu}, at no cost."
    gaps = [gap for other in ranked if other.offer.gpus for gap in other.why_not if gap.code == "vram"]
    if gaps:
        return f"This machine's GPU has {gaps[0].have} and {gaps[0].need} are needed, so its CPU trains, at no cost."
    return "This machine has no GPU that can do it, so its CPU trains, at no cost."
