"""Environments are really made, from empty lock files and without an index."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from artifacts.errors import UsageProblem
from jobs import environment
from jobs.home import Home
from jobs.trainer_copy import lock_file, package_folder, trainer_copy


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def test_a_half_made_environment_is_made_again_and_a_whole_one_kept(tmp_path):
    lock, folder = tmp_path / "cpu.txt", tmp_path / "environments" / "cpu-x"
    lock.write_text("# nothing\n")
    folder.mkdir(parents=True)
    (folder / "left").touch()
    said: list[str] = []
    environment.make(folder, lock, said.append, ["--no-index"])
    assert "removing a half-made trainer environment" in said
    assert not (folder / "left").exists()
    subprocess.run([folder / "bin" / "python", "-c", ""], check=True)
    said.clear()
    environment.make(folder, lock, said.append, ["--no-index"])
    assert said == []

    lock.write_text("no-such-package-of-ours==1.0\n")
    with pytest.raises(UsageProblem, match="pip install failed") as caught:
        environment.make(folder, lock, said.append, ["--no-index"])
    assert "no-such-package-of-ours" in str(caught.value)
    assert not (folder / "whole.json").exists()


def test_an_interpreter_that_lacks_packages_is_refused_by_name(home):
    with pytest.raises(UsageProblem, match="cannot run the trainer") as caught:
        environment.ensure(home, device="cpu", python=home.root / "none", say=print)
    assert "none" in str(caught.value)
    import importlib.metadata as metadata

    if not any(dist.name == "torch" for dist in metadata.distributions()):
        with pytest.raises(UsageProblem, match="cannot run") as caught:
            environment.ensure(home, device="cpu", python=environment.Path(sys.executable), say=print)
        assert "torch is missing (needs 2.6 or newer)" in str(caught.value)


def test_children_find_the_trainer_from_a_folder_with_a_train_py(home, tmp_path):
    copy = trainer_copy(home)
    assert trainer_copy(home) == copy
    assert [path.name for path in home.trainers.iterdir()] == [copy.name]
    project = tmp_path / "project"
    project.mkdir()
    (project / "train.py").write_text("raise SystemExit('the wrong one')")
    made = environment.Environment(environment.Path(sys.executable), copy, "x")
    environ = environment.child_environ(made, dict(os.environ) | {"PYTHONPATH": str(project)})
    found = subprocess.check_output(
        [made.python, "-c", "import train; print(train.__file__)"], cwd=project, env=environ
    )
    assert found.decode().strip() == str(copy / "train" / "__init__.py")


def test_the_locks_pin_every_package_and_no_build(home):
    for platform in ("cpu", "cuda"):
        lines = [line for line in lock_file(platform).read_text().splitlines() if not line.startswith("#")]
        assert all(line.count("==") == 1 and "+" not in line for line in lines)
        assert {"torch", "trl", "peft"} <= {line.split("==")[0] for line in lines}
    assert not environment.ready(home, device="cpu")
    assert package_folder().name == "train"
