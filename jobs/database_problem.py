"""Why the database could not be used, as people read it: what happened, why, and what to do."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import NamedTuple

from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from artifacts.errors import StoreFailed, UsageProblem
from jobs.home import Home

_FULL_BYTES = 1 << 20
"""Less free space than SQLite needs for its log and its index."""

# The low byte of SQLite's result codes (sqlite.org/rescode.html).
_PERM, _BUSY, _LOCKED, _READONLY, _IOERR, _FULL, _CANTOPEN = 3, 5, 6, 8, 10, 13, 14


class Problem(NamedTuple):
    what: str
    why: str
    remedy: str


def when_opened(home: Home, error: SQLAlchemyError | sqlite3.Error) -> UsageProblem:
    """The database cannot be used at all; nothing was begun."""
    problem = explain(home, error)
    return UsageProblem(problem.what, why=problem.why, next_step=problem.remedy)


def while_used(home: Home, error: SQLAlchemyError) -> StoreFailed:
    """It could be used before. The transaction was not made."""
    problem = explain(home, error)
    return StoreFailed(
        problem.what,
        why=problem.why,
        costing=_costing(home),
        next_step=f"{problem.remedy}, then: launch status",
    )


def _costing(home: Home) -> str:
    """As the records of machines say, which lie beside the database: nobody can ask that now."""
    from jobs.backends.machine_record import MachineRecord  # only where something failed

    records = [
        MachineRecord.model_validate_json(file.read_bytes())
        for file in sorted(home.jobs_dir.glob("*/machine-*/record.json"))
    ]
    rented = [record.instance_name for record in records if record.may_be_there]
    if not rented:
        return "Nothing is costing money."
    return f"{', '.join(rented)} may be costing money, until its own deadline at the latest."


def explain(home: Home, error: SQLAlchemyError | sqlite3.Error) -> Problem:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    why = str(cause).strip()
    if home.database is None:
        return _of_file(home.database_file, why, getattr(cause, "sqlite_errorcode", None))
    shown = make_url(home.database).render_as_string(hide_password=True)
    return Problem(f"The job database {shown} cannot be used", why, "check LAUNCH_DATABASE_URL and the server")


def damaged(file: Path, why: str) -> UsageProblem:
    """Only what is not a database of ours is to be moved away."""
    problem = _damaged(file, why)
    return UsageProblem(problem.what, why=problem.why, next_step=problem.remedy)


def _of_file(file: Path, why: str, code: int | None) -> Problem:
    kind = None if code is None else code & 0xFF
    if kind == _FULL or (kind in (_IOERR, _CANTOPEN) and _is_full(file.parent)):
        return Problem(f"The disk of the job database {file} is full", why, "make room on that disk")
    if kind in (_BUSY, _LOCKED):
        return Problem(
            f"The job database {file} is kept locked by another program", why, f"end that program (fuser '{file}')"
        )
    if kind in (_PERM, _READONLY, _IOERR, _CANTOPEN):
        return Problem(
            f"The job database {file} cannot be used", why, f"check the disk and the permissions of {file.parent}"
        )
    return _damaged(file, why)


def _is_full(folder: Path) -> bool:
    return folder.exists() and shutil.disk_usage(folder).free < _FULL_BYTES


def _damaged(file: Path, why: str) -> Problem:
    return Problem(
        f"The job database {file} cannot be read",
        why,
        f"put a backup in its place, or move it away to start empty: mv '{file}' '{file}.broken'",
    )
