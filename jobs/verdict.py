"""What a trainer's end means for its job."""

from __future__ import annotations

import signal
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.job import Outcome
from jobs.work import write_document
from train.config import End


class Verdict(BaseModel):
    model_config = ConfigDict(frozen=True)

    outcome: Outcome
    error: str | None = None
    attempt: int | None = None


def write_verdict(folder: Path, attempt: int, verdict: Verdict) -> None:
    """Keeps it in a job's folder, for the driver that may have to end the attempt."""
    write_document(folder / "verdict.json", verdict.model_copy(update={"attempt": attempt}).model_dump_json())


def read_verdict(folder: Path, attempt: int) -> Verdict | None:
    """That of this very attempt, where an earlier driver came so far."""
    try:
        found = Verdict.model_validate_json((folder / "verdict.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return found if found.attempt == attempt else None


def said_by_end(end: End | None, *, kept: bool) -> Outcome | None:
    """The outcome of a trainer that ended as planned; None where its end alone does not tell."""
    if end is None:
        return None
    if end.reason in ("finished", "max_steps"):
        return Outcome.SUCCEEDED
    return Outcome.BUDGET_STOPPED if end.reason == "deadline" and kept else None


def judge(
    job_id: str,
    end: End | None,
    exit_status: int,
    *,
    cancelled: bool,
    kept: bool,
    last_lines: str = "",
    budget_over: bool = False,
) -> Verdict:
    """From `end.json` (None: the trainer wrote none), the exit status (negative: a signal) and the tail of its log.

    `budget_over`: past the driver's line, at which it ends the trainer itself. `kept`: a checkpoint or an adapter is
    there; without one a deadline is a failure. What was ended from outside is not the run's own fault: it goes on with
    `launch resume`, from its start where nothing was saved yet.
    """
    if end is not None and exit_status == 0:
        as_planned = said_by_end(end, kept=kept)
        if as_planned is not None:
            return Verdict(outcome=as_planned)
        if end.reason == "deadline":
            return Verdict(
                outcome=Outcome.FAILED, error="The deadline came before the first checkpoint: there is no result."
            )
    if cancelled:
        return Verdict(outcome=Outcome.CANCELLED)
    if budget_over and kept and (exit_status < 0 or (end is not None and end.reason == "signal")):
        return Verdict(outcome=Outcome.BUDGET_STOPPED)  # the driver ended it at the line
    resumable = kept or exit_status < 0 or (end is not None and end.reason == "signal")
    go_on = f"Next: launch resume {job_id}" if resumable else f"Next: launch logs {job_id}"
    if end is not None and end.reason == "signal":
        what = f"The trainer was stopped from outside at step {end.step}; it saved its state first."
    elif exit_status < 0:
        name = signal.Signals(-exit_status).name
        what = f"The trainer was killed by {name}."
        if exit_status == -signal.SIGKILL:
            what += " If nobody did that by hand, the system ran out of memory."
    else:
        said = end.message if end is not None and end.message else last_lines
        what = f"The trainer failed (exit {exit_status}).\n{said}".rstrip()
    return Verdict(outcome=Outcome.FAILED, error=f"{what}\n{go_on}")
