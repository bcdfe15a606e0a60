"""What a trainer's end means for its job. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from jobs.job import Outcome
from train.config import End


@dataclass(frozen=True)
class Verdict:
    outcome: Outcome
    error: str | None = None


def said_by_end(end: End | None, *, kept: bool) -> Outcome | None:
    """The outcome of a trainer that ended as planned; None where its end alone does not tell."""
    if end is None:
        return None
    if end.reason in ("finished", "max_steps"):
        return Outcome.SUCCEEDED
    return Outcome.BUDGET_STOPPED if end.reason == "deadline" and kept else None


def judge(
    job_id: str, end: End | None, exit_status: int, *, cancelled: bool, kept: bool, last_lines: str = ""
) -> Verdict:
    """From `end.json` (None: the trainer wrote none), the exit status (negative: a signal) and the tail of its log.

    `kept` says that a checkpoint or an adapter is there; without one a deadline is a failure. What was ended from
    outside is not the run's own fault: it goes on with `launch resume`, from its start where nothing was saved yet.
    """
    if end is not None and exit_status == 0:
        as_planned = said_by_end(end, kept=kept)
        if as_planned is not None:
            return Verdict(as_planned)
        if end.reason == "deadline":
            return Verdict(Outcome.FAILED, "The deadline came before the first checkpoint: there is no result.")
    if cancelled:
        return Verdict(Outcome.CANCELLED)
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
    return Verdict(Outcome.FAILED, f"{what}\n{go_on}")
