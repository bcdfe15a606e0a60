"""A task in a container is the same task: its arguments, its log, and of this machine nothing but what it needs."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import pytest

from artifacts.errors import LaunchError, UsageProblem
from jobs.backends import Task
from jobs.container import Mount, TrainerImage, mounts_of, require_image, wrap
from jobs.engine import find_engine
from jobs.environment import lock_name
from jobs.home import Home
from jobs.image import build, build_argv, default_tag, push
from train.config import Data, EvalConfig, ModelRef, RunConfig

ENVIRON = {
    "PYTHONPATH": "/t",
    "PYTHONSAFEPATH": "1",
    "HF_TOKEN": "hf_secret",
    "AWS_SECRET_ACCESS_KEY": "no",
    "HOME": "/me",
}
TASK = Task(
    ("/env/bin/python", "-m", "train", "dpo", "--config", "/w/run.json", "--stop-on-eof"), ENVIRON, Path("/w/log")
)


@pytest.fixture
def engines(tmp_path, monkeypatch):
    """A PATH of one's own; `engines(name, script)` puts a program there."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(name: str, script: str) -> Path:
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return program

    return put


def test_the_same_arguments_run_behind_the_interpreter_of_the_image() -> None:
    wrapped = wrap(TASK, [Mount(Path("/w"), writable=True)], "img:1", "docker", name="launch-dpo-1")
    at = wrapped.argv.index("img:1")
    assert wrapped.argv[at + 1 :] == TASK.argv[1:]
    assert wrapped.argv[:3] == ("docker", "run", "--rm")
    assert "--entrypoint /opt/launch/bin/python" in " ".join(wrapped.argv)
    assert "--interactive" in wrapped.argv  # its input is its life line
    assert (wrapped.environ, wrapped.log) == (TASK.environ, TASK.log)
    assert wrapped.kill_argv == ("docker", "rm", "--force", "launch-dpo-1")


def test_variables_of_the_trainer_go_by_name_and_no_other() -> None:
    argv = wrap(TASK, [], "img:1", "docker", name="n").argv
    named = [argv[at + 1] for at, word in enumerate(argv) if word == "--env"]
    assert named == ["HOME=/tmp", "USER=launch", "HF_TOKEN", "PYTHONPATH", "PYTHONSAFEPATH"]
    assert "hf_secret" not in " ".join(argv)


def test_a_mount_is_one_csv_record_whatever_its_name() -> None:
    odd = Path('/data/a "b", c: d')
    argv = wrap(TASK, [Mount(odd), Mount(Path("/w"), writable=True)], "img:1", "podman", name="n").argv
    (first, second) = [next(csv.reader([argv[at + 1]])) for at, word in enumerate(argv) if word == "--mount"]
    assert first == ["type=bind", f"source={odd}", f"target={odd}", "readonly"]
    assert second == ["type=bind", "source=/w", "target=/w"]


@pytest.mark.parametrize(("engine", "wanted"), [("docker", "--gpus all"), ("podman", "--device nvidia.com/gpu=all")])
def test_gpus_are_asked_for_as_the_engine_knows_them(engine: str, wanted: str) -> None:
    assert wanted in " ".join(wrap(TASK, [], "img:1", engine, name="n", gpu=True).argv)
    assert "gpu" not in " ".join(wrap(TASK, [], "img:1", engine, name="n").argv)


def test_a_run_reads_its_inputs_and_writes_its_own_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    (tmp_path / "hub").mkdir()
    base, pairs, trainer = tmp_path / "base", tmp_path / "train.jsonl", tmp_path / "trainer"
    base.mkdir()
    pairs.touch()
    trainer.mkdir()
    run = RunConfig(
        job="dpo-1", model=ModelRef(base=str(base)), data=Data(train=pairs), output_dir=tmp_path / "work",
        reference_cache=tmp_path / "references",
    )  # fmt: skip
    mounts = {mount.path.name: mount.writable for mount in mounts_of(run, trainer=trainer)}
    assert mounts == {"base": False, "train.jsonl": False, "trainer": False, "work": True, "references": True}

    of_hub = run.model_copy(update={"model": ModelRef(base="org/model")})
    assert Mount(tmp_path / "hub", writable=True) in mounts_of(of_hub, trainer=trainer)

    evaluation = EvalConfig(
        job="dpo-1", model=ModelRef(base=str(base)), trained_adapter=base, test=pairs,
        output=tmp_path / "out" / "eval.json", reference_cache=tmp_path / "references",
    )  # fmt: skip
    assert Mount(tmp_path / "out", writable=True) in mounts_of(evaluation, trainer=trainer)


def test_the_first_engine_that_answers_is_taken(engines) -> None:
    engines("docker", "echo no daemon >&2; exit 1")
    engines("podman", "exit 0")
    assert find_engine() == "podman"
    engines("docker", "exit 0")
    assert find_engine() == "docker"
    assert find_engine("podman") == "podman"


def test_without_an_engine_it_is_said_what_to_install(engines) -> None:
    with pytest.raises(UsageProblem, match="There is no container engine") as caught:
        find_engine()
    assert "apt install podman" in str(caught.value)
    engines("docker", "echo no daemon >&2; exit 1")
    with pytest.raises(UsageProblem, match="No container engine answers") as caught:
        find_engine()
    assert "docker: no daemon" in str(caught.value)


def test_an_image_that_is_not_there_is_named_with_the_command_that_makes_it(engines) -> None:
    engines("podman", "exit 1")
    with pytest.raises(UsageProblem, match="launch image build --platform-lock volta"):
        require_image("podman", "volta")
    with pytest.raises(UsageProblem, match="podman pull mine:1"):
        require_image("podman", "cpu", "mine:1")
    engines("podman", "exit 0")
    assert require_image("podman", "cpu") == default_tag("cpu")


def test_results_name_the_lock_of_an_image_only_where_it_is_known(tmp_path) -> None:
    home = Home(tmp_path)
    assert TrainerImage("podman", default_tag("cpu"), "cpu").environment(home).lock == lock_name("cpu")
    assert TrainerImage("podman", "mine:1", "cpu").environment(home).lock == "image:mine:1"


def test_a_build_names_lock_base_and_tag_and_takes_the_engines_own_arguments() -> None:
    argv = build_argv("podman", "volta", args=("--no-cache", "--isolation=chroot"))
    text = " ".join(argv)
    assert re.fullmatch(r"localhost/dpo-launch-trainer:volta-[0-9a-f]{12}", default_tag("volta"))
    assert argv[:2] == ["podman", "build"]
    assert "LOCK=volta.txt" in argv
    assert "BASE=docker.io/nvidia/cuda@sha256:c87e" in text
    assert argv[-3:-1] == ["--no-cache", "--isolation=chroot"]
    assert (Path(argv[-1]) / "volta.txt").is_file()
    assert "--tag mine:1" in " ".join(build_argv("docker", "cpu", tag="mine:1", base="debian"))


def test_a_build_or_push_that_fails_is_said_with_the_next_step(engines, capfd) -> None:
    engines("docker", "echo words; exit 7")
    with pytest.raises(LaunchError, match="docker build ended with 7"):
        build("docker", "cpu")
    with pytest.raises(LaunchError, match="docker login"):
        push("docker", "registry.example/trainer:1")
    out, err = capfd.readouterr()
    assert out == ""  # standard output is for documents
    assert err.count("words") == 2


@pytest.mark.skipif(os.getuid() == 0, reason="root's containers keep their ids")
def test_podman_without_root_keeps_the_users_id() -> None:
    assert "--userns keep-id" in " ".join(wrap(TASK, [], "img:1", "podman", name="n").argv)
