"""A plan as a person reads it: the way chosen and why first, then the others."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jobs.offer import Plan, PricedOffer, WhyNot
from launcher.console import duration, money
from launcher.planning import load_of
from launcher.remedies import Remedy
from train.requirement import Requirement

ROWS = 12
WIDTH = 80
HEAD = ("", "where", "option", "steps", "hours", "cost", "")
STEPS = HEAD.index("steps")
NUMBERS = ("steps", "hours", "cost")

WORDS = {
    "vram": "GPU memory: {need}, has {have}",
    "ram": "memory: {need}, has {have}",
    "disk": "disk: {need}, has {have}",
    "gpus": "{need}, has {have}",
    "device": "needs {need}",
    "backend": "{have} cannot be rented yet",
    "spot": "not used yet",
    "budget": "needs {need}, above the budget",
    "within": "takes {need}, --within {have}",
    "no_flops": "hours unknown: no FLOPs in the file",
    "unmeasured": "hours unknown: not measured",
    "arch": "needs {need}, has {have}",
    "precision": "needs {need}, has {have}",
    "batch": "needs {need}, has {have}",
    "capacity": "no capacity now",
}


SHORT = {
    "vram": "GPU too small",
    "ram": "small RAM",
    "disk": "small disk",
    "gpus": "too few GPUs",
    "backend": "not rented yet",
    "spot": "not used yet",
    "budget": "over budget",
    "within": "too slow",
    "no_flops": "hours unknown",
    "unmeasured": "not measured",
    "arch": "not supported",
    "precision": "no bf16",
    "batch": "batch size",
    "capacity": "no capacity",
}
"""At most 14 characters, for a table of 80 columns; with --all each reason is said in full."""


def count(number: int | None, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def sentence(plan: Plan, requirement: Requirement) -> str:
    """What would run, in one sentence: steps of how many, where, how long, what it costs."""
    choice = plan.choice
    if choice is None:
        return "Nothing fits."
    steps_an_epoch = -(-requirement.workload.data.train_examples // requirement.workload.training.batch_size)
    if plan.partial:
        what = f"Partial training: {count(plan.steps, 'step')} of {steps_an_epoch:,} in an epoch"
    else:
        what = f"The whole training: {count(plan.steps, 'step')}"
    at_most = f", at most {money(choice.cost_worst)}" if choice.offer.price_per_hour else ""
    return f"{what}, on {_where(choice)}, {expected_time(choice)}, {money(choice.cost_expected)}{at_most}."


def expected_time(choice: PricedOffer) -> str:
    """`about 12 min of training (8 min to 36 min)`, or that nobody measured it."""
    if choice.option.flop_per_step is None:
        return "for an unknown time (the requirement file says no FLOPs a step)"
    phase = next((phase for phase in choice.phases if phase.name == "training"), None)
    if phase is None:
        return "for an unknown time (this machine's speed was not measured yet)"
    low, expected, high = (
        duration((hours or 0.0) * 3600) for hours in (phase.hours_low, phase.hours_expected, phase.hours_high)
    )
    if low == high:
        return f"{expected} of training"
    about = "" if expected.startswith("under") else "about "
    return f"{about}{expected} of training ({low} to {high})"


def _where(choice: PricedOffer) -> str:
    offer = choice.offer
    place = f"{offer.instance_type} in {offer.region}" if offer.region else offer.instance_type
    return f"{place}: {offer.gpu}" if offer.gpu else place


def decision(plan: Plan, requirement: Requirement) -> list[str]:
    """What would run and why it, what its hours and dollars are made of, and what they rest on: a sentence each."""
    if plan.chosen is None or plan.choice is None:
        return [sentence(plan, requirement), *nearest_basis(plan)]
    return [sentence(plan, requirement), plan.chosen.reason, *phases(plan.choice)]


def wrapped(sentences: Iterable[str]) -> list[str]:
    """Sentences as lines of a screen."""
    return [
        line
        for each in sentences
        for line in textwrap.wrap(each, WIDTH, break_long_words=False, break_on_hyphens=False)
    ]


def phases(choice: PricedOffer) -> list[str]:
    """What the chosen way's hours and dollars are made of, and what they rest on."""
    parts = [
        f"{phase.name.replace('_', ' ')} {duration((phase.hours_expected or 0) * 3600)}"
        + (f" ({money(phase.cost_expected)})" if choice.offer.price_per_hour else "")
        for phase in choice.phases
        if (phase.hours_expected or 0) * 3600 >= 1
    ]
    lines = [f"Time: {', '.join(parts)}."] if len(parts) > 1 else []
    return [*lines, f"Rests on: {choice.basis}."]


def nearest_basis(plan: Plan) -> list[str]:
    """Where nothing fits, what the hours of the nearest way rest on, and their range."""
    one = next((one for one in plan.offers if any(phase.name == "training" for phase in one.phases)), None)
    if one is None:
        return []
    place = f"{one.offer.cloud} {one.offer.gpu or 'CPU'}"
    return [f"The nearest, {place}: {expected_time(one)}. Rests on: {one.basis}."]


NOTABLE_UPLOAD = 0.1
"""Of what a machine is expected to cost, from where on the upload that it waits for is worth a line."""


def upload(plan: Plan, up_bytes: int, mbit_s: float) -> list[str]:
    """What sending the model costs while the meter runs: of the chosen machine, else of the nearest that is rented."""
    rented = [one for one in plan.offers if one.offer.price_per_hour and not one.offer.spot]
    one = plan.choice or next((one for one in rented if one.cost_expected), None)
    sync = next((phase for phase in one.phases if phase.name == "sync"), None) if one else None
    if one is None or sync is None or (sync.cost_expected or 0) < NOTABLE_UPLOAD * (one.cost_expected or 0):
        return []
    if not sync.cost_expected:
        return []
    sent = f"Sending {up_bytes / 1e9:.1f} GB at {mbit_s:g} Mbit/s (upload_mbit_s in launch.toml) takes"
    return [
        f"{sent} {duration((sync.hours_expected or 0) * 3600)}:",
        f"{money(sync.cost_expected)} of the {money(one.cost_expected)} on {one.offer.cloud} {one.offer.gpu}.",
    ]


def before_asking(plan: Plan, requirement: Requirement, mbit_s: float) -> list[str]:
    """What a launch says of its plan. Where money may be spent, all that `launch plan` shows."""
    if plan.budget_usd is None:
        return decision(plan, requirement)[:2]
    said = wrapped(decision(plan, requirement))
    return [*said, "", *table(plan), *upload(plan, load_of(requirement).up_bytes, mbit_s), ""]


def rows_of(plan: Plan, *, everything: bool) -> list[PricedOffer]:
    """Best first. Unless `everything`: the best way on each kind of machine, at most 12."""
    if everything:
        return list(plan.offers)
    best: dict[tuple[object, ...], PricedOffer] = {}
    for priced in plan.offers:
        offer = priced.offer
        best.setdefault((offer.cloud, offer.instance_type, offer.gpus, offer.spot), priced)
    return list(best.values())[:ROWS]


def table(plan: Plan, *, everything: bool = False) -> list[str]:
    """Lines of a table that fits 80 columns, best first, and why each that does not fit does not."""
    rows = rows_of(plan, everything=everything)
    body = [_cells(priced, chosen=plan.choice is priced, everything=everything) for priced in rows]
    whole = _aligned([HEAD, *body])
    if not everything and max(map(len, whole)) > WIDTH:
        narrow = [HEAD, *body]
        if len({row[STEPS] for row in body}) == 1:
            narrow = [(*row[:STEPS], *row[STEPS + 1 :]) for row in narrow]
        whole = [line[:WIDTH].rstrip() for line in _aligned(narrow, gap=" ")]
    lines = whole
    unrented = sorted({gap.have for row in rows for gap in row.why_not if gap.code == "backend"})
    if unrented:
        lines.append(f"({' and '.join(unrented)} cannot be rented yet: what it would cost there)")
    hidden = len(plan.offers) - len(rows)
    return [*lines, f"({hidden:,} more ways: --all)"] if hidden > 0 else lines


def _aligned(rows: Sequence[Sequence[str]], gap: str = "  ") -> list[str]:
    """Lines of columns, numbers to the right; the last column is as long as it is."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]

    def line(row: Sequence[str]) -> str:
        *cells, reason = row
        padded = [
            cell.rjust(width) if column[0] in NUMBERS else cell.ljust(width)
            for cell, width, column in zip(cells, widths, columns, strict=False)
        ]
        return gap.join([*padded, reason]).rstrip()

    return [line(row) for row in rows]


def _cells(priced: PricedOffer, *, chosen: bool, everything: bool) -> tuple[str, ...]:
    offer = priced.offer
    card = f"{offer.gpus}x{offer.gpu}" if offer.gpus > 1 else offer.gpu or "CPU"
    region = f" {offer.region}" if everything and offer.region else ""
    hourly = f" {money(offer.price_per_hour)}/h" if offer.price_per_hour else ""
    gaps = priced.why_not if everything else nearest_gaps(priced)
    return (
        ">" if chosen else "",
        f"{offer.cloud} {card}{region}{hourly}{' spot' if offer.spot else ''}",
        priced.option.name,
        f"{priced.steps:,}" if priced.steps else "?",
        "?"
        if priced.hours_expected is None
        else f"{priced.hours_expected:,.{1 if priced.hours_expected < 100 else 0}f}",
        money(priced.cost_expected),
        "fits" if priced.fits else "; ".join(words(gap, WORDS if everything else SHORT) for gap in gaps),
    )


def nearest_gaps(priced: PricedOffer) -> Sequence[WhyNot]:
    """The one reason that says most: what the machine lacks, before that its cloud cannot be rented yet."""
    own = [gap for gap in priced.why_not if gap.code not in ("backend", "spot")]
    return (own or priced.why_not)[:1]


def words(gap: WhyNot, said: Mapping[str, str] = WORDS) -> str:
    return said[gap.code].format(need=gap.need, have=gap.have) if gap.code in said else f"{gap.need}, has {gap.have}"


def command(flags: Mapping[str, Any], verb: str) -> str:
    """`launch VERB` (`dpo`, `plan dpo`) with these flags."""
    said = ["launch", *verb.split()]
    for name, value in flags.items():
        if value is None or value is False:
            continue
        text = f"{value:.12g}" if isinstance(value, float) else str(value)
        if name == "budget" and isinstance(value, float) and text[-2:-1] == ".":
            text += "0"  # to the cent, as money is written
        said += [f"--{name.replace('_', '-')}", *([] if value is True else [text])]
    return shlex.join(said)


def next_steps(flags: Mapping[str, Any], found: Iterable[Remedy], method: str) -> str:
    """The commands that would fit, each with what it does; else a look at every offer."""
    lines = [f"{command({**flags, **remedy.flags}, method)}\n      {remedy.does}" for remedy in found]
    return "\n      ".join(lines) or f"{command(flags, f'plan {method}')} --all shows what each way needs"


def why_nothing_fits(plan: Plan) -> str:
    reasons = [
        f"{priced.option.name} on {priced.offer.cloud} {priced.offer.gpu or 'CPU'}: "
        + "; ".join(words(gap) for gap in priced.why_not)
        for priced in rows_of(plan, everything=False)[:6]
    ]
    return "\n".join(reasons) or "No machine was found for any option."


def hours_bought(plan: Plan) -> list[str]:
    """For a requirement without a workload: what an hour costs, and how many hours the budget buys."""
    head = f"hours for {money(plan.budget_usd)}" if plan.budget_usd else ""
    lines = [f"{'where':<34} {'$/h':>8} {head:>16}".rstrip()]
    for priced in rows_of(plan, everything=False):
        offer = priced.offer
        card = f"{offer.gpus}x{offer.gpu}" if offer.gpus > 1 else offer.gpu or "CPU"
        bought = "" if priced.hours_affordable is None else f"{priced.hours_affordable:,.1f}"
        state = (
            "" if priced.fits else "; ".join(words(gap, SHORT | {"vram": "has {have}"}) for gap in nearest_gaps(priced))
        )
        where = f"{offer.cloud} {card}{' spot' if offer.spot else ''}"
        lines.append(f"{where:<34} {money(offer.price_per_hour):>8} {bought:>16}  {state}".rstrip())
    return lines
