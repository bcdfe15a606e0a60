"""The price of one option on one offer: pure, hours and dollars by phase, and why it does not fit."""

from __future__ import annotations

from jobs.offer import Offer, Phase, PricedOffer, Rate, WhyNot
from train.requirement import Option

# Launching buys nothing yet beyond this machine: the other clouds are listed, and never fit.
BACKENDS = frozenset({"local"})


def price(
    option: Option,
    offer: Offer,
    *,
    steps: int,
    rate: Rate | None,
    budget_usd: float | None = None,
    within_hours: float | None = None,
) -> PricedOffer:
    """Price `steps` steps of `option` on `offer` at `rate`.

    `within_hours` None means that time is no reason against it (a run on this machine without a budget).
    """
    why_not = hardware_gaps(option, offer)
    hours = _training_hours(option, steps, rate)
    cost = None if hours is None else hours * offer.price_per_hour
    if within_hours is not None:
        if hours is None and not why_not:
            code = "no_flops" if option.flop_per_step is None else "unmeasured"
            why_not.append(WhyNot(code=code, need=f"an expected time within {within_hours:g} h", have="unknown"))
        elif hours is not None and hours > within_hours:
            why_not.append(WhyNot(code="within", need=f"at most {within_hours:g} h", have=f"{hours:,.1f} h"))
    if budget_usd is not None and cost is not None and cost > budget_usd:
        why_not.append(WhyNot(code="budget", need=f"${cost:,.2f}", have=f"${budget_usd:,.2f}"))
    affordable = None
    if offer.price_per_hour > 0 and budget_usd is not None:
        affordable = budget_usd / offer.price_per_hour
    training = Phase(
        name="training",
        hours_low=hours * rate.low if hours is not None and rate else None,
        hours_expected=hours,
        hours_high=hours * rate.high if hours is not None and rate else None,
        cost_expected=cost,
    )
    return PricedOffer(
        offer=offer,
        option=option,
        steps=steps,
        hours_expected=hours,
        hours_affordable=affordable,
        cost_expected=0.0 if offer.price_per_hour == 0 else cost,
        cost_worst=0.0 if offer.price_per_hour == 0 else budget_usd,
        phases=(training,),
        basis=rate.basis if rate else "not measured",
        fits=not why_not,
        why_not=tuple(why_not),
    )


def hardware_gaps(option: Option, offer: Offer) -> list[WhyNot]:
    """What the option needs that the offer does not have. Memory of a GPU is counted a process: 4 x 16 GB is 16 GB."""
    gaps: list[WhyNot] = []
    if offer.spot:
        gaps.append(WhyNot(code="spot", need="an on-demand machine", have="spot"))
    if offer.cloud not in BACKENDS:
        gaps.append(WhyNot(code="backend", need="a backend for this cloud", have=offer.cloud))
    if option.device == "cuda" and offer.gpus == 0:
        gaps.append(WhyNot(code="device", need="a CUDA GPU", have="CPU alone"))
    elif option.device == "cpu" and offer.gpus > 0:
        gaps.append(WhyNot(code="device", need="the CPU", have=f"{offer.gpus} x {offer.gpu}"))
    elif option.gpus > offer.gpus:
        gaps.append(WhyNot(code="gpus", need=f"{option.gpus} GPUs", have=str(offer.gpus)))
    elif option.min_vram_gib > offer.vram_gib:
        gaps.append(WhyNot(code="vram", need=_gib(option.min_vram_gib), have=_gib(offer.vram_gib)))
    if offer.ram_gib is not None and option.min_ram_gib > offer.ram_gib:
        gaps.append(WhyNot(code="ram", need=_gib(option.min_ram_gib), have=_gib(offer.ram_gib)))
    if offer.disk_gib is not None and option.min_disk_gib > offer.disk_gib:
        gaps.append(WhyNot(code="disk", need=_gib(option.min_disk_gib), have=_gib(offer.disk_gib)))
    return gaps


def _gib(size: float) -> str:
    return f"{size:.1f} GiB"


def _training_hours(option: Option, steps: int, rate: Rate | None) -> float | None:
    if rate is None or option.flop_per_step is None:
        return None
    return steps * (rate.step_overhead_s + option.flop_per_step / rate.flop_per_s) / 3600
