"""`launch` as a child process with a state folder of its own, and a small project for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

PAIRS, VALIDATION, TEST = 96, 16, 24


@dataclass(frozen=True)
class Program:
    """`launch` with a state folder and a working folder of its own."""

    home: Path
    folder: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    through: tuple[str, ...] = ()
    """A command that runs the program, `setpriv` for one."""

    def variables(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LAUNCH_HOME": str(self.home / "state"),
            "LAUNCH_TRAIN_PYTHON": os.environ["LAUNCH_TEST_TRAIN_PYTHON"],
            "OMP_NUM_THREADS": "1",  # more would wait for each other on a machine that has other work
            **self.environ,
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.through, sys.executable, "-m", "launcher", *words],
            cwd=self.folder,
            env=self.variables() | {"PYTHONSAFEPATH": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        child = self.start(*words)
        try:
            out, err = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            raise
        return subprocess.CompletedProcess(child.args, child.returncode, out, err)

    def good(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A call that must succeed."""
        done = self.run(*words)
        assert done.returncode == 0, f"launch {' '.join(words)} -> {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def document(self, *words: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.good(*words, "--json").stdout)
        return document

    def job(self, ref: str) -> dict[str, Any]:
        (row,) = self.document("status", ref)["jobs"]
        return row

    def state(self, job_id: str) -> Path:
        return self.home / "state" / "jobs" / job_id

    def in_folder(self, folder: Path) -> Program:
        return replace(self, folder=folder)


def copy_small(demo: Path, folder: Path) -> None:
    shutil.copytree(demo, folder)
    for name, count in (("train", PAIRS), ("val", VALIDATION), ("test", TEST)):
        file = folder / "data" / f"{name}.jsonl"
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:count]))
    edit_requirement(folder, ("workload", "data", "train_examples"), PAIRS)
    edit_requirement(folder, ("workload", "data", "val_examples"), VALIDATION)
    edit_requirement(folder, ("workload", "training", "steps"), None)


def without_test_data(project: Path) -> None:
    """No evaluation: for tests that are about the training."""
    file = project / "launch.toml"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith("test")))


def edit_requirement(folder: Path, path: Sequence[str | int], value: object) -> None:
    file = folder / "requirement.json"
    document = json.loads(file.read_text())
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(json.dumps(document))
