"""What takes the place of machines that a cloud has retired: from the catalogue, with its prices."""

from __future__ import annotations

from collections.abc import Iterable

from jobs import gpus
from jobs.offer import Offer
from launcher.console import money

NAMED = 4


def in_its_place(offers: Iterable[Offer]) -> str:
    """`g5.xlarge (A10G, 24 GB, $1.01/h), ...`: the cheapest on demand of each kind of GPU of AWS; empty without any."""
    cheapest: dict[tuple[int, str], Offer] = {}
    for offer in offers:
        if offer.cloud != "aws" or offer.spot or not offer.gpu or gpus.retired(offer.instance_type):
            continue
        known = cheapest.get((offer.gpus, offer.gpu))
        if known is None or offer.price_per_hour < known.price_per_hour:
            cheapest[offer.gpus, offer.gpu] = offer
    best = sorted(cheapest.values(), key=lambda offer: (offer.price_per_hour, offer.instance_type))[:NAMED]
    return ", ".join(
        f"{offer.instance_type} ({_card(offer)}, {offer.vram_gib:g} GB, {money(offer.price_per_hour)}/h)"
        for offer in best
    )


def _card(offer: Offer) -> str:
    return str(offer.gpu) if offer.gpus == 1 else f"{offer.gpus} x {offer.gpu}"


def p3_is_gone(offers: Iterable[Offer]) -> str | None:
    """One sentence where AWS is looked at and its p3 is not there; None where it is, or AWS is not."""
    on_aws = [offer for offer in offers if offer.cloud == "aws"]
    if not on_aws or any(offer.instance_type.startswith("p3.") for offer in on_aws):
        return None
    return f"AWS has retired p3 (V100), and this catalogue has none; in its place: {in_its_place(on_aws)}."
