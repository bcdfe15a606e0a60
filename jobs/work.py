"""The trainer's folder of a job, as the trainer leaves it."""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import ValidationError

from train.config import End

KEEP = 2
"""Checkpoints, here as where the trainer runs."""


def newest_checkpoint(work: Path) -> Path | None:
    """The newest `checkpoints/checkpoint-N`; the trainer renames whole ones in, so that a final name says whole."""
    found = _checkpoints(work)
    return found[-1] if found else None


def prune_checkpoints(work: Path) -> None:
    for path in _checkpoints(work)[:-KEEP]:
        shutil.rmtree(path)


def _checkpoints(work: Path) -> list[Path]:
    found = [path for path in (work / "checkpoints").glob("checkpoint-*") if step_of(path.name) is not None]
    return sorted(found, key=lambda path: step_of(path.name) or 0)


def step_of(name: str) -> int | None:
    """Of `checkpoint-N`; None for any other name."""
    number = name.removeprefix("checkpoint-")
    return int(number) if name.startswith("checkpoint-") and number.isascii() and number.isdigit() else None


def has_result(work: Path) -> bool:
    """Whether there is something to bring home that took time to make."""
    return (work / "adapter").is_dir() or newest_checkpoint(work) is not None


def read_end(work: Path) -> End | None:
    """Why the trainer stopped, or None where it wrote nothing whole."""
    try:
        return End.model_validate_json((work / "end.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def last_lines(log: Path, begin: int = 0, count: int = 6) -> str:
    """The last `count` lines with text in them, of what was written after byte `begin`."""
    try:
        with log.open("rb") as file:
            file.seek(max(begin, log.stat().st_size - 8192))
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        return ""
    return "\n".join(lines[-count:])


def write_document(path: Path, text: str) -> None:
    """Writes a file beside its place, then renames it in."""
    beside = path.with_name(f".{path.name}")
    beside.write_text(text + "\n")
    beside.replace(path)
