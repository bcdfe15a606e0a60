"""Evaluates a job's adapter: from the job's own `eval.json`, from an earlier call, or by the trainer now."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from artifacts.errors import LaunchError, UsageProblem
from jobs import environment as trainer
from jobs.driver_lock import alive
from jobs.evaluation import eval_config
from jobs.home import Home
from jobs.inputs import is_as_it_was
from jobs.job import Job, State
from jobs.pull import pull
from jobs.store import Store
from jobs.work import write_document


def evaluate(
    home: Home, store: Store, job: Job, test: Path | None, *, terms: Path | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """The `eval/1` document of the job's `adapter/` on `test`. The same adapter and data are never evaluated twice.

    Where it is the job's own test data, and the job ended without an evaluation, it comes home as the job's.
    """
    if test is None:
        raise UsageProblem(
            f"{job.id} has no held-out data.",
            why="The validation data chose the adapter, so that it cannot judge it.",
            next_step=f"launch eval {job.id} --test FILE",
        )
    adapter = job.spec.results / "adapter" / "adapter_model.safetensors"
    if not adapter.is_file():
        waiting = job.state is not State.DONE
        raise UsageProblem(
            f"{job.id} has no adapter at home yet." if waiting else f"{job.id} brought no adapter home.",
            next_step=f"launch status {job.id} --watch" if waiting else f"launch resume {job.id}",
        )
    if not test.is_file():
        raise UsageProblem(f"There is no file {test}.", next_step=f"launch eval {job.id} --test FILE")
    if terms is not None and not terms.is_file():
        raise UsageProblem(f"There is no file {terms}.", next_step="name a list of terms, one a line: --terms FILE")
    own = test == job.spec.test and terms in (None, job.spec.terms) and is_as_it_was(test, home.work(job.id))
    known = job.spec.results / "eval.json"
    if own and known.is_file():
        return json.loads(known.read_text(encoding="utf-8"))
    output = _evaluated(home, job, adapter, test, terms, say)
    if own and job.state is State.DONE and not alive(home, job.id):
        write_document(home.work(job.id) / "eval.json", output.read_text(encoding="utf-8"))
        pull(home, store, job)
        say(f"{job.id} has it now: {known}")
    return json.loads(output.read_text(encoding="utf-8"))


def _evaluated(home: Home, job: Job, adapter: Path, test: Path, terms: Path | None, say: Callable[[str], None]) -> Path:
    folder = home.root / "evaluations"
    folder.mkdir(parents=True, exist_ok=True)
    listed = f"-{_digest(terms)}" if terms else ""
    output = folder / f"{job.id}-{_digest(adapter)}-{_digest(test)}{listed}.json"
    if not output.is_file():
        config = eval_config(job.spec, adapter=adapter.parent, test=test, output=output, terms=terms)
        file = output.with_suffix(".config")
        file.write_text(config.model_dump_json(by_alias=True), encoding="utf-8")
        say(f"Sampling summaries of {test.name} from Stage A and from {job.id} ...")
        environment = trainer.ensure(
            home, device=config.execution.device, python=job.spec.train_python, pip_args=job.spec.pip_args, say=say
        )
        with _life_line() as standard_input:
            done = subprocess.run(
                [str(environment.python), "-m", "train", "evaluate", "--config", str(file), "--stop-on-eof"],
                env=trainer.child_environ(environment),
                cwd=folder,
                stdin=standard_input,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            problem = UsageProblem if done.returncode == 2 else LaunchError
            raise problem(f"{job.id} could not be evaluated on {test}.", why=done.stderr.strip()[-2000:])
    return output


@contextmanager
def _life_line() -> Generator[int]:
    """Standard input for a child that ends with this process: nobody else holds the other end of the pipe."""
    read, write = os.pipe()
    try:
        yield read
    finally:
        os.close(read)
        os.close(write)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]
