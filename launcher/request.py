"""From what was typed to a plan: requirement read or estimated, flags applied, machines, prices and rates known."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from artifacts.errors import UsageProblem
from jobs import gpus
from jobs.home import Home
from jobs.offer import Offer, Plan, Rate
from jobs.price import BACKENDS, hardware_gaps
from launcher import machine
from launcher.methods import estimating
from launcher.planning import load_of, plan, steps_in_full, steps_in_part
from launcher.settings import Settings, batch_too_small, nearest
from launcher.workload import as_flags, outgrown, with_settings
from train.config import LEAST_BATCH, Method
from train.data_report import DataCheck
from train.requirement import Requirement

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """A workload with absolute paths and flags applied, and what a person must be told of it.

    `checked` is the data check of these very pairs, where an estimate has made one.
    """

    settings: Settings
    requirement: Requirement
    warnings: tuple[str, ...]
    checked: DataCheck | None = None

    def with_pairs(self, usable: int) -> Request:
        """The same workload over the pairs that the data check left."""
        workload = self.requirement.workload
        data = workload.data.model_copy(update={"train_examples": usable})
        changed = workload.model_copy(update={"data": data})
        return replace(self, requirement=self.requirement.model_copy(update={"workload": changed}))


def read_request(settings: Settings) -> Request:
    from launcher.requirement_file import read_requirement

    assert settings.requirements is not None
    file = settings.requirements.expanduser().absolute()
    method = settings.method
    requirement, warnings = read_requirement(file, method)
    meant = requirement.workload.method
    if meant != method:
        raise UsageProblem(
            f"The requirement file {file} is for {meant.upper()}, and this is {method.upper()}.",
            why="A step of another method needs other memory and takes another time.",
            next_step=f"{_estimate_for(method, requirement, file)}\n"
            f"      launch {method} --requirements {method}.json\n"
            f"      or launch {meant}, which the file is for",
        )
    warnings += outgrown(requirement, settings)
    requirement = with_settings(requirement, settings, file.parent)
    batch_size = requirement.workload.training.batch_size
    if batch_size < LEAST_BATCH[method]:
        raise batch_too_small(method, f"{file}: batch_size: {batch_size}")
    return Request(settings, requirement, tuple(warnings))


def of_this_method(settings: Settings, say: Say) -> Settings:
    """The settings; where their requirement file is for another method, with its model and data in its place."""
    from launcher.requirement_file import read_any

    file = settings.requirements and settings.requirements.expanduser().absolute()
    found = read_any(file, settings.method) if file else None
    if file is None or not isinstance(found, tuple) or found[0].workload.method == settings.method:
        return settings
    workload = with_settings(found[0], Settings(), file.parent).workload
    named = as_flags(workload)
    if named is None or workload.model.base.revision is not None:  # which a setting cannot say
        return settings
    say(
        f"{file.name} is for {workload.method.upper()}: what {settings.method.upper()} of its model and data needs is "
        "estimated."
    )
    schedule = workload.training
    beneath: dict[str, Any] = {**named, "epochs": schedule.epochs, "max_length": schedule.max_length}
    if schedule.lora_r is not None:
        beneath["lora_r"] = schedule.lora_r
    if schedule.lora_target is not None:
        beneath["lora_target"] = schedule.lora_target
    beneath["batch_size"] = max(schedule.batch_size, LEAST_BATCH[settings.method])
    over = settings.model_dump(exclude_none=True) | {"requirements": None}
    if settings.model is not None:  # named with its base and adapter, or with none
        beneath = {name: value for name, value in beneath.items() if name not in ("model", "base", "adapter")}
    return Settings.model_validate(beneath | over)


def _estimate_for(method: Method, requirement: Requirement, file: Path) -> str:
    """The command that makes a requirement file of the same model and data for another method."""
    from launcher.plan_view import command

    named = as_flags(with_settings(requirement, Settings(), file.parent).workload)
    if named is None:
        return f"{estimating(method)} -o {method}.json"
    here = {flag: path.removeprefix(f"{Path.cwd()}/") for flag, path in named.items()}
    return f"{command({'method': method, **here}, 'estimate')} -o {method}.json"


@dataclass(frozen=True)
class Market:
    """All that a plan of one request is made from: machines with their prices, and how fast they are."""

    request: Request
    offers: tuple[Offer, ...]
    rates: Sequence[Rate]
    backends: frozenset[str] = BACKENDS

    def plan(self, *, choice_alone: bool = False, needed: bool = True, **changes: Any) -> Plan:
        """The plan, or what it would be with other settings (`budget`, `partial`, `epochs`, `cloud`, `within`).

        `choice_alone` is for a question that the choice answers: of a whole catalogue, little is priced then, and less
        where the budget that the job would need is not (`needed`).
        """
        asked, requirement = self.request.settings, self.request.requirement
        settings = asked.model_copy(update=changes)
        wider = settings.cloud in (None, "any") and settings.budget is not None
        elsewhere = wider and (asked.budget is None or asked.cloud not in (None, "any"))
        if "epochs" in changes:
            workload = requirement.workload
            schedule = workload.training.model_copy(update={"epochs": changes["epochs"]})
            workload = workload.model_copy(update={"training": schedule})
            requirement = requirement.model_copy(update={"workload": workload})
        return plan(
            requirement,
            self._everywhere if elsewhere else self.offers,
            self.rates,
            budget_usd=settings.budget,
            cloud=settings.cloud,
            within_hours=settings.within,
            max_steps=settings.max_steps,
            partial=settings.partial,
            test_pairs=self._test_pairs,
            upload_bytes_per_s=settings.upload_mbit_s * 1e6 / 8,
            backends=self.backends,
            choice_alone=choice_alone,
            needed=needed,
        )

    def budget_for_part(self, *, at_least: int) -> float | None:
        """What a part worth training (a tenth of an epoch, or `at_least`) is expected to cost when rented (USD)."""
        steps = max(steps_in_part(self.request.requirement), at_least)
        if steps > steps_in_full(self.request.requirement):
            return None
        return self.plan(choice_alone=True, max_steps=steps).budget_needed_usd

    @cached_property
    def _test_pairs(self) -> int:
        """Lines, read as such: what is wrong with one, or that there is no such file, is said elsewhere."""
        test = self.request.settings.test
        if test is None or not test.is_file():
            return 0
        with test.open("rb") as lines:
            return sum(not line.isspace() for line in lines)

    @cached_property
    def _everywhere(self) -> tuple[Offer, ...]:
        """The offers of all clouds, where fewer were asked for. What is odd about them is said when one plans them."""
        settings = self.request.settings.model_copy(update={"cloud": "any"})
        return find_offers(settings, Home.from_environment(os.environ), lambda _: None, everywhere=True)


def find_offers(settings: Settings, home: Home, say: Say, *, everywhere: bool = False) -> tuple[Offer, ...]:
    """Every offer that the flags leave, with what is odd about the catalogues said. UsageProblem where none is left.

    Without a budget and a cloud nothing is bought, and no price is looked up; `everywhere` wants to know all the same.
    """
    from launcher.offers import gather

    clouds = ("lambda", "aws") if settings.cloud in (None, "any") else (settings.cloud,)
    if settings.cloud == "local" or (settings.budget is None and settings.cloud in (None, "any") and not everywhere):
        clouds = ()
    found = gather(home, device=settings.device, clouds=clouds, environ=os.environ, now=datetime.now(UTC))
    for note in found.notes:
        say(f"note: {note}")
    left = _narrowed(found.offers, settings)
    if settings.instance_type or settings.gpu:  # a catalogue may have what its cloud has no more
        for note in sorted({said for offer in left if (said := gpus.retired(offer.instance_type))}):
            say(f"note: {note}")
    return left


def _narrowed(offers: tuple[Offer, ...], settings: Settings) -> tuple[Offer, ...]:
    card = gpus.find(settings.gpu) if settings.gpu else None
    if settings.gpu and card is None and not any(offer.gpu == settings.gpu for offer in offers):
        close = gpus.nearest(settings.gpu)
        raise UsageProblem(
            f"--gpu: no GPU is called {settings.gpu}.{f' Did you mean {close}?' if close else ''}",
            next_step=f"launch plan {settings.method} --all shows every machine.",
        )
    left = offers
    if settings.gpu:
        left = tuple(o for o in left if o.gpu and (o.gpu == settings.gpu or (card and gpus.find(o.gpu) == card)))
    for name, value in (("instance_type", settings.instance_type), ("region", settings.region)):
        if value is None:
            continue
        known = sorted({str(getattr(offer, name)) for offer in left if getattr(offer, name)})
        left = tuple(offer for offer in left if getattr(offer, name) == value)
        if not left:
            retired = gpus.retired(value) if name == "instance_type" else None
            raise UsageProblem(
                f"--{name.replace('_', '-')}: there is no {value} among the machines of this plan."
                + ("" if retired else nearest(value, known)),
                why=_why_gone(retired, offers),
                next_step=f"launch plan {settings.method} --all shows every machine.",
            )
    if offers and not left:
        raise UsageProblem(
            f"--gpu: no machine of this plan has a {settings.gpu}.",
            why=_why_gone(gpus.retired_with(card) if card else None, offers),
            next_step=f"launch plan {settings.method} --all shows every one.",
        )
    return left


def _why_gone(retired: str | None, offers: tuple[Offer, ...]) -> str:
    from launcher.retired import in_its_place

    instead = in_its_place(offers) if retired else ""
    return f"{retired} In this catalogue: {instead}." if instead else retired or ""


def environment_device(request: Request, home: Home) -> Literal["cuda", "cpu"]:
    """Which trainer environment the job needs: CUDA where an option fits a GPU of this machine."""
    offers = machine.offers(home.root, request.settings.device)
    here = load_of(request.requirement).weights_here_bytes
    on_gpu = any(
        option.device == "cuda" and not hardware_gaps(option, offer, weights_here_bytes=here)
        for option in request.requirement.options
        for offer in offers
        if offer.gpus
    )
    return "cuda" if on_gpu else "cpu"
