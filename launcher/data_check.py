"""The data check before any time is spent: the trainer counts what it could not use, by the model's own tokenizer."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from artifacts.errors import UsageProblem
from jobs.environment import Environment, child_environ
from jobs.home import Home
from launcher.request import Request
from launcher.run_config import run_config
from train.config import ModelRef
from train.data_report import DataCheck


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

    `train.usable` and `val.usable` are the pairs that training and validation will have.
    """
    say("Checking the preference pairs ...")
    with tempfile.TemporaryDirectory(dir=home.root, prefix=".check-") as name:
        folder = Path(name)
        config = run_config(request, stage_a, job="check", output_dir=folder, home=home)
        (folder / "run.json").write_text(config.model_dump_json(by_alias=True), encoding="utf-8")
        returncode, said = _run(environment, folder)
        document = (folder / "stdout").read_bytes()
    if returncode == 2:
        raise UsageProblem(said)
    if returncode:
        raise UsageProblem("The data check failed.", why=said[-2000:])
    found = DataCheck.model_validate_json(document)
    for line in _lines(found):
        say(line)
    if found.train.refused and not force:
        raise UsageProblem(
            f"These pairs are refused: {found.train.refused}",
            next_step="mend the data, raise --max-length, or say --force.",
        )
    return found


def _run(environment: Environment, folder: Path) -> tuple[int, str]:
    """The exit code of the trainer's check, and what it said. Its document is in `folder/stdout`."""
    argv = [str(environment.python), "-m", "train", "check", "--config", str(folder / "run.json"), "--progress"]
    said: list[str] = []
    with (
        (folder / "stdout").open("wb") as out,
        subprocess.Popen(
            argv, env=child_environ(environment), cwd=folder, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.PIPE, text=True, errors="replace",
        ) as child,
        _bar() as show,
    ):  # fmt: skip
        assert child.stderr is not None
        try:
            for line in child.stderr:
                progress = _progress(line)
                if progress is None:
                    said.append(line)
                else:
                    show(*progress)
        except BaseException:
            child.terminate()  # who listens gave up, and nobody else reads the answer
            raise
    return child.returncode, "".join(said).strip()


def _progress(line: str) -> tuple[int, int] | None:
    """Done and total pairs of a line of progress; None of any other line."""
    if not line.startswith('{"progress":'):
        return None
    found = json.loads(line)["progress"]
    return found["done"], found["total"]


@contextlib.contextmanager
def _bar() -> Generator[Callable[[int, int], None]]:
    """A bar on standard error while it is a terminal; nothing where it is not. It leaves no trace behind."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("pairs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("pairs", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=max(done, total))


def _lines(found: DataCheck) -> list[str]:
    lines = [f"{found.train.usable:,} of {found.train.pairs:,} pairs can be used."]
    for part, name in ((found.train, "training"), (found.val, "validation")):
        if part:
            lines += [f"{name} data: {warning}" for warning in part.warnings]
    return lines
