"""What Lambda charges now, and where it has machines: one request, where there is a key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from jobs import gpus
from jobs.lambda_api import LambdaApi
from jobs.lambda_models import TypeOnSale
from jobs.offer import Offer

TIMEOUT_S = 10.0


def live_offers(
    key: str, listed: Sequence[Offer], environ: Mapping[str, str], now: datetime
) -> tuple[list[Offer], list[str]]:
    """`listed` (the catalogue's) at Lambda's prices of `now`, with `capacity`, and what the catalogue does not know.

    Lambda has capacity in the regions that it names, and in no other. A type that it no longer names has none
    anywhere, and keeps its catalogue price.

    Raises:
        CredentialProblem: the key is not accepted.
        LambdaProblem: no answer within `TIMEOUT_S`, or one that is no list of types. It is asked once: a plan has the
            catalogue's prices without it.
    """
    types, unread = LambdaApi(key, environ, timeout_s=TIMEOUT_S, patience_s=0.0).instance_types()
    odd = list(unread.values())
    offers: list[Offer] = []
    for offer in listed:
        entry = types.get(offer.instance_type)
        if entry is None:
            offers.append(offer if offer.instance_type in unread else offer.model_copy(update={"capacity": False}))
            continue
        names = {region.name for region in entry.regions_with_capacity_available}
        offers.append(offer.model_copy(update={**_live(entry, now), "capacity": offer.region in names}))
    in_catalogue = {(offer.instance_type, offer.region) for offer in listed}
    for name, entry in types.items():
        gpu = _gpu(entry.instance_type.gpu_description)
        regions = [region.name for region in entry.regions_with_capacity_available]
        new = [region for region in regions if (name, region) not in in_catalogue]
        if not new or not entry.instance_type.specs.gpus:
            continue
        if gpu is None:
            odd.append(f"Lambda offers {name}, and its GPU is not known ({entry.instance_type.gpu_description})")
            continue
        arch = "arm64" if "arm" in entry.instance_type.architecture.casefold() else gpu.arch
        offers += [
            Offer.model_validate(
                {"cloud": "lambda", "instance_type": name, "region": region, "gpus": entry.instance_type.specs.gpus,
                 "gpu": gpu.name, "vram_gib": gpu.vram_gib, "arch": arch, "capacity": True, **_live(entry, now)}
            )
            for region in new
        ]  # fmt: skip
    return offers, odd


def _live(entry: TypeOnSale, now: datetime) -> dict[str, object]:
    """What the answer says of any machine of a type; what it leaves out stays as the catalogue has it."""
    specs = entry.instance_type.specs
    sizes = {"ram_gib": specs.memory_gib, "disk_gib": specs.storage_gib, "cores": specs.vcpus}
    return {
        "price_per_hour": entry.instance_type.price_cents_per_hour / 100,
        "price_as_of": now,
        "price_source": "Lambda's API",
        **{name: size for name, size in sizes.items() if size is not None},
    }


def _gpu(description: str) -> gpus.Gpu | None:
    """Of `A100 (40 GB SXM4)`: Lambda writes the memory in parentheses, and sells one name in several sizes."""
    match = re.fullmatch(r"\s*(.+?)\s*\((\d+) GB(?: ([\w-]+))?\)\s*", description)
    if match is None:
        return gpus.find(description)
    name, size, form = match.groups()
    name = name.removeprefix("Tesla ")
    names = ([f"{name}-{form}"] if form else []) + [f"{name}-{size}GB", name]
    return next((gpu for each in names if (gpu := gpus.find(each)) and gpu.vram_gib == float(size)), None)
