"""From what was typed to a plan: requirement read, flags applied, machine and its rate known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from artifacts.errors import UsageProblem
from jobs.environment import Environment
from jobs.home import Home
from jobs.offer import Plan
from jobs.price import hardware_gaps
from jobs.store import Store
from launcher import machine
from launcher.planning import plan
from launcher.settings import Settings
from launcher.workload import with_settings
from train.requirement import Requirement


@dataclass(frozen=True)
class Request:
    """A workload with absolute paths and flags applied, and what a person must be told of its file."""

    settings: Settings
    requirement: Requirement
    file: Path
    warnings: tuple[str, ...]


def read_request(settings: Settings) -> Request:
    from launcher.requirement_file import read_requirement

    if settings.requirements is None:
        raise UsageProblem(
            "What the job needs is not known: there is no requirement file.",
            why="No --requirements FILE was given, and launch.toml here names none.",
            next_step="launch dpo --requirements FILE, or `launch demo` for a sample project with one.",
        )
    file = settings.requirements.expanduser().absolute()
    requirement, warnings = read_requirement(file)
    return Request(settings, with_settings(requirement, settings, file.parent), file, tuple(warnings))


def make_plan(
    request: Request, home: Home, store: Store, environment: Environment | None, say: Callable[[str], None]
) -> Plan:
    """Every way to run the job. With the trainer's environment at hand, this machine's speed is measured once."""
    from launcher.rates import rates_of_this_machine

    settings = request.settings
    offers = machine.offers(home.root, settings.device)
    return plan(
        request.requirement,
        offers,
        rates_of_this_machine(home, store, environment, gpu=environment_device(request, home) == "cuda", say=say),
        budget_usd=settings.budget,
        cloud=settings.cloud,
        within_hours=settings.within,
        max_steps=settings.max_steps,
        partial=settings.partial,
    )


def environment_device(request: Request, home: Home) -> Literal["cuda", "cpu"]:
    """Which trainer environment the job needs: CUDA where an option fits a GPU of this machine."""
    offers = machine.offers(home.root, request.settings.device)
    on_gpu = any(
        option.device == "cuda" and not hardware_gaps(option, offer)
        for option in request.requirement.options
        for offer in offers
        if offer.gpus
    )
    return "cuda" if on_gpu else "cpu"
