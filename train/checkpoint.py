# pyright: basic, reportMissingImports=false
"""A checkpoint: adapter, optimizer, random state and progress as safetensors and JSON; whole or not there.

A folder `checkpoint-N` is written under a `.tmp-PID` name beside its place, synced, and renamed. `whole.json` in it
names every file with size and SHA-256, so that a torn copy is recognised too. No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from train.errors import TrainError

WHOLE = "whole.json"
KEEP = 2

_NAME = re.compile(r"checkpoint-(\d+)")


def write(parent: Path, step: int, tensors: Mapping[str, Mapping[str, torch.Tensor]], texts: Mapping[str, str]) -> Path:
    """Writes `parent/checkpoint-STEP` and returns it. `tensors` and `texts` are its files by name.

    Raises OSError as it comes (a full disk); what was there before stays whole.
    """
    place = parent / f"checkpoint-{step}"
    beside = parent / f"{place.name}.tmp-{os.getpid()}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        files = {name: save({k: v.contiguous().cpu() for k, v in part.items()}) for name, part in tensors.items()}
        files |= {name: text.encode() for name, text in texts.items()}
        marker = {
            "schema": "checkpoint/1",
            "step": step,
            "files": {
                name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
            },
        }
        for name, data in files.items():
            write_synced(beside / name, data)
        write_synced(beside / WHOLE, json.dumps(marker, indent=1).encode())
        sync_folder(beside)
        if place.exists():  # left from before a resume, by this step's number
            place.rename(beside.with_suffix(".old"))
        beside.rename(place)
        sync_folder(parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(beside.with_suffix(".old"), ignore_errors=True)
    return place


def rotate(parent: Path, keep: int = KEEP) -> None:
    """Removes all but the newest `keep` checkpoints."""
    for _, folder in _numbered(parent)[:-keep]:
        shutil.rmtree(folder)


def sweep(parent: Path) -> list[str]:
    """Removes what a killed run left half-done, and returns the names: temporary folders, torn checkpoints."""
    if not parent.is_dir():
        return []
    gone = [path for path in parent.iterdir() if path.name.startswith("checkpoint-") and not _NAME.fullmatch(path.name)]
    gone += [folder for _, folder in _numbered(parent) if not is_whole(folder)]
    for folder in gone:
        shutil.rmtree(folder)
    return sorted(folder.name for folder in gone)


def newest_whole(parent: Path) -> Path | None:
    """The checkpoint to resume from, or None."""
    return next((folder for _, folder in reversed(_numbered(parent)) if is_whole(folder)), None)


def step_of(folder: Path) -> int:
    match = _NAME.fullmatch(folder.name)
    if match is None:
        raise ValueError(f"{folder.name} is not the name of a checkpoint")
    return int(match[1])


def is_whole(folder: Path) -> bool:
    """Whether every file is there and matches its SHA-256."""
    try:
        files = json.loads((folder / WHOLE).read_bytes())["files"]
        return all(_matches(folder / name, entry) for name, entry in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _matches(path: Path, entry: Mapping[str, Any]) -> bool:
    if path.stat().st_size != entry["bytes"]:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == entry["sha256"]


def _numbered(parent: Path) -> list[tuple[int, Path]]:
    if not parent.is_dir():
        return []
    return sorted((step_of(path), path) for path in parent.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())


def write_synced(path: Path, data: bytes) -> None:
    """A new file with the mode that the umask gives (safetensors' own writer makes it 0600), on disk on return."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_synced(path: Path, data: bytes, by_way_of: Path | None = None) -> None:
    """The file is the old one or the new one at any moment, never half of either.

    `by_way_of` is the folder in which it is written first, where what a kill leaves may lie: the file's own, or another
    one of the same disk.
    """
    beside = (by_way_of or path.parent) / f"{path.name}.tmp-{os.getpid()}"
    try:
        write_synced(beside, data)
        beside.replace(path)
        sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def pack_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Splits an optimizer's `state_dict` into tensors (`INDEX.NAME`) and the rest, which is JSON."""
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    return tensors, {"plain": plain, "param_groups": state["param_groups"]}


def unpack_optimizer(tensors: Mapping[str, torch.Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    """The `state_dict` that `pack_optimizer` split."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    for index, entries in rest["plain"].items():
        state.setdefault(int(index), {}).update(entries)
    return {"state": state, "param_groups": rest["param_groups"]}


def read_tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """A part of a checkpoint, on the CPU. A missing part is an error: transformers would skip it in silence."""
    path = folder / name
    if not path.is_file():
        raise TrainError(f"{folder} has no {name}", "a checkpoint without it cannot continue the same run")
    return load_file(path)


def read_document(folder: Path, name: str) -> Any:
    path = folder / name
    if not path.is_file():
        raise TrainError(f"{folder} has no {name}", "a checkpoint without it cannot continue the same run")
    return json.loads(path.read_bytes())
