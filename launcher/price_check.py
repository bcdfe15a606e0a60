"""Prices that cannot be: compared with the same GPU elsewhere, and with what a catalogue said before."""

from __future__ import annotations

import json
import os
import statistics
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from jobs.gpus import find
from jobs.offer import Offer

OFF = 8.0
"""Times below or above the median of its GPU, at which a price is taken for an error and not for a bargain."""
FEWEST = 3
"""Machines that a median needs."""
FAR = 25.0
"""Times below what a TFLOP/s costs on the machines of all GPUs, for a GPU that too few others have. Between the
cheapest and the dearest kind of GPU that factor is about 7."""
LOST = 0.5
"""Share of a cloud's kinds of machines that an update may lose before it is said."""
CLOCKS = timedelta(minutes=5)


def plausible(offers: Iterable[Offer], now: datetime) -> tuple[list[Offer], list[str]]:
    """The offers whose price can be, and a note for each kind of machine whose price cannot."""
    everything = list(offers)
    by_gpu: dict[str, dict[tuple[str, str, bool], float]] = defaultdict(dict)
    for offer in everything:
        if offer.gpu and offer.price_per_hour > 0 and not offer.spot:
            kind = (offer.cloud, offer.instance_type, offer.spot)
            a_gpu = offer.price_per_hour / offer.gpus
            by_gpu[offer.gpu][kind] = min(a_gpu, by_gpu[offer.gpu].get(kind, a_gpu))
    medians = {gpu: statistics.median(seen.values()) for gpu, seen in by_gpu.items() if len(seen) >= FEWEST}
    worth = [usd / card.fp16_tflops for gpu, seen in by_gpu.items() if (card := find(gpu)) for usd in seen.values()]
    usual = statistics.median(worth) if len(worth) >= FEWEST else 0.0
    kept: list[Offer] = []
    notes: dict[tuple[str, str, bool], str] = {}
    early: dict[tuple[str, datetime], set[str]] = defaultdict(set)
    for offer in everything:
        median = medians.get(offer.gpu or "")
        a_gpu = offer.price_per_hour / max(1, offer.gpus)
        kind = (offer.cloud, offer.instance_type, offer.spot)
        name = f"{offer.cloud} {offer.instance_type}{' spot' if offer.spot else ''}"
        if offer.price_as_of is not None and offer.price_as_of > now + CLOCKS:
            early[offer.cloud, offer.price_as_of].add(name)
        elif median is not None and (a_gpu * OFF * (3 if offer.spot else 1) < median or a_gpu > median * OFF):
            notes[kind] = (
                f"{name} is not used: ${a_gpu:,.2f} an hour for a {offer.gpu} cannot be; the same GPU is "
                f"${median:,.2f} elsewhere"
            )
        elif a_gpu and (card := find(offer.gpu or "")) and a_gpu * FAR < usual * card.fp16_tflops:
            notes[kind] = (
                f"{name} is not used: ${a_gpu:,.2f} an hour for a {offer.gpu} cannot be; by its speed other GPUs "
                f"would cost ${usual * card.fp16_tflops:,.2f}"
            )
        else:
            kept.append(offer)
    return kept, sorted([*notes.values(), *(_from_the_future(at, names) for (_, at), names in early.items())])


def _from_the_future(at: datetime, names: set[str]) -> str:
    """All prices of a catalogue file have its date, so that one file may be hundreds of machines."""
    named = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    are, their = ("are", "their prices are") if len(names) > 1 else ("is", "its price is")
    return f"{named} {are} not used: {their} from the future ({at:%Y-%m-%d %H:%M} UTC); is the clock right?"


def compare_with_last(clouds: Iterable[str], offers: Iterable[Offer], seen: Path) -> tuple[list[Offer], list[str]]:
    """The offers less those of a kind that costs a fraction of what it did, and notes on these and on what is gone.

    `seen` remembers the cheapest price of each kind of machine on demand. What is doubted does not replace what was
    remembered, so that it is said again the next time, until `seen` is deleted. A file that cannot be read begins anew.
    """
    everything = list(offers)
    before = _read(seen)
    today: dict[str, dict[str, float]] = defaultdict(dict)
    for offer in everything:
        if offer.price_per_hour > 0 and not offer.spot:
            known = today[offer.cloud].get(offer.instance_type, offer.price_per_hour)
            today[offer.cloud][offer.instance_type] = min(known, offer.price_per_hour)
    notes: list[str] = []
    doubted: set[tuple[str, str]] = set()
    remembered = {cloud: dict(prices) for cloud, prices in before.items()}
    for cloud in clouds:
        prices, left = before.get(cloud, {}), today.get(cloud, {})
        gone = {kind: usd for kind, usd in prices.items() if kind not in left}
        lost = len(gone) > LOST * len(prices)
        if lost:
            names = sorted(gone)
            notes.append(
                f"the catalogue of {cloud} has lost {len(gone)} of {len(prices)} kinds of machines since the last time "
                f"({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}); it may be broken. If not: delete {seen}"
            )
        fallen = {kind: usd for kind, usd in prices.items() if kind in left and left[kind] * OFF < usd}
        notes += [
            f"{cloud} {kind} is not used: ${left[kind]:,.2f} an hour, and it was ${usd:,.2f} the last time. If that is "
            f"right: delete {seen}"
            for kind, usd in sorted(fallen.items())
        ]
        notes += [
            f"{cloud} {kind}: ${left[kind]:,.2f} an hour, and it was ${usd:,.2f} the last time"
            for kind, usd in sorted(prices.items())
            if kind in left and left[kind] > usd * OFF
        ]
        doubted |= {(cloud, kind) for kind in fallen}
        remembered[cloud] = {**(gone if lost else {}), **left, **fallen}
    if remembered != before:
        beside = seen.with_suffix(f".{os.getpid()}.tmp")  # two plans at once write two files
        beside.write_text(json.dumps(remembered, sort_keys=True), encoding="utf-8")
        beside.replace(seen)
    return [offer for offer in everything if (offer.cloud, offer.instance_type) not in doubted], notes


_SEEN = TypeAdapter(dict[str, dict[str, FiniteFloat]])


def _read(seen: Path) -> dict[str, dict[str, float]]:
    try:
        return _SEEN.validate_json(seen.read_bytes(), strict=True)
    except (OSError, ValidationError):
        return {}
