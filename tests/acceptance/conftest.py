"""Acceptance: the program as a person runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.processes import end_all
from tests.acceptance.program import Program, copy_small


def pytest_configure(config: pytest.Config) -> None:
    if "LAUNCH_TEST_TRAIN_PYTHON" not in os.environ:
        made = Path(__file__).parents[2] / ".venv-train" / "bin" / "python"
        os.environ["LAUNCH_TEST_TRAIN_PYTHON"] = str(made)


@pytest.fixture(scope="session")
def demo_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "project"
    home = tmp_path_factory.mktemp("home")
    Program(home, folder.parent).good("demo", str(folder))
    return folder


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    home, folder = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    folder.mkdir()
    yield Program(home, folder)
    end_all(tmp_path)


@pytest.fixture(scope="session")
def warm_state(tmp_path_factory: pytest.TempPathFactory, demo_project: Path) -> Path:
    """A state folder without jobs that knows this machine's rate, which takes as long to measure as a job takes."""
    root = tmp_path_factory.mktemp("warm")
    (root / "home").mkdir()
    copy_small(demo_project, root / "project")
    program = Program(root / "home", root / "project")
    program.good("plan", "dpo", "--yes")
    return root / "home" / "state"


@pytest.fixture
def small(program: Program, demo_project: Path, warm_state: Path) -> Program:
    """The sample project with few pairs: a whole job in seconds."""
    copy_small(demo_project, program.folder / "project")
    shutil.copytree(warm_state, program.home / "state")
    return program.in_folder(program.folder / "project")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB. Needs root (a mount); skipped, saying so, without."""
    yield from _file_system(tmp_path / "disk", "3m")


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system on which nothing can be written. Needs root (a mount); skipped, saying so, without."""
    yield from _file_system(tmp_path / "read only", "1m,ro")


@pytest.fixture
def filling_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 MiB for a state folder. Needs root (a mount); skipped, saying so, without."""
    yield from _file_system(tmp_path / "filling", "160m")


def _file_system(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a file system of the test's own needs root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
