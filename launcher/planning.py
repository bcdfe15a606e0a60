"""`plan()`: requirement x offers x budget -> every way to run the job, best first, and the one chosen. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from jobs import gpus
from jobs.offer import Chosen, Offer, Plan, PricedOffer, Rate
from jobs.price import BACKENDS, VAL_PAIRS, VALIDATIONS, Load, can_be_had, hardware_gaps, precision_on, price
from train.requirement import Model, Option, Requirement

PARTIAL_SHARE = 0.1
"""Of an epoch's steps: what partial training on a CPU does (848 of 8,484 in the case this was made for)."""

COMPRESSED = 0.35
"""Of JSONL text, what is sent: an assumption on the size of compressed clinical prose."""


def steps_an_epoch(requirement: Requirement) -> int:
    workload = requirement.workload
    return math.ceil(workload.data.train_examples / workload.training.batch_size)


def steps_in_full(requirement: Requirement) -> int:
    return math.ceil(requirement.workload.training.epochs * steps_an_epoch(requirement))


def steps_in_part(requirement: Requirement) -> int:
    return max(1, math.floor(PARTIAL_SHARE * steps_an_epoch(requirement)))


def load_of(
    requirement: Requirement, *, upload_bytes_per_s: float = Load.upload_bytes_per_s, test_pairs: int = 0
) -> Load:
    """What a machine has to carry for the whole workload."""
    workload = requirement.workload
    model, data = workload.model, workload.data
    weights, adapter = model.bytes_on_disk or 0, (model.adapter and model.adapter.bytes_on_disk) or 0
    local = model.base.path is not None
    text = (data.train_bytes or 0) + (data.val_bytes or 0)
    return Load(
        steps=steps_in_full(requirement),
        batch_size=workload.training.batch_size,
        validation_pairs=VALIDATIONS * min(VAL_PAIRS, data.val_examples or 0),
        test_pairs=test_pairs,
        up_bytes=adapter + math.ceil(COMPRESSED * text) + (weights if local else 0),
        fetched_bytes=0 if local else weights,
        down_bytes=6 * adapter,  # best, last, and a checkpoint with AdamW's two moments in fp32
        weights_here_bytes=_weights_here_bytes(model),
        upload_bytes_per_s=upload_bytes_per_s,
    )


def _weights_here_bytes(model: Model) -> int:
    """Of what an option counts as the model's part of the disk: all of it where the model is a folder here."""
    if model.base.path is None or model.base.path.endswith(".json"):
        return 0  # a bare config.json has no weights beside it
    sixteen_bits = 2 * model.parameters if model.parameters else None
    return min(size for size in (model.bytes_on_disk or 0, sixteen_bits) if size is not None)


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
    test_pairs: int = 0,
    upload_bytes_per_s: float = Load.upload_bytes_per_s,
    backends: frozenset[str] = BACKENDS,
    choice_alone: bool = False,
    needed: bool = True,
) -> Plan:
    """Pair every option with every offer, price each pair, rank them, and choose.

    Without a budget nothing is bought: this machine's GPU runs the whole job where an option fits it, else its CPU
    runs a part of it, and time is no reason against either. With one, chosen is the cheapest expected cost of what
    fits; ties go to the sooner. A part is as many steps as money and time let through, and there the most steps win.
    The result does not depend on the order of `offers`. With `choice_alone` it is the same but for `offers`: dearer
    regions, and what cannot be rented or do it, are not priced. Without `needed` no `budget_needed_usd` is looked for.
    """
    free = budget_usd is None
    load = load_of(requirement, upload_bytes_per_s=upload_bytes_per_s, test_pairs=test_pairs)

    def priced(option: Option, offer: Offer) -> PricedOffer:
        steps, bought = load.steps, partial and not free and max_steps is None
        if max_steps is not None:
            steps = max_steps
        elif free and (partial or option.device == "cpu"):
            steps = steps_in_part(requirement)
        return price(
            option,
            offer,
            replace(load, steps=steps),
            rate=rate_for(option, offer, rates),
            budget_usd=budget_usd,
            within_hours=None if free else within_hours,
            in_part=bought,
            backends=backends,
        )

    wanted = [offer for offer in offers if (_is_free(offer) if free else cloud in (None, "any", offer.cloud))]
    if choice_alone:
        wanted = [offer for offer in wanted if can_be_had(offer, backends)]
        batch, here = load.batch_size, load.weights_here_bytes
        pairs = [
            (option, offer)
            for option, offer in _cheapest_of_each_kind(requirement.options, wanted)
            if not hardware_gaps(option, offer, batch, backends, weights_here_bytes=here)
        ]
        ways = (priced(option, offer) for option, offer in pairs)
    else:
        ways = _every_way(requirement.options, wanted, priced)
    ranked = sorted(ways, key=_ranking(partial and not free))
    best = ranked[0] if ranked and ranked[0].fits else None
    steps = best.steps if best else max_steps or (steps_in_part(requirement) if partial else load.steps)
    return Plan(
        requirement=requirement.workload.model.architecture or "model",
        budget_usd=budget_usd,
        budget_needed_usd=None
        if not needed
        else budget_needed(
            requirement.options,
            offers,
            load if max_steps is None else replace(load, steps=max_steps),
            rates,
            cloud,
            within_hours=within_hours,
            backends=backends,
        ),
        steps=steps,
        steps_total=load.steps,
        partial=steps < load.steps,
        offers=tuple(ranked),
        chosen=best and Chosen(offer=0, reason=_reason(best, ranked, free=free, most_steps=partial and not free)),
    )


def budget_needed(
    options: Sequence[Option],
    offers: Sequence[Offer],
    load: Load,
    rates: Sequence[Rate],
    cloud: str | None,
    *,
    within_hours: float,
    backends: frozenset[str],
) -> float | None:
    """The least budget (USD, whole cents) for which an offer of `cloud` that is paid by the hour does `load`.

    None where no offer could, or nobody knows how long it would take. Where no cloud that can be rented does it, or
    none in time, the others count: what the job would cost there is worth knowing.
    """
    paid = [offer for offer in offers if offer.price_per_hour > 0 and cloud in (None, "any", offer.cloud)]
    for clouds in (backends, frozenset(offer.cloud for offer in paid) - backends):
        there = [offer for offer in paid if can_be_had(offer, clouds)]
        ways = [
            price(option, offer, load, rate=rate_for(option, offer, rates), backends=clouds)
            for option, offer in _cheapest_of_each_kind(options, there)
            if not hardware_gaps(option, offer, load.batch_size, clouds, weights_here_bytes=load.weights_here_bytes)
        ]
        costs = [
            ((one.hours_expected or 0.0) > within_hours, one.cost_expected)
            for one in ways
            if one.fits and one.cost_expected is not None
        ]
        if costs:
            return math.ceil(min(costs)[1] * 100 - 1e-6) / 100
    return None


def _every_way(
    options: Sequence[Option],
    offers: Iterable[Offer],
    priced: Callable[[Option, Offer], PricedOffer],
) -> Iterator[PricedOffer]:
    """Each option on each kind of machine, in its cheapest region; what is best there, in every other.

    Regions of one kind differ in price alone, so that where the cheapest does not fit no other does, and none is
    better. A catalogue has tens of thousands of rows, and a plan is made while a person waits.
    """
    for _, same in groupby(sorted(offers, key=lambda o: (*_kind(o), *_dearness(o))), key=_kind):
        cheapest, *dearer = same
        firsts = [priced(option, cheapest) for option in options if _meant_for(option, cheapest)]
        yield from firsts
        best = min((one for one in firsts if one.fits), key=_worth, default=None)
        if best is not None:
            yield from (priced(best.option, offer) for offer in dearer)


def _worth(one: PricedOffer) -> tuple[float, ...]:
    cost, hours = (math.inf if each is None else each for each in (one.cost_expected, one.hours_expected))
    return -one.steps, cost, hours


def _cheapest_of_each_kind(options: Sequence[Option], offers: Iterable[Offer]) -> Iterator[tuple[Option, Offer]]:
    """Each option beside each kind of machine, in its cheapest region."""
    cheapest: dict[tuple[object, ...], Offer] = {}
    for offer in offers:
        kind = _kind(offer)
        known = cheapest.get(kind)
        if known is None or _dearness(offer) < _dearness(known):
            cheapest[kind] = offer
    for offer in cheapest.values():
        for option in options:
            if _meant_for(option, offer):
                yield option, offer


def _dearness(offer: Offer) -> tuple[float, str]:
    return offer.price_per_hour, offer.region or ""


def _meant_for(option: Option, offer: Offer) -> bool:
    """Nobody rents a machine to train on its CPU, and a machine's GPUs are for the options of GPUs."""
    return offer.gpus > 0 if option.device == "cuda" else offer.gpus == 0 and offer.cloud == "local"


def _kind(offer: Offer) -> tuple[object, ...]:
    card = (offer.gpus, offer.gpu or "", offer.vram_gib, offer.arch, offer.capacity is False)
    return (offer.cloud, offer.instance_type, offer.spot, *card, offer.ram_gib or 0.0, offer.disk_gib or 0.0)


def _is_free(offer: Offer) -> bool:
    return offer.cloud == "local" and offer.price_per_hour == 0


def rate_for(option: Option, offer: Offer, rates: Sequence[Rate]) -> Rate | None:
    """How fast `offer` does `option`: as runs on that device went, else as it was measured, else by data sheet."""
    precisions = (precision_on(option),)
    if option.device == "cuda" and option.trainer.precision in ("auto", "16bit"):
        precisions = ("bf16", "fp16")  # a GPU was measured in the one that it has
    known = [rate for rate in rates if rate.device == option.device and rate.precision in precisions]
    card = gpus.find(offer.gpu) if offer.gpu else None
    if option.device == "cuda":  # rates of other GPUs stand in the same store
        known = [rate for rate in known if rate.name == offer.gpu or (card and gpus.find(rate.name) == card)]
    known = [rate for rate in known if _alike(rate, option)]
    if offer.cloud != "local":
        known = [rate for rate in known if rate.source == "run"]
    newest = max(known, key=lambda rate: (rate.source == "run", rate.measured_at), default=None)
    if newest is None and card is not None and option.device == "cuda":
        return gpus.rate_of(card, "fp16" if card.bf16_tflops is None else "bf16")
    return newest


ALIKE = 10.0


def _alike(rate: Rate, option: Option) -> bool:
    """A run teaches about steps of about its own size; a bare step was solved for all sizes."""
    if rate.flop_per_step is None or option.flop_per_step is None:
        return True
    return 1 / ALIKE <= rate.flop_per_step / option.flop_per_step <= ALIKE


NEAR = ("backend", "budget", "within", "unmeasured", "no_flops", "capacity", "spot")
"""Reasons that stand between a person and an offer, nearest first; after these what a machine is."""


def _ranking(most_steps: bool) -> Callable[[PricedOffer], tuple[object, ...]]:
    unknown = math.inf

    def rank(priced: PricedOffer) -> tuple[object, ...]:
        cost = priced.cost_expected if priced.cost_expected is not None else unknown
        hours = priced.hours_expected if priced.hours_expected is not None else unknown
        far = [NEAR.index(gap.code) + 1 if gap.code in NEAR else len(NEAR) + 1 for gap in priced.why_not]
        offer = priced.offer
        return (
            max(far, default=0),
            len(far),
            _short_of_gib(priced),
            -priced.steps if most_steps else 0,
            cost,
            priced.option.device == "cpu",  # at the same cost a GPU is the sooner one, measured or not
            hours,
            -priced.option.min_vram_gib,  # of two ways that fit one GPU, the one that gives up less precision
            priced.option.name,
            *(offer.cloud, offer.instance_type, offer.region or "", offer.price_per_hour, offer.spot),
        )

    return rank


def _short_of_gib(priced: PricedOffer) -> float:
    """Of GPU memory: how far a machine is from doing it, where that is what it lacks."""
    lacks = any(gap.code == "vram" for gap in priced.why_not)
    offer, needed = priced.offer, priced.option.min_vram_gib
    return needed - gpus.usable_gib(offer.gpu, offer.vram_gib) if lacks else 0.0


def nothing_can(found: Plan) -> bool:
    """Whether none of the machines can do it, whether it can be rented or not, and whatever it costs."""
    return bool(found.offers) and all(any(gap.code not in NEAR for gap in priced.why_not) for priced in found.offers)


def _reason(best: PricedOffer, ranked: Sequence[PricedOffer], *, free: bool, most_steps: bool) -> str:
    offer = best.offer
    if not free and offer.price_per_hour:
        fitting = len({(one.offer.cloud, one.offer.instance_type) for one in ranked if one.fits})
        others = f" of {fitting} machines that fit" if fitting > 1 else ": no other machine fits"
        has = "trains the most steps for the budget" if most_steps else "has the least expected cost"
        return f"{best.option.name} on {offer.gpu} in {offer.region} {has}{others}."
    if offer.gpus:
        return f"{best.option.name} fits this machine's {offer.gpu}, at no cost."
    gaps = [gap for other in ranked if other.offer.gpus for gap in other.why_not if gap.code == "vram"]
    if gaps and free:
        return f"This machine's GPU has {gaps[0].have} and {gaps[0].need} are needed, so its CPU trains, at no cost."
    return "This machine has no GPU that can do it, so its CPU trains, at no cost."


def plan_memory(
    option: Option,
    offers: Sequence[Offer],
    *,
    budget_usd: float | None,
    cloud: str | None,
    backends: frozenset[str] = BACKENDS,
) -> Plan:
    """Machines with the memory, and how many hours of each the budget buys. Nothing is chosen: no time is known."""
    wanted = [offer for offer in offers if offer.gpus and cloud in (None, "any", offer.cloud)]
    ways = _every_way(
        [option], wanted, lambda o, f: price(o, f, Load(steps=0), rate=None, budget_usd=budget_usd, backends=backends)
    )

    def rank(one: PricedOffer) -> tuple[object, ...]:
        return (_ranking(False)(one)[0], _short_of_gib(one), one.offer.price_per_hour, one.offer.instance_type)

    ranked = sorted(ways, key=rank)
    return Plan(
        requirement=option.name,
        budget_usd=budget_usd,
        budget_needed_usd=None,
        steps=None,
        steps_total=None,
        partial=False,
        offers=tuple(ranked),
        chosen=None,
    )
