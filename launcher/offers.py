"""Every machine that a plan may look at: this one, and those of the clouds that are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from artifacts.errors import CredentialProblem
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
    """This machine's offers, and those in the catalogues of `clouds`, at live prices where a key of Lambda is there.

    Prices that cannot be are left out, and said.

    Raises:
        CredentialProblem: Lambda's key is not accepted, and `clouds` is Lambda alone. A note where others are left.
    """
    here = machine.offers(home.root, device)
    folder = catalogue_folder(environ) if clouds else None
    read = [read_catalogue(cloud, folder, now) for cloud in clouds if cloud != "local"]
    notes = [note for one in read for note in one.notes]
    listed = [offer for one in read for offer in one.offers]
    if "lambda" in clouds:
        listed, said = _at_live_prices(listed, environ, now, alone=tuple(clouds) == ("lambda",))
        notes += said
    kept, odd = plausible(listed, now)
    notes += odd
    if read:
        kept, moved = compare_with_last(clouds, kept, home.root / "catalogue_seen.json")
        notes += moved
    return Gathered((*here, *kept), tuple(notes))


def _at_live_prices(
    listed: list[Offer], environ: Mapping[str, str], now: datetime, *, alone: bool
) -> tuple[list[Offer], list[str]]:
    from launcher.lambda_prices import LambdaUnreachable, lambda_key, live_offers  # an HTTP client: not without a key

    try:
        key = lambda_key(environ)
        if key is None:
            return listed, []
        mine = [offer for offer in listed if offer.cloud == "lambda"]
        live, odd = live_offers(key, mine, environ, now)
    except CredentialProblem as error:
        if alone:
            raise
        return listed, [f"{error.what} {error.why} Prices are the catalogue's. Next: {error.next_step}"]
    except LambdaUnreachable as error:
        return listed, [f"{error.what} Why: {error.why}. Prices are the catalogue's"]
    return [*live, *(offer for offer in listed if offer.cloud != "lambda")], odd
