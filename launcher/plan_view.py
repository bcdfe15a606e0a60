"""A plan as a person reads it: the way chosen and why first, then the others."""

from __future__ import annotations

import shlex
from typing import Any

from jobs.offer import Plan, PricedOffer
from launcher.console import duration, money
from train.requirement import Requirement

ROWS = 12


def sentence(plan: Plan, requirement: Requirement) -> str:
    """What would run, in one sentence: steps of how many, where, how long, what it costs."""
    choice = plan.choice
    if choice is None:
        return "Nothing fits."
    steps_an_epoch = -(-requirement.workload.data.train_examples // requirement.workload.training.batch_size)
    if plan.partial:
        what = f"Partial training: {plan.steps:,} steps of {steps_an_epoch:,} in an epoch"
    else:
        what = f"The whole training: {plan.steps:,} steps"
    return f"{what}, on {_where(choice)}, {expected_time(choice)}, {money(choice.cost_expected)}."


def expected_time(choice: PricedOffer) -> str:
    """`about 12 min of training (8 min to 36 min)`, or that nobody measured it."""
    if choice.option.flop_per_step is None:
        return "for an unknown time (the requirement file says no FLOPs a step)"
    if choice.hours_expected is None:
        return "for an unknown time (this machine's speed was not measured yet)"
    phase = choice.phases[0]
    low, high = ((hours or 0.0) * 3600 for hours in (phase.hours_low, phase.hours_high))
    return f"about {duration(choice.hours_expected * 3600)} of training ({duration(low)} to {duration(high)})"


def _where(choice: PricedOffer) -> str:
    offer = choice.offer
    return f"{offer.instance_type}: {offer.gpu}" if offer.gpu else offer.instance_type


def table(plan: Plan, *, everything: bool = False) -> list[str]:
    """Lines of a table that fits 80 columns, best first, then why each of the others does not fit."""
    rows = plan.offers if everything else plan.offers[:ROWS]
    head = ("", "where", "option", "steps", "hours", "cost", "")
    body = [
        (
            ">" if plan.chosen and plan.chosen.offer == index else "",
            f"{priced.offer.cloud} {priced.offer.gpu or 'CPU'}",
            priced.option.name,
            f"{priced.steps:,}",
            "?" if priced.hours_expected is None else f"{priced.hours_expected:,.1f}",
            money(priced.cost_expected),
            "fits"
            if priced.fits
            else "no: " + "; ".join(f"{gap.code} {gap.need}, has {gap.have}" for gap in priced.why_not),
        )
        for index, priced in enumerate(rows)
    ]
    widths = [max(len(row[column]) for row in [head, *body]) for column in range(6)]
    right = (3, 4, 5)

    def line(row: tuple[str, ...]) -> str:
        cells = [row[i].rjust(widths[i]) if i in right else row[i].ljust(widths[i]) for i in range(6)]
        return "  ".join([*cells, row[6]]).rstrip()

    lines = [line(head), *(line(row) for row in body)]
    if len(plan.offers) > len(rows):
        lines.append(f"({len(plan.offers) - len(rows)} more: --all)")
    return lines


def command(flags: dict[str, Any]) -> str:
    """The `launch dpo` that runs what was planned with these flags."""
    words = ["launch", "dpo"]
    for name, value in flags.items():
        if value not in (None, False):
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)


def next_step(plan: Plan, flags: dict[str, Any]) -> str:
    """A command that could fit: a part where time or money is short, else a look at every offer."""
    gaps = [{gap.code for gap in priced.why_not} for priced in plan.offers]
    if any(codes <= {"within", "budget"} for codes in gaps) and not flags.get("partial"):
        return command({**flags, "partial": True})
    return f"{command(flags).replace('launch dpo', 'launch plan dpo', 1)} --all shows what each way needs"


def why_nothing_fits(plan: Plan) -> str:
    reasons = [
        f"{priced.option.name} on {priced.offer.cloud} {priced.offer.gpu or 'CPU'}: "
        + "; ".join(f"{gap.code}: needs {gap.need}, has {gap.have}" for gap in priced.why_not)
        for priced in plan.offers[:6]
    ]
    return "\n".join(reasons) or "No machine was found for any option."
