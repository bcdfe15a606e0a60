"""A plan as `plan/1` says it: on standard output, and as `plan.json` among the results."""

from __future__ import annotations

from typing import Any

from jobs.job import utc
from jobs.offer import Plan


def plan_document(plan: Plan) -> dict[str, Any]:
    offers: list[dict[str, Any]] = []
    for priced in plan.offers:
        offer = priced.offer
        offers.append(
            {
                "cloud": offer.cloud,
                "instance_type": offer.instance_type,
                "region": offer.region,
                "gpus": offer.gpus,
                "gpu": offer.gpu,
                "vram_gib": offer.vram_gib,
                "spot": offer.spot,
                "price_per_hour": offer.price_per_hour,
                "capacity": offer.capacity,
                "price_as_of": utc(offer.price_as_of) if offer.price_as_of else None,
                "option": priced.option.name,
                "steps": priced.steps or None,
                "hours_expected": priced.hours_expected,
                "hours_affordable": priced.hours_affordable,
                "cost_expected": priced.cost_expected,
                "cost_worst": priced.cost_worst,
                "phases": [phase.model_dump() for phase in priced.phases],
                "basis": priced.basis,
                "fits": priced.fits,
                "why_not": [reason.model_dump() for reason in priced.why_not],
            }
        )
    return {
        "schema": "plan/1",
        "requirement": plan.requirement,
        "budget_usd": plan.budget_usd,
        "budget_needed_usd": plan.budget_needed_usd,
        "steps": plan.steps,
        "steps_total": plan.steps_total,
        "partial": plan.partial,
        "offers": offers,
        "chosen": plan.chosen.model_dump() if plan.chosen else None,
    }
