"""One question to the trainer: a child process in its own environment, with a bar on the terminal meanwhile."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from jobs.environment import Environment, child_environ


class Answer(NamedTuple):
    """The exit code, what was said on standard error (progress left out), and standard output."""

    returncode: int
    said: str
    document: bytes


def ask_trainer(environment: Environment, folder: Path, command: str, config: BaseModel, *flags: str) -> Answer:
    """`python -m train COMMAND` with `config`; `folder` is the caller's, for files that are of no use afterwards."""
    file, stdout = folder / f"{command}.json", folder / "stdout"
    file.write_text(config.model_dump_json(by_alias=True), encoding="utf-8")
    argv = [str(environment.python), "-m", "train", command, "--config", str(file), *flags]
    said: list[str] = []
    with (
        stdout.open("wb") as out,
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
    return Answer(child.returncode, "".join(said).strip(), stdout.read_bytes())


def _progress(line: str) -> tuple[str, int, int] | None:
    """What is counted, how many are done, and of how many; None of any line but one of progress."""
    if not line.startswith('{"progress":'):
        return None
    found = json.loads(line)["progress"]
    return found["of"], found["done"], found["total"]


@contextlib.contextmanager
def _bar() -> Generator[Callable[[str, int, int], None]]:
    """A bar on standard error while it is a terminal; nothing where it is not. It leaves no trace behind."""
    if not sys.stderr.isatty():
        yield lambda _of, _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda of, done, total: bar.update(task, description=of, completed=done, total=max(done, total))
