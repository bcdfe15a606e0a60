"""`launch image build` and `launch dpo --container` with real Podman: the trainer that runs there is the same one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jobs.environment import lock_name
from jobs.image import default_tag
from tests.acceptance.lambda_cloud import podman as podman_store
from tests.acceptance.lambda_cloud.podman import Podman
from tests.acceptance.processes import processes, steps_done
from tests.acceptance.program import Program, copy_small, without_test_data
from tests.acceptance.waiting import until

STEPS = 48
RUN = ("dpo", "--yes", "--epochs", "4", "--max-steps", str(STEPS), "--eval-every", "16")
ENDLESS = ("dpo", "--yes", "--epochs", "400", "--max-steps", "4000", "--eval-every", "1000", "--container")


@pytest.fixture
def boxed(small: Program, podman: Podman) -> Iterator[Program]:
    """The small project, its evaluation left out, on a machine with Podman. No container outlives its test."""
    without_test_data(small.folder)
    yield Program(small.home, small.folder, podman.environ)
    for name in podman.containers(container_of(small)):
        podman.run("rm", "--force", "--time", "0", name)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory, demo_project: Path, warm_state: Path) -> str:
    """The adapter of the same run without a container."""
    root = tmp_path_factory.mktemp("outside")
    shutil.copytree(warm_state, root / "home" / "state")
    copy_small(demo_project, root / "project")
    without_test_data(root / "project")
    program = Program(root / "home", root / "project")
    program.good(*RUN)
    return adapter_of(program)


def adapter_of(program: Program) -> str:
    file = Path(program.job("dpo-1")["results"]) / "adapter_last/adapter_model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()


def container_of(program: Program, job_id: str = "dpo-1") -> str:
    """Its name, which tells two state folders of a machine apart."""
    return f"launch-{job_id}-{hashlib.sha256(str(program.home / 'state').encode()).hexdigest()[:8]}"


def client_of(program: Program) -> psutil.Process | None:
    """The engine's command that a driver started."""
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if words[:2] == ["podman", "run"] and container_of(program) in words:
            return process
    return None


def begun(program: Program, podman: Podman) -> None:
    """A run without an end, some steps in."""
    program.good(*ENDLESS, "--detach")
    until(lambda: steps_done(program) >= 2, "the first steps")
    assert podman.containers(container_of(program)) == [container_of(program)]


def test_an_image_that_is_built_is_not_built_again(podman: Podman, program: Program) -> None:
    ids = podman.run("images", "--quiet", "--no-trunc", default_tag("cpu"))
    done = Program(program.home, program.folder, podman.environ).good(*podman.build_arguments())
    assert podman.run("images", "--quiet", "--no-trunc", default_tag("cpu")) == ids
    assert done.stdout == ""
    assert f"{default_tag('cpu')} has the pins of cpu.txt" in done.stderr


def test_the_adapter_is_the_one_made_outside(small: Program, podman: Podman, outside: str) -> None:
    inside = Program(small.home, small.folder, podman.environ)
    done = inside.good(*RUN, "--container")
    assert "dpo-1 succeeded" in done.stderr
    row = inside.job("dpo-1")
    results = Path(row["results"])
    assert (row["outcome"], row["cloud"], row["step"], row["cost_usd"]) == ("succeeded", "local", STEPS, 0)
    assert adapter_of(inside) == outside
    assert json.loads((results / "run.json").read_text())["lock"] == lock_name("cpu")
    assert inside.document("eval", "dpo-1")["measures"][0]["stage_b"]["n"] > 0
    assert {path.stat().st_uid for path in results.rglob("*")} == {os.getuid()}
    assert podman.containers(container_of(inside)) == []


def test_a_cancelled_run_leaves_no_container_and_brings_its_checkpoint_home(boxed: Program, podman: Podman) -> None:
    begun(boxed, podman)
    done = boxed.run("cancel", "dpo-1")
    assert done.returncode in (0, 6), done.stderr
    row = boxed.job("dpo-1")
    assert (row["state"], row["outcome"]) == ("done", "cancelled")
    assert json.loads((Path(row["results"]) / "end.json").read_text())["reason"] == "signal"
    assert (Path(row["results"]) / "checkpoint").is_dir()
    assert podman.containers(container_of(boxed)) == []


def test_a_driver_killed_takes_its_container_with_it_and_resume_ends_in_the_same_adapter(
    boxed: Program, podman: Podman, outside: str
) -> None:
    boxed.good(*RUN, "--container", "--detach")
    until(lambda: steps_done(boxed) >= 3, "the first steps")
    for process in processes(boxed, "jobs.driver"):
        process.kill()
    until(lambda: podman.containers(container_of(boxed)) == [], "the container's end")
    assert [each["code"] for each in boxed.job("dpo-1")["attention"]] == ["driver_lost"]
    boxed.good("resume", "dpo-1")
    row = boxed.job("dpo-1")
    assert (row["outcome"], row["attempt"], row["step"]) == ("succeeded", 2, STEPS)
    assert adapter_of(boxed) == outside
    assert podman.containers(container_of(boxed)) == []


@pytest.mark.full
def test_with_driver_and_engine_command_killed_resume_still_finds_the_place_free(
    boxed: Program, podman: Podman
) -> None:
    begun(boxed, podman)
    podman.run("pause", container_of(boxed))  # so that it is there still when the next one is to start
    client = client_of(boxed)
    assert client is not None
    for process in (*processes(boxed, "jobs.driver"), client):
        process.kill()
    until(lambda: not client.is_running(), "the end of the engine's command")
    assert podman.containers(container_of(boxed)) == [container_of(boxed)]
    before = steps_done(boxed)
    boxed.good("resume", "dpo-1", "--detach")
    until(lambda: steps_done(boxed) > before, "a step of the second attempt")
    boxed.run("cancel", "dpo-1", "--now")
    assert boxed.job("dpo-1")["outcome"] == "cancelled"
    assert podman.containers(container_of(boxed)) == []


def test_an_engine_command_that_is_killed_leaves_no_container(boxed: Program, podman: Podman) -> None:
    begun(boxed, podman)
    client = client_of(boxed)
    assert client is not None
    client.kill()
    until(lambda: boxed.job("dpo-1")["state"] == "done", "the end", poll_s=0.2)
    row = boxed.job("dpo-1")
    assert row["outcome"] == "failed"
    assert "launch resume dpo-1" in row["error"]
    assert podman.containers(container_of(boxed)) == []


def test_a_container_that_was_not_whole_when_its_command_was_told_to_end_is_removed(
    boxed: Program, podman: Podman
) -> None:
    boxed.good(*ENDLESS, "--detach")
    found: list[psutil.Process] = []

    def started() -> bool:
        client = client_of(boxed)
        found[:] = [client] if client else []
        return bool(found)

    until(started, "the engine's command", poll_s=0.001)
    found[0].send_signal(signal.SIGTERM)
    until(lambda: boxed.job("dpo-1")["state"] == "done", "the end", seconds=240, poll_s=0.2)
    assert podman.containers(container_of(boxed)) == []


# What a person sees where it cannot be done. Nothing is recorded then.


def refused(program: Program, *words: str) -> str:
    done = program.run("dpo", "--yes", "--max-steps", "2", "--container")
    assert done.returncode == 2, done.stderr
    for word in (*words, "Next: "):
        assert word in done.stderr
    assert program.document("status")["jobs"] == []
    assert not list((program.folder / "runs").glob("*"))
    return done.stderr


def only(folder: Path, *names: str) -> str:
    """A PATH with these programs and no other."""
    folder.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    return str(folder)


def test_without_an_engine_it_is_said_what_to_install(small: Program, tmp_path: Path) -> None:
    program = Program(small.home, small.folder, {"PATH": only(tmp_path / "bin")})
    refused(program, "There is no container engine", "apt install podman")


def test_an_engine_that_does_not_answer_is_quoted(small: Program, podman: Podman, tmp_path: Path) -> None:
    broken = tmp_path / "storage.conf"
    broken.write_text('[storage]\ndriver = "none such"\ngraphroot = "/nowhere"\nrunroot = "/nowhere"\n')
    environ = {**podman.environ, "PATH": only(tmp_path / "bin", "podman"), "CONTAINERS_STORAGE_CONF": str(broken)}
    said = refused(Program(small.home, small.folder, environ), "No container engine answers", "podman: ")
    assert "none such" in said


def test_without_the_image_the_command_that_makes_it_is_said(small: Program, podman: Podman, tmp_path: Path) -> None:
    empty = tmp_path / "storage.conf"
    empty.write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{tmp_path / "store"}"\nrunroot = "{tmp_path / "run"}"\n'
    )
    program = Program(small.home, small.folder, {**podman.environ, "CONTAINERS_STORAGE_CONF": str(empty)})
    try:
        refused(program, f"podman has no image {default_tag('cpu')}", "launch image build --platform-lock cpu")
    finally:  # Podman leaves its store mounted over itself, and then nobody could remove it
        subprocess.run(["umount", "--lazy", tmp_path / "store" / "overlay"], capture_output=True, check=False)


def test_a_named_image_that_is_not_here_is_to_be_pulled(small: Program, podman: Podman) -> None:
    program = Program(small.home, small.folder, {**podman.environ, "LAUNCH_IMAGE": "registry.example/trainer:1"})
    refused(program, "podman has no image registry.example/trainer:1", "podman pull registry.example/trainer:1")


def test_an_image_without_the_trainers_packages_is_quoted(boxed: Program, podman: Podman) -> None:
    program = Program(boxed.home, boxed.folder, {**podman.environ, "LAUNCH_IMAGE": podman_store.BASE})
    done = program.run("dpo", "--yes", "--max-steps", "2", "--container")
    assert done.returncode == 1, done.stderr
    assert "/opt/launch/bin/python" in done.stderr
    assert podman.containers(container_of(program)) == []
