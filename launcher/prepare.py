"""What `dpo` and `plan` need before they can price anything: the requirement, and the trainer's environment."""

from __future__ import annotations

from collections.abc import Callable

from artifacts.errors import Declined, UsageProblem
from jobs import environment as trainer
from jobs.environment import Environment
from jobs.home import Home
from launcher.console import ask
from launcher.request import Request, environment_device, read_request
from launcher.settings import Settings

Say = Callable[[str], None]


def prepare(settings: Settings, *, say: Say) -> Request:
    """The request that the requirement file and the flags make, with what is odd about the file said."""
    if settings.requirements is None:
        raise UsageProblem(
            "What the job needs is not known: there is no requirement file.",
            why="No --requirements FILE was given, and launch.toml here names none.",
            next_step="launch dpo --requirements FILE, or `launch demo` for a sample project with one.",
        )
    request = read_request(settings)
    for warning in request.warnings:
        say(f"warning: {warning}")
    return request


def environment_for(request: Request, home: Home, *, yes: bool, say: Say) -> Environment:
    return make_environment(request.settings, home, environment_device(request, home), yes=yes, say=say)


def environment_if_ready(request: Request, home: Home, *, make: bool, say: Say) -> Environment | None:
    """The environment that is there; else None, unless it is to be made."""
    device, settings = environment_device(request, home), request.settings
    if not make and not trainer.ready(home, device=device, python=settings.train_python):
        return None
    return trainer.ensure(home, device=device, python=settings.train_python, pip_args=settings.pip_args, say=say)


def make_environment(settings: Settings, home: Home, device: str, *, yes: bool, say: Say) -> Environment:
    """The trainer's environment, made once; asked first, since it downloads some hundred megabytes."""
    if not trainer.ready(home, device=device, python=settings.train_python) and not (
        yes or ask(f"The trainer's environment (PyTorch, TRL) is made once, under {home.environments}. Make it?")
    ):
        raise Declined("Without its environment the trainer cannot run. Nothing was recorded.")
    return trainer.ensure(home, device=device, python=settings.train_python, pip_args=settings.pip_args, say=say)
