"""What a launch and a `plan` need before they can price anything: the requirement, and the trainer's environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from artifacts.errors import Declined, UsageProblem
from jobs import environment as trainer
from jobs.environment import Environment
from jobs.home import Home
from launcher import machine
from launcher.console import ask
from launcher.request import Request, environment_device, of_this_method, read_request
from launcher.settings import Settings

Say = Callable[[str], None]


def prepare(settings: Settings, home: Home, *, typed: bool, yes: bool, trains: bool, say: Say, note: Say) -> Request:
    """The request that the requirement file and the flags make; without a file, one that is estimated.

    A file of another method is refused where it was `typed`; where it stands in launch.toml, its model and data are
    estimated anew. Where it `trains`, a bare config.json is no model. `say` hears what is going on, `note` what is odd
    about the file or the model.
    """
    if not typed:
        settings = of_this_method(settings, say)
    if settings.requirements is not None:
        request = read_request(settings)
    else:
        request = _estimated(settings, home, yes=yes, trains=trains, say=say)
    for warning in request.warnings:
        note(f"warning: {warning}")
    return request


def _estimated(settings: Settings, home: Home, *, yes: bool, trains: bool, say: Say) -> Request:
    missing = [f"--{name}" for name in ("model", "train") if getattr(settings, name) is None]
    if missing:
        raise UsageProblem(
            f"What the job needs is not known: there is no requirement file, and no {' and no '.join(missing)} to "
            "estimate it from.",
            next_step=f"launch {settings.method} --model PATH|ID --train FILE, or --requirements FILE; `launch demo` "
            "makes a sample project with one.",
        )
    from launcher.estimate import estimate_config, estimated_request
    from train.stage_a import identify

    estimate_config(settings)  # a file that is not there is said before an environment is made
    if trains:
        identify(str(settings.model), base=settings.base, adapter=settings.adapter)
    environment = make_environment(settings, home, estimate_device(settings), yes=yes, say=say)
    return estimated_request(settings, home, environment, say)


def estimate_device(settings: Settings) -> Literal["cuda", "cpu"]:
    """Which environment a calculator runs in: the one that a job on this machine's GPU would have."""
    return "cuda" if settings.device != "cpu" and machine.gpus() else "cpu"


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
