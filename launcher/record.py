"""Records a job: its results folder with requirement and plan, then its row in the store."""

from __future__ import annotations

import json
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from artifacts.errors import UsageProblem
from jobs.home import Home
from jobs.job import Job, JobSpec
from jobs.offer import Plan
from jobs.plan_document import plan_document
from jobs.store import Store
from launcher.machine import free_disk_gib
from launcher.request import Request
from launcher.run_config import run_config
from train.config import ModelRef

OFFERS_KEPT = 50
"""Offers that a job's own plan keeps, best first: those that it may be started on, and what stood next to them."""

SPARE_GIB = 0.1
"""Least free space to start with: a small adapter, its checkpoints and the logs."""


def check_folders(out: Path | None, home: Home) -> Path:
    """The folder that results go to. It and the state folder can be written and have room, or UsageProblem.

    Nothing is made yet: a file is written in the nearest folder that is there already, and removed again.
    """
    folder = (out or Path("runs")).expanduser().absolute()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UsageProblem(
            f"Results cannot be written to {folder}.",
            why=f"{nearest}: {error.strerror}.",
            next_step="name another folder with --out DIR.",
        ) from None
    for place, remedy in ((folder, "use --out DIR"), (home.root, "set LAUNCH_HOME to another folder")):
        if free_disk_gib(place) < SPARE_GIB:
            raise UsageProblem(
                f"The disk of {place} is full.", why="Less than 100 MiB are free.", next_step=f"free some, or {remedy}."
            )
    return folder


def record(request: Request, plan: Plan, stage_a: ModelRef, home: Home, store: Store, out: Path) -> Job:
    """A job in state `queued`. Nothing is left behind where it cannot be recorded."""
    choice = plan.choice
    assert choice is not None, "a plan that fits nothing is no job"
    settings = request.settings
    job_id = store.next_job_id(settings.method)
    while (out / job_id).exists():  # of another state folder, or of a job that was forgotten
        job_id = store.next_job_id(settings.method)
    results = out / job_id
    run = run_config(
        request,
        stage_a,
        job=job_id,
        output_dir=home.job(job_id) / "work",
        home=home,
        choice=choice,
        max_steps=plan.steps if plan.partial or settings.max_steps else None,
    )
    spec = JobSpec(
        id=job_id,
        name=settings.name or job_id,
        project=Path.cwd(),
        results=results,
        requirement=request.requirement,
        plan=plan.shortened(OFFERS_KEPT),
        run=run,
        test=settings.test.expanduser().absolute() if settings.test else None,
        terms=settings.terms.expanduser().absolute() if settings.terms else None,
        partial=plan.partial,
        steps=choice.steps,
        budget_usd=settings.budget,
        train_python=settings.train_python,
        pip_args=settings.pip_args,
        hold_minutes=settings.hold,
        container=settings.container,
        image=settings.image,
    )
    try:
        results.mkdir(parents=True)
    except OSError as error:
        raise UsageProblem(f"{results} cannot be made.", why=f"{error.strerror}.", next_step="use --out DIR.") from None
    try:
        _write(results / "requirement.json", request.requirement.model_dump(mode="json", by_alias=True))
        _write(results / "plan.json", plan_document(plan.shortened(OFFERS_KEPT)))
        return store.create(spec, now=datetime.now(UTC))
    except BaseException as error:
        shutil.rmtree(results, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise UsageProblem(
            f"The job could not be recorded in {results}.",
            why=f"{error.strerror}.",
            next_step="free some space, or --out DIR.",
        ) from None


def _write(file: Path, document: dict[str, Any]) -> None:
    file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
