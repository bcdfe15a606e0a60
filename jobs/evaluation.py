"""What the trainer is told to evaluate: a job's adapter against its Stage A."""

from __future__ import annotations

from pathlib import Path

from jobs.home import Home
from jobs.job import Job, JobSpec, Outcome
from jobs.work import last_lines
from train.config import EvalConfig


def eval_config(spec: JobSpec, *, adapter: Path, test: Path, output: Path, terms: Path | None = None) -> EvalConfig:
    """`evalrun/1` for the adapter in the folder `adapter`, on `test`, with the device and lengths of the job itself.

    `terms` is the list of terms of the proxy, the job's own where it is None.
    """
    return EvalConfig(
        job=spec.id,
        method=spec.run.method,
        model=spec.run.model,
        trained_adapter=adapter,
        test=test,
        train=spec.run.data.train,
        val=spec.run.data.val,
        output=output,
        reference_cache=spec.run.reference_cache,
        training=spec.run.training,
        execution=spec.run.execution,
        terms=terms or spec.terms,
    )


def missing_evaluation(job: Job, home: Home) -> str | None:
    """Why a job that trained has held-out data and no evaluation, and what makes one; None where all is well."""
    earned = job.outcome in (Outcome.SUCCEEDED, Outcome.BUDGET_STOPPED)
    if not earned or job.spec.test is None or (job.spec.results / "eval.json").exists():
        return None
    said = last_lines(home.logs(job.id) / "evaluate.log", count=1)
    return f"The evaluation was not made{f' ({said})' if said else ''}. Next: launch eval {job.id}"
