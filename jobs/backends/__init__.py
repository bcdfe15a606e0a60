"""Where a job's attempt runs. A backend looks at the world, then acts: each of its calls may be repeated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Host:
    """A machine that an attempt has: its name there, and the folder that is the trainer's on it."""

    name: str
    work: Path


@dataclass(frozen=True)
class Task:
    """A command of the trainer: an argument list, its variables, and the log that takes what it says.

    `kill_argv` ends what killing the process would leave running: a container is no child of the command that
    started it. It may be run when nothing is there.
    """

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    log: Path
    kill_argv: tuple[str, ...] = ()


class Backend(Protocol):
    def create(self, job_id: str) -> Host:
        """The machine for an attempt; what an earlier attempt left running there is ended first."""
        ...

    def submit(self, host: Host, task: Task) -> None:
        """Starts the task. One runs at a time on a host."""
        ...

    def poll(self, host: Host, timeout_s: float) -> int | None:
        """The task's exit status (negative: the signal that ended it), or None when it still runs after the wait."""
        ...

    def stop(self, host: Host, grace_s: float) -> None:
        """Asks the task to end well, and ends it after `grace_s` seconds."""
        ...

    def destroy(self, host: Host) -> None:
        """Gives the machine back. Nothing of the job runs on it afterwards."""
        ...

    def list(self) -> list[str]:
        """The jobs of this store that have something running there."""
        ...
