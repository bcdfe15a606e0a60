"""Machines that could not be seen to end: a line each in `$LAUNCH_HOME/unended`, which every command shows.

The store says it too (`teardown_unconfirmed`); this costs no command a query.
"""

from __future__ import annotations

from pathlib import Path


def note(root: Path, job_id: str, line: str) -> None:
    """Of the job of that id, in the state folder `root`."""
    folder = root / "unended"
    folder.mkdir(exist_ok=True)
    (folder / job_id).write_text(line + "\n", encoding="utf-8")


def clear(root: Path, job_id: str) -> None:
    (root / "unended" / job_id).unlink(missing_ok=True)


def lines(root: Path) -> list[str]:
    try:
        return [file.read_text(encoding="utf-8").strip() for file in sorted((root / "unended").iterdir())]
    except OSError:
        return []
