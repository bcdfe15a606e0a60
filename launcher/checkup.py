"""What `launch doctor` looks at: each finding with its remedy."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from artifacts.errors import CredentialProblem, LaunchError
from jobs import environment as trainer
from jobs.home import Home
from jobs.store import Store
from launcher import machine, version
from launcher.settings import Settings

TRAINER_GIB = 8.0
"""Free space that the trainer's environment and a small job want."""


class Finding(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    level: Literal["good", "note", "broken"]
    found: str
    remedy: str | None = None

    @property
    def mark(self) -> str:
        return {"good": "ok ", "note": "-- ", "broken": "BAD"}[self.level]


def checkup(environ: Mapping[str, str], settings: Settings) -> list[Finding]:
    found = [_program(), *_state(environ), _disk(), _gpu(), _clock(), _skypilot(), _lambda(environ), _aws(environ)]
    try:
        home = Home.from_environment(environ)
    except LaunchError:
        return found
    return [*found, _trainer(home, settings)]


def _program() -> Finding:
    python = ".".join(str(part) for part in sys.version_info[:3])
    return Finding(name="program", level="good", found=f"launch {version()}, Python {python}")


def _state(environ: Mapping[str, str]) -> list[Finding]:
    try:
        home = Home.from_environment(environ)
        jobs = Store.open(home).jobs()
    except LaunchError as error:
        return [Finding(name="state", level="broken", found=error.what, remedy=error.next_step or error.why)]
    where = "PostgreSQL" if environ.get("LAUNCH_DATABASE_URL", "").startswith("postgresql") else str(home.root)
    return [Finding(name="state", level="good", found=f"{where}, {len(jobs)} job{'' if len(jobs) == 1 else 's'}")]


def _disk() -> Finding:
    free = machine.free_disk_gib(Path.cwd())
    short = free < TRAINER_GIB
    return Finding(
        name="disk",
        level="note" if short else "good",
        found=f"{free:.0f} GiB free here",
        remedy=f"free some: environment, model and checkpoints want {TRAINER_GIB:.0f} GiB" if short else None,
    )


def _gpu() -> Finding:
    cards, problem = machine.look_for_gpus()
    if problem:
        return Finding(
            name="GPU",
            level="note",
            found=problem,
            remedy="restart after an update of the driver, or install it again (nvidia-smi must work); the CPU trains"
            " until then",
        )
    if not cards:
        return Finding(
            name="GPU",
            level="note",
            found=f"none; {machine.cores()} cores, {machine.memory_gib():.0f} GiB of memory ({machine.cpu_name()})",
            remedy="training runs on the CPU, in part; with an NVIDIA card, install its driver (nvidia-smi must work)",
        )
    return Finding(name="GPU", level="good", found=", ".join(f"{name}, {vram:.1f} GiB" for name, vram in cards))


def _clock() -> Finding:
    """A clock that is off breaks deadlines and signed requests; this file is younger than any right time."""
    made = datetime.fromtimestamp(Path(__file__).stat().st_mtime, UTC)
    behind = datetime.now(UTC) < made
    return Finding(
        name="clock",
        level="broken" if behind else "good",
        found=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC" + (", behind this program's own files" if behind else ""),
        remedy="set it (timedatectl set-ntp true)" if behind else None,
    )


def _skypilot() -> Finding:
    """Whether it is installed, from its metadata: `import sky` succeeds without it, in a checkout."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found = distribution("skypilot")
    except PackageNotFoundError:
        return Finding(
            name="SkyPilot",
            level="note",
            found="not installed; jobs on this machine do without",
            remedy="to rent machines: pip install 'dpo-launch[cloud]'",
        )
    return Finding(name="SkyPilot", level="good", found=f"version {found.version}")


def _lambda(environ: Mapping[str, str]) -> Finding:
    """The key, tried with one harmless question."""
    from jobs.lambda_key import lambda_key, new_key

    try:
        key = lambda_key(environ)
        if key is None:
            return Finding(name="Lambda", level="note", found="no key here; nothing is rented", remedy=new_key())
        from jobs.lambda_api import LambdaApi

        running = [instance for instance in LambdaApi(key, environ, patience_s=3.0).instances() if instance.costs]
    except CredentialProblem as error:
        return Finding(name="Lambda", level="broken", found=f"{error.what} {error.why}", remedy=error.next_step)
    except LaunchError as error:
        remedy = error.next_step or "try again; without it a plan has the catalogue's prices, and nothing can be rented"
        return Finding(name="Lambda", level="note", found=f"{error.what} Why: {error.why}", remedy=remedy)
    number = len(running)
    return Finding(
        name="Lambda",
        level="good",
        found=f"the key is accepted; {number} machine{'' if number == 1 else 's'} on the account"
        + (" (launch reap --dry-run lists them)" if number else ""),
    )


def _aws(environ: Mapping[str, str]) -> Finding:
    from launcher.aws_checkup import look

    level, found, remedy = look(environ)
    return Finding(name="AWS", level=level, found=found, remedy=remedy)


def _trainer(home: Home, settings: Settings) -> Finding:
    device = "cuda" if machine.gpus() else "cpu"
    try:
        ready = trainer.ready(home, device=device, python=settings.train_python)
        if settings.train_python:
            trainer.ensure(home, device=device, python=settings.train_python, say=lambda _: None)  # looks only
    except LaunchError as error:
        return Finding(name="trainer", level="broken", found=error.what, remedy=error.next_step or error.why)
    if ready:
        where = settings.train_python or home.environments
        return Finding(name="trainer", level="good", found=f"its environment is ready: {where}")
    return Finding(
        name="trainer",
        level="note",
        found="its environment is not made yet",
        remedy="launch dpo makes it once (PyTorch, TRL), after asking",
    )
