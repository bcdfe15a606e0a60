"""The data check before any time is spent: the trainer counts what it could not use, by the model's own tokenizer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from artifacts.errors import UsageProblem
from jobs.environment import Environment
from jobs.home import Home
from launcher.request import Request
from launcher.run_config import run_config
from launcher.trainer_call import ask_trainer
from train.config import ModelRef, noun
from train.data_report import DataCheck


def check_test_data(request: Request) -> None:
    """Held-out data is there, can be read to its last line, and shares nothing with what is trained or chosen on.

    Raises:
        UsageProblem, InputError: it is not; the line is named.
    """
    from train.held_out import held_out

    test, data = request.settings.test, request.requirement.workload.data
    terms = request.settings.terms
    if terms is not None and not terms.is_file():
        raise UsageProblem(
            f"There is no file {terms}.", next_step="correct `terms` in launch.toml: a text file of one term a line."
        )
    if test is None:
        return
    if not test.is_file():
        raise UsageProblem(
            f"There is no file {test}.", next_step="name held-out data with --test FILE, or leave it out."
        )
    held_out(
        test,
        train=Path(data.train_path),
        val=Path(data.val_path) if data.val_path else None,
        method=request.settings.method,
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
    """`data_check` as the `datacheck/1` document."""
    found = data_check(request, stage_a, home, environment, force=force, say=say)
    return found.model_dump(mode="json", by_alias=True)


def data_check(
    request: Request,
    stage_a: ModelRef,
    home: Home,
    environment: Environment,
    *,
    force: bool,
    say: Callable[[str], None],
) -> DataCheck:
    """What the pairs are worth. Data that cannot be used ends here; so does what teaches nothing, unless `force`.

    Where there is an estimate, it looked at the pairs already. `train.usable` and `val.usable` are the pairs that
    training and validation will have.
    """
    found = request.checked or _asked(request, stage_a, home, environment, say)
    for line in _lines(found):
        say(line)
    if found.train.refused and not force:
        raise UsageProblem(
            f"These {found.train.noun} are refused: {found.train.refused}",
            next_step="mend the data, raise --max-length, or say --force.",
        )
    return found


def _asked(
    request: Request, stage_a: ModelRef, home: Home, environment: Environment, say: Callable[[str], None]
) -> DataCheck:
    say(f"Checking the {noun(request.settings.method)} ...")
    with tempfile.TemporaryDirectory(dir=home.root, prefix=".check-") as name:
        config = run_config(request, stage_a, job="check", output_dir=Path(name), home=home)
        answer = ask_trainer(environment, Path(name), "check", config, "--progress")
    if answer.returncode == 2:
        raise UsageProblem(answer.said)
    if answer.returncode:
        raise UsageProblem(
            "The data check failed.",
            why=answer.said[-2000:],
            next_step="launch doctor looks at the trainer's environment.",
        )
    return DataCheck.model_validate_json(answer.document)


def _lines(found: DataCheck) -> list[str]:
    lines = [f"{found.train.usable:,} of {found.train.pairs:,} {found.train.noun} can be used."]
    for part, name in ((found.train, "training"), (found.val, "validation")):
        if part:
            lines += [f"{name} data: {warning}" for warning in part.warnings]
    return lines
