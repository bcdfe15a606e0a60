"""Records a job: its results folder with requirement and plan, then its row in the store."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from artifacts.errors import UsageProblem
from jobs.home import Home
from jobs.job import Job, JobSpec
from jobs.offer import Plan
from jobs.store import Store
from launcher.documents import plan_document
from launcher.machine import free_disk_gib
from launcher.request import Request
from launcher.run_config import run_config
from train.config import ModelRef

SPARE_GIB = 0.1
"""Least free space to start with: a small adapter, its checkpoints and the logs."""


def check_out_folder(out: Path | None) -> Path:
    """The folder that results go to, made and tried, so that a job never ends in a place that cannot be written."""
    folder = (out or Path("runs")).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".launch-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageProblem(
            f"Results cannot be written to {folder}.",
            why=f"{error.strerror}.",
            next_step="name another folder with --out DIR.",
        ) from None
    if free_disk_gib(folder) < SPARE_GIB:
        raise UsageProblem(
            f"The disk of {folder} is full.",
            why="Less than 100 MiB are free.",
            next_step="free some, or use --out DIR.",
        )
    return folder


def record(request: Request, plan: Plan, stage_a: ModelRef, home: Home, store: Store, out: Path) -> Job:
    """A job in state `queued`. Nothing is left behind where it cannot be recorded."""
    job_id = store.next_job_id()
    while (out / job_id).exists():  # of another state folder, or of a job that was forgotten
        job_id = store.next_job_id()
    results = out / job_id
    settings = request.settings
    run = run_config(
        request,
        stage_a,
        job=job_id,
        output_dir=home.job(job_id) / "work",
        home=home,
        choice=plan.choice,
        max_steps=plan.steps if plan.partial or settings.max_steps else None,
    )
    spec = JobSpec(
        id=job_id,
        name=settings.name or job_id,
        project=Path.cwd(),
        results=results,
        requirement=request.requirement,
        plan=plan,
        run=run,
        test=settings.test.expanduser().absolute() if settings.test else None,
        partial=plan.partial,
        steps=plan.steps,
        budget_usd=settings.budget,
        train_python=settings.train_python,
    )
    try:
        results.mkdir()
        _write(results / "requirement.json", request.requirement.model_dump(mode="json", by_alias=True))
        _write(results / "plan.json", plan_document(plan))
        return store.create(spec, now=datetime.now(UTC))
    except OSError as error:
        shutil.rmtree(results, ignore_errors=True)
        raise UsageProblem(
            f"The job could not be recorded in {results}.",
            why=f"{error.strerror}.",
            next_step="free some space, or --out DIR.",
        ) from None


def _write(file: Path, document: dict[str, Any]) -> None:
    file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
