"""Every machine that a plan may look at: this one, and those of the clouds that are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from jobs.home import Home
from jobs.offer import Offer
from launcher import machine
from launcher.catalogue import catalogue_folder, read_catalogue
from launcher.price_check import compare_with_last, plausible


@dataclass(frozen=True)
class Gathered:
    """`notes`: what is odd about a catalogue, each a sentence for a person."""

    offers: tuple[Offer, ...]
    notes: tuple[str, ...]


def gather(home: Home, *, device: str, clouds: Sequence[str], environ: Mapping[str, str], now: datetime) -> Gathered:
    """This machine's offers, and those in the catalogues of `clouds`. Prices that cannot be are left out, and said."""
    here = machine.offers(home.root, device)
    folder = catalogue_folder(environ) if clouds else None
    read = [read_catalogue(cloud, folder, now) for cloud in clouds if cloud != "local"]
    listed = [offer for one in read for offer in one.offers]
    kept, odd = plausible(listed, now)
    notes = [note for one in read for note in one.notes] + odd
    if read:
        kept, moved = compare_with_last(clouds, kept, home.root / "catalogue_seen.json")
        notes += moved
    return Gathered((*here, *kept), tuple(notes))
