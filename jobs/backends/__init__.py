"""Where an attempt runs. A backend has one attempt's machine; each of its calls looks at the world, then acts, and may
be repeated by a driver that knows nothing of the one before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from artifacts.errors import LaunchError
from jobs.job import PhaseProgress

Command = Literal["train", "evaluate"]
"""Of the trainer: `python -m train METHOD`, by the method of the job, or `python -m train evaluate`."""

Say = Callable[[PhaseProgress], None]
"""Hears how far a long call is. It raises CancelledEarly where the job is to be cancelled."""


class CancelledEarly(Exception):
    """A cancellation that came while a step could not look for it by itself."""


class OfferFailed(LaunchError):
    """No machine came of an offer: refused, dearer by now, or never fit to be used. The next one may be tried."""


class CloudSilent(OfferFailed):
    """The cloud did not answer before anything was asked of it that costs money: another cloud may be tried."""


@dataclass(frozen=True)
class Machine:
    instance_id: str
    billed_from: datetime | None = None
    """When the provider began to charge for it; None where nobody does."""


@dataclass(frozen=True)
class Task:
    """A command on this machine: an argument list, its variables, and the log that takes what it says.

    `kill_argv` ends what killing the process would leave running: a container is no child of the command that
    started it. It may be run when nothing is there.
    """

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    log: Path
    kill_argv: tuple[str, ...] = ()


class Backend(Protocol):
    def create(self, say: Say) -> Machine:
        """The attempt's machine, ready to be written to; one that is there already is taken.

        Raises:
            OfferFailed: there is none, and none is left behind.
        """
        ...

    def sync(self, say: Say) -> None:
        """What the trainer reads is where it reads it, and whole."""
        ...

    def submit(self, command: Command) -> None:
        """Starts the command, where it does not run already. One runs at a time."""
        ...

    def poll(self, timeout_s: float) -> int | None:
        """The command's exit status (negative: the signal that ended it), or None when it still runs after the wait.

        What it has written so far is in the job's work folder on this machine then.
        """
        ...

    def stop(self, grace_s: float) -> None:
        """Asks the command to end well, and ends it after `grace_s` seconds."""
        ...

    def collect(self) -> None:
        """All that the trainer wrote is in the job's work folder on this machine, verified."""
        ...

    def time_left_s(self) -> float | None:
        """Until the training must end for the budget's sake; None where nothing is paid for."""
        ...

    def held_until(self) -> datetime | None:
        """Until when the machine, and what is on it, waits for its owner; None where there is none."""
        ...

    def billed(self) -> tuple[datetime, datetime] | None:
        """From when to when the machine, which is gone, was charged for; None where nobody does."""
        ...

    def destroy(self) -> None:
        """Gives the machine back. Nothing of the attempt runs or costs afterwards.

        Raises:
            LaunchError: that could not be seen to be so.
        """
        ...

    def leave(self) -> None:
        """The driver ends before the job does: what must not run without one ends here."""
        ...
