"""`manifest.json`: what a folder holds, so that it can be told whole from not whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from artifacts.errors import NotWhole

MANIFEST = "manifest.json"


class Entry(BaseModel):
    model_config = ConfigDict(frozen=True)

    size: int
    """Bytes."""
    sha256: str


class Manifest(BaseModel):
    """`manifest/1`: relative POSIX paths of files -> size and SHA-256."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    schema_: Literal["manifest/1"] = Field(default="manifest/1", alias="schema")
    files: dict[str, Entry]


def make(root: Path, names: Iterable[str] | None = None) -> Manifest:
    """Of all files under `root`, or under its entries `names` (those that exist). Names with a leading dot in `root`
    are works in progress and left out."""
    if root.is_file():
        return Manifest(files={"": entry(root)})
    tops = sorted(path.name for path in root.iterdir() if path.name[0] != ".") if names is None else names
    found = (path for top in tops for path in ([root / top] if (root / top).is_file() else (root / top).rglob("*")))
    files = {path.relative_to(root).as_posix(): entry(path) for path in found if path.is_file()}
    return Manifest(files=dict(sorted(files.items())))


def entry(path: Path) -> Entry:
    with path.open("rb") as file:
        return Entry(size=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def differences(root: Path, manifest: Manifest) -> list[str]:
    """What is missing or different under `root`, as people read it; empty where all of the manifest is there."""
    found: list[str] = []
    for name, expected in manifest.files.items():
        path = root / name if name else root
        if not path.is_file():
            found.append(f"{name or root.name} is missing")
        elif path.stat().st_size != expected.size:
            found.append(f"{name or root.name} has {path.stat().st_size} bytes, not {expected.size}")
        elif entry(path).sha256 != expected.sha256:
            found.append(f"{name or root.name} has other content")
    return found


def verify(root: Path, manifest: Manifest) -> None:
    """Raises NotWhole where `root` lacks something of `manifest` or holds it differently."""
    found = differences(root, manifest)
    if found:
        raise NotWhole(f"{root} does not match its manifest", why="; ".join(found[:5]))


def write(root: Path, manifest: Manifest) -> Path:
    """Writes `root/manifest.json`, beside its place first."""
    final = root / MANIFEST
    beside = root / f".{MANIFEST}"
    beside.write_text(json.dumps(manifest.model_dump(by_alias=True), indent=1) + "\n")
    beside.replace(final)
    return final


def read(root: Path) -> Manifest | None:
    """The manifest in `root`; None where there is none. Raises NotWhole for one that cannot be read."""
    try:
        return Manifest.model_validate_json((root / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise NotWhole(f"{root / MANIFEST} cannot be read", why=str(error.errors()[0]["msg"])) from error
