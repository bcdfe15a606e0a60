"""Every machine that a plan may look at: this one, and those of the clouds that are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from artifacts.errors import CredentialProblem
from jobs.catalogues import catalogue_folder
from jobs.home import Home
from jobs.offer import Offer
from launcher import machine
from launcher.catalogue import read_catalogue
from launcher.price_check import compare_with_last, plausible


@dataclass(frozen=True)
class Gathered:
    """`notes`: what is odd about a catalogue, each a sentence for a person."""

    offers: tuple[Offer, ...]
    notes: tuple[str, ...]


def gather(home: Home, *, device: str, clouds: Sequence[str], environ: Mapping[str, str], now: datetime) -> Gathered:
    """This machine's offers, and those in the catalogues of `clouds`, at live prices where their credentials are there.

    Prices that cannot be are left out, and said.

    Raises:
        CredentialProblem: a cloud does not accept them, and `clouds` is that one alone. A note where others are left.
    """
    here = machine.offers(home.root, device)
    folder = catalogue_folder(environ) if clouds else None
    read = [read_catalogue(cloud, folder, now) for cloud in clouds if cloud != "local"]
    notes = [note for one in read for note in one.notes]
    listed = [offer for one in read for offer in one.offers]
    for cloud in clouds:
        if cloud in LIVE:
            listed, said = _at_live_prices(cloud, listed, environ, now, alone=tuple(clouds) == (cloud,))
            notes += said
    kept, odd = plausible(listed, now)
    notes += odd
    if read:
        kept, moved = compare_with_last(clouds, kept, home.root / "catalogue_seen.json")
        notes += moved
    return Gathered((*here, *kept), tuple(notes))


def _at_live_prices(
    cloud: str, listed: list[Offer], environ: Mapping[str, str], now: datetime, *, alone: bool
) -> tuple[list[Offer], list[str]]:
    """`listed` with the offers of `cloud` at what it charges now. CredentialProblem where nothing else is asked for."""
    mine = [offer for offer in listed if offer.cloud == cloud]
    try:
        live, said = LIVE[cloud](mine, environ, now)
    except CredentialProblem as error:
        if alone:
            raise
        return listed, [f"{error.what} {error.why} Prices are the catalogue's. Next: {error.next_step}"]
    return [*live, *(offer for offer in listed if offer.cloud != cloud)], said


def _lambda(mine: list[Offer], environ: Mapping[str, str], now: datetime) -> tuple[list[Offer], list[str]]:
    from jobs.lambda_key import lambda_key

    key = lambda_key(environ)
    if key is None:
        return mine, []
    from jobs.lambda_http import LambdaProblem  # an HTTP client: not without a key
    from launcher.lambda_prices import live_offers

    try:
        return live_offers(key, mine, environ, now)
    except LambdaProblem as error:
        return mine, [f"{error.what} Why: {error.why}. Prices are the catalogue's"]


def _aws(mine: list[Offer], environ: Mapping[str, str], now: datetime) -> tuple[list[Offer], list[str]]:
    from launcher.aws_prices import live_offers

    return live_offers(mine, environ, now)


LIVE = {"lambda": _lambda, "aws": _aws}
"""How a cloud is asked: its catalogue offers, the environment and now give offers at live prices, and notes."""
