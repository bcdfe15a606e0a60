"""SkyPilot's catalogue files, read without SkyPilot and never written: every row is an offer, or is named as odd."""

from __future__ import annotations

import ast
import csv
import json
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jobs import gpus
from jobs.offer import Offer

STALE = timedelta(days=1)
NEEDED = ("InstanceType", "AcceleratorName", "AcceleratorCount", "MemoryGiB", "Price", "Region", "SpotPrice")
FOLDER = "~/.sky/catalogs/v8"
"""Where SkyPilot 0.14 has its catalogues."""
FETCH = {
    # It writes lambda/vms.csv into the folder that it is run in, with the key in ~/.lambda_cloud/lambda_keys.
    "lambda": "mkdir -p {folder} && cd {folder} && python -m sky.catalog.data_fetchers.fetch_lambda_cloud",
    "aws": "sky gpus list --cloud aws",
}
LINES_NAMED = 3


def fetch(cloud: str, folder: Path | None = None) -> str:
    """What to type to get the catalogue of `cloud` into `folder`."""
    place = shlex.quote(str(folder)) if folder else FOLDER
    return f"{FETCH[cloud].format(folder=place)} (with SkyPilot installed)"


@dataclass
class Catalogue:
    """The offers of one cloud, what is odd about its file, and prices that its file gives a type."""

    offers: list[Offer] = field(default_factory=list[Offer])
    notes: list[str] = field(default_factory=list[str])


def read_catalogue(cloud: str, folder: Path | None, now: datetime) -> Catalogue:
    """The catalogue of `cloud`; without a file, a note that says the command that gets one."""
    found = Catalogue()
    file = folder / cloud / "vms.csv" if folder else None
    if file is None or not file.is_file():
        found.notes.append(f"there is no price catalogue of {cloud}; get it: {fetch(cloud, folder)}")
        return found
    changed = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    if now - changed > STALE:
        found.notes.append(f"{file}: prices are {_age(now - changed)} old; newer ones: {fetch(cloud, folder)}")
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.reader(stream)
            header = next(rows, list[str]())
            missing = [name for name in NEEDED if name not in header]
            if missing:
                found.notes.append(f"{file} is not used: it has no column {', '.join(missing)}")
                return found
            odd = _Odd(file)
            _read(cloud, header, rows, changed, odd, found)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        found.notes.append(f"{file} cannot be read: {error}")
        return found
    found.notes += odd.notes()
    if not found.offers:
        found.notes.append(f"{file} has no machine with a GPU that can be used; get it again: {fetch(cloud, folder)}")
    return found


def _age(age: timedelta) -> str:
    hours = age // timedelta(hours=1)
    return f"{hours} hours" if hours < 48 else f"{hours // 24} days"


class _Odd:
    """Rows that are not used, by reason, with the first few line numbers."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._count: Counter[str] = Counter()
        self._lines: dict[str, list[int]] = {}

    def add(self, reason: str, line: int) -> None:
        self._count[reason] += 1
        self._lines.setdefault(reason, [])[LINES_NAMED:] = []
        if len(self._lines[reason]) < LINES_NAMED:
            self._lines[reason].append(line)

    def notes(self) -> Iterator[str]:
        for reason, count in self._count.items():
            lines = ", ".join(map(str, self._lines[reason])) + (", ..." if count > LINES_NAMED else "")
            rows, on = ("row is", "line") if count == 1 else ("rows are", "lines")
            yield f"{self._file}: {count:,} {rows} not used: {reason} ({on} {lines})"


def _read(
    cloud: str, header: list[str], rows: Iterator[list[str]], as_of: datetime, odd: _Odd, found: Catalogue
) -> None:
    """One offer for each type and region on demand, and one for spot; of zones, the cheapest. CPU machines are left."""
    at = {name: header.index(name) for name in header}
    kind, card, count = at["InstanceType"], at["AcceleratorName"], at["AcceleratorCount"]
    memory, price, region, spot = at["MemoryGiB"], at["Price"], at["Region"], at["SpotPrice"]
    info, arch = at.get("GpuInfo"), at.get("Arch")
    zone = at.get("AvailabilityZone")
    cheapest: dict[tuple[str, str, bool], Offer] = {}
    seen: set[tuple[str, str, str]] = set()
    memories: dict[str, float | None] = {}
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            odd.add("it has another number of columns", line)
            continue
        if not row[card]:
            continue
        key = (row[kind], row[region], row[zone] if zone is not None else "")
        if key in seen:
            odd.add("it repeats an earlier one", line)
            continue
        seen.add(key)
        gpu, number = row[card], _number(row[count])
        vram = memories.setdefault(f"{gpu} {row[info] if info is not None else ''}", None)
        if vram is None:
            vram = memories[f"{gpu} {row[info] if info is not None else ''}"] = _vram(row[info] if info else "", gpu)
        if not number or number != int(number) or vram is None:
            odd.add("its GPU is not known" if vram is None else "its number of GPUs cannot be", line)
            continue
        for usd, is_spot in ((row[price], False), (row[spot], True)):
            if not usd and is_spot:
                continue  # this cloud has no spot
            value = _number(usd)
            if value is None or value <= 0:
                odd.add(f"its {'spot ' if is_spot else ''}price is {usd or 'missing'}", line)
                continue
            slot = (row[kind], row[region], is_spot)
            known = cheapest.get(slot)
            if known is None or value < known.price_per_hour:
                cheapest[slot] = Offer.model_construct(
                    cloud=cloud, instance_type=row[kind], region=row[region], gpus=int(number), gpu=gpu, vram_gib=vram,
                    ram_gib=_number(row[memory]), disk_gib=None, cores=None, spot=is_spot, price_per_hour=value,
                    price_as_of=as_of, arch=_arch(row[arch] if arch is not None else "", gpu),
                )  # fmt: skip
    found.offers += cheapest.values()


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value and abs(value) != float("inf") else None  # NaN


def _vram(info: str, gpu: str) -> float | None:
    """GiB of one GPU: as the catalogue says, else as the data sheet does."""
    if info:
        try:
            document: Any = json.loads(info)
        except ValueError:
            try:
                document = ast.literal_eval(info)
            except (ValueError, SyntaxError):
                document = None
        try:
            return float(document["Gpus"][0]["MemoryInfo"]["SizeInMiB"]) / 1024
        except (TypeError, KeyError, IndexError, ValueError):
            pass
    known = gpus.find(gpu)
    return known.vram_gib if known else None


def _arch(named: str, gpu: str) -> str:
    if named:
        return "arm64" if "arm" in named.casefold() or "aarch" in named.casefold() else "x86_64"
    known = gpus.find(gpu)
    return known.arch if known else "x86_64"
