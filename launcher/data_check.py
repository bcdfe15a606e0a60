"""The data check before any time is spent: the trainer counts what it could not use, by the model's own tokenizer."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from artifacts.errors import UsageProblem
from jobs.environment import Environment, child_environ
from jobs.home import Home
from launcher.request import Request
from launcher.run_config import run_config
from train.config import ModelRef


def check_test_data(request: Request) -> None:
    """Held-out data is there, and is neither the training nor the validation data. Its lines are read when used."""
    test, data = request.settings.test, request.requirement.workload.data
    if test is None:
        return
    if not test.is_file():
        raise UsageProblem(
            f"There is no file {test}.", next_step="name held-out data with --test FILE, or leave it out."
        )
    for path, use in ((data.train_path, "trained"), (data.val_path, "chosen")):
        if path is not None and Path(path).exists() and test.samefile(path):
            raise UsageProblem(
                f"{test} is the data on which the adapter is {use}.",
                why="It cannot judge what is fitted to it.",
                next_step="name held-out data with --test FILE.",
            )


def check_data(
    request: Request,
    stage_a: ModelRef,
    home: Home,
    environment: Environment,
    *,
    force: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The `datacheck/1` report. Data that cannot be used ends here; so does what teaches nothing, unless `force`."""
    say("Checking the preference pairs ...")
    with tempfile.TemporaryDirectory(dir=home.root, prefix=".check-") as folder:
        config = run_config(request, stage_a, job="check", output_dir=Path(folder), home=home)
        file = Path(folder) / "run.json"
        file.write_text(config.model_dump_json(by_alias=True), encoding="utf-8")
        done = subprocess.run(
            [str(environment.python), "-m", "train", "check", "--config", str(file)],
            env=child_environ(environment),
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode == 2:
        raise UsageProblem(done.stderr.strip())
    if done.returncode:
        raise UsageProblem("The data check failed.", why=done.stderr.strip()[-2000:])
    report: dict[str, Any] = json.loads(done.stdout)
    for line in _lines(report):
        say(line)
    refused = report["train"].get("refused")
    if refused and not force:
        raise UsageProblem(
            f"These pairs are refused: {refused}", next_step="mend the data, raise --max-length, or say --force."
        )
    return report


def _lines(report: dict[str, Any]) -> list[str]:
    train = report["train"]
    lines = [f"{train['usable']:,} of {train['pairs']:,} pairs can be used."]
    for part, name in ((report["train"], "training"), (report.get("val"), "validation")):
        if part:
            lines += [f"{name} data: {warning}" for warning in part["warnings"]]
    return lines
