"""The price of one option on one offer: pure, hours and dollars by phase, and why it does not fit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jobs import gpus
from jobs.clouds import CLOUDS, LOCAL, Cloud, Span
from jobs.offer import Offer, Phase, PricedOffer, Rate, WhyNot
from train.requirement import Option

# Where jobs can run. Offers of other clouds are listed, and never fit.
BACKENDS = frozenset({"local", "lambda", "aws"})

VALIDATIONS = 10
"""Validation passes of a run, and pairs in one at most: the trainer's own defaults (train/course.py)."""
VAL_PAIRS = 200
TEST_PAIR = 4.0
"""What Stage A against Stage B takes for a held-out pair, in pairs trained: two models read it, and write a summary."""


@dataclass(frozen=True)
class Load:
    """What an offer has to carry: the whole workload in steps, validation, and what travels. Sizes in bytes."""

    steps: int
    batch_size: int = 1
    validation_pairs: int = 0
    """Of all passes together, where the whole workload is trained or a part."""
    test_pairs: int = 0
    """Held out, for Stage A against Stage B after the training."""
    up_bytes: int = 0
    fetched_bytes: int = 0
    """From the model hub, to the data centre."""
    down_bytes: int = 0
    weights_here_bytes: int = 0
    """Of the model, what lies on this machine already: a run here needs no room for it."""
    upload_bytes_per_s: float = 20e6 / 8
    fetch_bytes_per_s: float = 100e6


def price(
    option: Option,
    offer: Offer,
    load: Load,
    *,
    rate: Rate | None,
    budget_usd: float | None = None,
    within_hours: float | None = None,
    in_part: bool = False,
    backends: frozenset[str] = BACKENDS,
) -> PricedOffer:
    """Price `load` trained with `option` on `offer` at `rate`.

    `in_part` trains what the budget and `within_hours` let through, at most `load.steps`. `within_hours` None means
    that time is no reason against it (a run on this machine without a budget).
    """
    cloud = CLOUDS.get(offer.cloud, LOCAL)
    why_not = hardware_gaps(option, offer, load.batch_size, backends, weights_here_bytes=load.weights_here_bytes)
    around = _around(cloud, load) if cloud is not LOCAL else {}
    step = _step_hours(option, rate)
    pair = None if step is None else step / load.batch_size
    validation = 0.0 if pair is None else pair * load.validation_pairs * _forward_share(option)
    evaluation = 0.0 if pair is None else pair * load.test_pairs * TEST_PAIR
    limit = within_hours if within_hours is not None else math.inf
    if offer.price_per_hour > 0 and budget_usd is not None:
        limit = min(limit, cloud.hours_for(budget_usd, offer.price_per_hour))
    steps = load.steps
    if in_part and step is not None and limit < math.inf:
        room = limit - sum(span.expected for span in around.values()) - validation - evaluation
        steps = max(0, min(steps, math.floor(room / step)))

    spans: dict[str, Span] = {}
    if step is not None and rate is not None:
        trained = {"training": _range(steps * step + validation, rate)}
        trained |= {"evaluation": _range(evaluation, rate)} if evaluation else {}
        spans = _in_order(around | trained)
    hours = sum(span.expected for span in spans.values()) if spans else None
    billed = hours
    if hours is not None and offer.price_per_hour > 0:
        billed = cloud.billed_hours(hours)
        spans["billing_unit"] = Span(0.0, billed - hours, cloud.billing_unit_s / 3600)
    cost = 0.0 if offer.price_per_hour == 0 else None if billed is None else billed * offer.price_per_hour
    affordable = worst = None
    if offer.price_per_hour == 0:
        worst = 0.0
    elif budget_usd is not None:
        affordable = cloud.hours_for(budget_usd, offer.price_per_hour)
        worst = affordable * offer.price_per_hour
    why_not += _limits(option, hours, cost, worst, budget_usd, within_hours, known=not why_not)
    if in_part and steps == 0 and not why_not:
        why_not.append(WhyNot(code="budget", need="time for one step", have="none beside boot, sync and pull"))
    return PricedOffer.model_construct(
        offer=offer,
        option=option,
        steps=steps,
        hours_expected=hours,
        hours_affordable=affordable,
        cost_expected=cost,
        cost_worst=worst,
        phases=tuple(_phase(name, span, offer.price_per_hour) for name, span in spans.items()),
        basis=rate.basis if rate else "not measured",
        fits=not why_not,
        why_not=tuple(why_not),
    )


def _limits(
    option: Option,
    hours: float | None,
    cost: float | None,
    worst: float | None,
    budget_usd: float | None,
    within_hours: float | None,
    *,
    known: bool,
) -> list[WhyNot]:
    found: list[WhyNot] = []
    if within_hours is not None and hours is None:
        if known:  # what cannot run there at all needs no word on time
            code = "no_flops" if option.flop_per_step is None else "unmeasured"
            found.append(WhyNot(code=code, need=f"an expected time within {within_hours:g} h", have="unknown"))
    elif within_hours is not None and hours is not None and hours > within_hours:
        found.append(WhyNot(code="within", need=f"{hours:,.1f} h", have=f"{within_hours:g} h"))
    if budget_usd is not None and cost is not None and (cost > budget_usd or (worst is not None and cost > worst)):
        found.append(WhyNot(code="budget", need=f"${math.ceil(cost * 100) / 100:,.2f}", have=f"${budget_usd:,.2f}"))
    return found


def can_be_had(offer: Offer, backends: frozenset[str] = BACKENDS) -> bool:
    """Whether the machine can be rented or is this one, whatever it can do."""
    return not offer.spot and offer.capacity is not False and offer.cloud in backends


def hardware_gaps(
    option: Option,
    offer: Offer,
    batch_size: int = 1,
    backends: frozenset[str] = BACKENDS,
    *,
    weights_here_bytes: int = 0,
) -> list[WhyNot]:
    """What the option needs that the offer does not have. Memory of a GPU is counted a process: 4 x 16 GB is 16 GB."""
    gaps: list[WhyNot] = []
    if offer.spot:
        gaps.append(WhyNot(code="spot", need="an on-demand machine", have="spot"))
    if offer.capacity is False:
        gaps.append(WhyNot(code="capacity", need="a machine that is free", have="none now"))
    if offer.cloud not in backends:
        gaps.append(WhyNot(code="backend", need="a backend for this cloud", have=offer.cloud))
    if option.device == "cuda" and offer.gpus == 0:
        gaps.append(WhyNot(code="device", need="a CUDA GPU", have="CPU alone"))
    elif option.device == "cpu" and offer.gpus > 0:
        gaps.append(WhyNot(code="device", need="the CPU", have=f"{offer.gpus} x {offer.gpu}"))
    elif option.gpus > offer.gpus:
        gaps.append(WhyNot(code="gpus", need=f"{option.gpus} GPUs", have=str(offer.gpus)))
    elif option.min_vram_gib > (usable := gpus.usable_gib(offer.gpu, offer.vram_gib)):
        gaps.append(WhyNot(code="vram", need=_gib(option.min_vram_gib), have=_gib(usable)))
    if option.device == "cuda":
        gaps += _cuda_gaps(option, offer, batch_size)
    if offer.ram_gib is not None and option.min_ram_gib > offer.ram_gib:
        gaps.append(WhyNot(code="ram", need=_gib(option.min_ram_gib), have=_gib(offer.ram_gib)))
    disk = option.min_disk_gib
    if offer.cloud == "local":
        disk = max(0.0, disk - weights_here_bytes / 2**30)
    if offer.disk_gib is not None and disk > offer.disk_gib:
        gaps.append(WhyNot(code="disk", need=_gib(disk), have=_gib(offer.disk_gib)))
    return gaps


def _cuda_gaps(option: Option, offer: Offer, batch_size: int) -> list[WhyNot]:
    gaps: list[WhyNot] = []
    if option.gpus and batch_size % option.gpus:
        gaps.append(WhyNot(code="batch", need=f"a batch size divisible by {option.gpus}", have=str(batch_size)))
    if offer.arch != "x86_64":
        gaps.append(WhyNot(code="arch", need="x86_64", have=offer.arch))
    card = gpus.find(offer.gpu) if offer.gpu else None
    if card is None:
        return gaps
    if card.compute_capability < gpus.OLDEST:
        oldest, has = (".".join(map(str, pair)) for pair in (gpus.OLDEST, card.compute_capability))
        gaps.append(WhyNot(code="arch", need=f"compute capability {oldest}", have=f"{has} ({card.name})"))
    if option.trainer.precision == "bf16" and card.bf16_tflops is None:
        gaps.append(WhyNot(code="precision", need="bf16", have=f"fp16 ({card.name} has no bf16)"))
    return gaps


def precision_on(option: Option) -> str:
    """What `auto` and `16bit` become on a device; a GPU without bf16 says so when it trains."""
    asked = option.trainer.precision
    if asked == "auto":
        return "fp32" if option.device == "cpu" else "bf16"
    return "bf16" if asked == "16bit" else asked


def _gib(size: float) -> str:
    return f"{size:.1f} GiB"


def _step_hours(option: Option, rate: Rate | None) -> float | None:
    """Hours of one optimizer step. A step's FLOPs are those of all its pairs, shared by the processes."""
    if rate is None or option.flop_per_step is None:
        return None
    return (rate.step_overhead_s + option.flop_per_step / max(1, option.gpus) / rate.flop_per_s) / 3600


def _forward_share(option: Option) -> float:
    """Of a training pair's work, what a validation pair costs: forward alone, without backward and recomputation.

    With frozen weights a backward costs about what a forward does, since only gradients of activations are needed.
    """
    return 1 / 3 if option.trainer.gradient_checkpointing else 1 / 2


def _around(cloud: Cloud, load: Load) -> dict[str, Span]:
    up = load.up_bytes / load.upload_bytes_per_s / 3600
    fetched = load.fetched_bytes / load.fetch_bytes_per_s / 3600
    down = load.down_bytes / load.fetch_bytes_per_s / 3600
    sync = max(up, fetched)  # the hub's part is fetched while the rest is sent
    return {
        "boot": cloud.boot,
        "sync": Span(sync * 0.7, sync, sync * 2),
        "pull": Span(down * 0.7, down, down * 2),
        "teardown": cloud.teardown,
    }


def _in_order(spans: dict[str, Span]) -> dict[str, Span]:
    names = ("boot", "sync", "training", "evaluation", "pull", "teardown")
    return {name: spans[name] for name in names if name in spans}


def _range(hours: float, rate: Rate) -> Span:
    return Span(hours * rate.low, hours, hours * rate.high)


def _phase(name: str, span: Span, usd_per_hour: float) -> Phase:
    """Not validated: a catalogue's machines that fit have tens of thousands of phases."""
    return Phase.model_construct(
        name=name,
        hours_low=span.low,
        hours_expected=span.expected,
        hours_high=span.high,
        cost_expected=span.expected * usd_per_hour,
    )
