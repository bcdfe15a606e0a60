"""What the trainer is told to evaluate: a job's adapter against its Stage A."""

from __future__ import annotations

from pathlib import Path

from jobs.job import JobSpec
from train.config import EvalConfig


def eval_config(spec: JobSpec, *, adapter: Path, test: Path, output: Path) -> EvalConfig:
    """`evalrun/1` for the adapter in the folder `adapter`, on `test`, with the device and lengths of the job itself."""
    return EvalConfig(
        job=spec.id,
        model=spec.run.model,
        trained_adapter=adapter,
        test=test,
        train=spec.run.data.train,
        val=spec.run.data.val,
        output=output,
        reference_cache=spec.run.reference_cache,
        training=spec.run.training,
        execution=spec.run.execution,
    )
