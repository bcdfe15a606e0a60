"""What Lambda charges now, and where it has machines: one request, where there is a key."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import datetime
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from artifacts.errors import CredentialProblem, LaunchError
from jobs import gpus
from jobs.offer import Offer

ADDRESS = "https://cloud.lambda.ai"
TIMEOUT_S = 10.0
LARGEST_ANSWER = 4 * 2**20
KEYS_PAGE = "https://cloud.lambda.ai/api-keys"


class LambdaUnreachable(LaunchError):
    """Lambda did not answer, or not with what its documentation says. The catalogue's prices are left."""


class _Specs(BaseModel):
    vcpus: int | None = None
    memory_gib: FiniteFloat | None = None
    storage_gib: FiniteFloat | None = None
    gpus: int = 0


class _Type(BaseModel):
    price_cents_per_hour: FiniteFloat = Field(gt=0)
    gpu_description: str = ""
    specs: _Specs = _Specs()
    architecture: str = ""


class _Region(BaseModel):
    name: str


class _Entry(BaseModel):
    instance_type: _Type
    regions_with_capacity_available: list[_Region] = []


class _Answer(BaseModel):
    data: dict[str, object]


def lambda_key(environ: Mapping[str, str]) -> str | None:
    """`$LAMBDA_API_KEY`, or the one in `~/.lambda_cloud/lambda_keys`, as SkyPilot reads it; None where there is none.

    Raises:
        CredentialProblem: there is a file or a variable, and no key in it. The message never holds the key.
    """
    given = environ.get("LAMBDA_API_KEY")
    where = "$LAMBDA_API_KEY"
    if given is None:
        file = Path.home() / ".lambda_cloud" / "lambda_keys"
        where = str(file)
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise _no_key(where, f"It cannot be read ({type(error).__name__}).") from None
        found = [line.partition("=") for line in lines]
        given = next((value for name, _, value in found if name.strip() == "api_key"), "")
    key = given.strip()
    if not re.fullmatch(r"[!-~]+", key):  # a header takes nothing else, and its error would print the key
        raise _no_key(where, "It holds no key of printable characters without spaces.")
    return key


def _no_key(where: str, why: str) -> CredentialProblem:
    return CredentialProblem(
        f"{where} holds no key of Lambda that can be used.",
        why=why,
        next_step=f"make a key at {KEYS_PAGE}, and write api_key = KEY into ~/.lambda_cloud/lambda_keys",
    )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would send the key to wherever an answer points."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def _ask(key: str, environ: Mapping[str, str]) -> bytes:
    base = environ.get("LAUNCH_LAMBDA_URL", ADDRESS).rstrip("/")
    split = urlsplit(base)
    if split.scheme != "https" and not (split.scheme == "http" and split.hostname in ("127.0.0.1", "::1", "localhost")):
        raise LambdaUnreachable("Lambda was not asked for prices.", why="LAUNCH_LAMBDA_URL is not an https address")
    request = urllib.request.Request(  # noqa: S310  the scheme is checked above
        f"{base}/api/v1/instance-types",
        headers={"Authorization": f"Bearer {key}", "Accept": "application/json", "User-Agent": "dpo-launch"},
    )
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S) as answer:
            body: bytes = answer.read(LARGEST_ANSWER + 1)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            raise CredentialProblem(
                "Lambda does not accept the API key.",
                why=f"It answered {error.code} to a question for its prices.",
                next_step=f"make a new key at {KEYS_PAGE}, and write api_key = KEY into ~/.lambda_cloud/lambda_keys",
            ) from None
        raise LambdaUnreachable("Lambda gave no prices.", why=f"it answered {error.code}") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise LambdaUnreachable("Lambda gave no prices.", why=str(reason) or type(error).__name__) from None
    if len(body) > LARGEST_ANSWER:
        raise LambdaUnreachable("Lambda gave no prices.", why="its answer is larger than 4 MiB")
    return body


def live_offers(
    key: str, listed: Sequence[Offer], environ: Mapping[str, str], now: datetime
) -> tuple[list[Offer], list[str]]:
    """`listed` (the catalogue's) at Lambda's prices of `now`, with `capacity`, and what the catalogue does not know.

    Lambda has capacity in the regions that it names, and in no other. A type that it no longer names has none
    anywhere, and keeps its catalogue price.

    Raises:
        CredentialProblem: the key is not accepted.
        LambdaUnreachable: no answer within `TIMEOUT_S`, or one that is no list of types.
    """
    try:
        data = _Answer.model_validate_json(_ask(key, environ)).data
    except ValidationError:
        raise LambdaUnreachable("Lambda gave no prices.", why="its answer is not a list of instance types") from None
    types: dict[str, _Entry] = {}
    odd: list[str] = []
    for name, entry in data.items():
        try:
            types[name] = _Entry.model_validate(entry)
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            odd.append(f"Lambda's live price of {name} is not used: {where} cannot be")
    offers: list[Offer] = []
    for offer in listed:
        entry = types.get(offer.instance_type)
        if entry is None:
            known = offer.instance_type in data
            offers.append(offer if known else offer.model_copy(update={"capacity": False}))
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


def _live(entry: _Entry, now: datetime) -> dict[str, object]:
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
