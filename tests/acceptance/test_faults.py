"""kill -9, Ctrl-C, cancel, a full disk, with the real trainer: nothing lost, and `resume` ends in the same adapter."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.acceptance.program import Program, copy_small
from tests.acceptance.waiting import until

STEPS = 24
RUN = ("dpo", "--yes", "--max-steps", str(STEPS), "--eval-every", "8")


def adapter_hash(results: Path) -> str:
    return hashlib.sha256((results / "adapter_last" / "adapter_model.safetensors").read_bytes()).hexdigest()


def losses(results: Path) -> list[float]:
    lines = [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, demo_project: Path) -> tuple[str, list[float]]:
    """The adapter and losses of the same run with nothing happening to it."""
    root = tmp_path_factory.mktemp("undisturbed")
    (root / "home").mkdir()
    copy_small(demo_project, root / "project")
    without_test_data(root / "project")
    program = Program(root / "home", root / "project")
    program.good(*RUN)
    results = Path(program.job("dpo-1")["results"])
    return adapter_hash(results), losses(results)


def without_test_data(project: Path) -> None:
    """No evaluation: these tests are about the training."""
    file = project / "launch.toml"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith("test")))


@pytest.fixture
def job(small: Program) -> Program:
    without_test_data(small.folder)
    return small


def work(program: Program) -> Path:
    return program.state("dpo-1") / "work"


def steps_done(program: Program) -> int:
    file = work(program) / "metrics.jsonl"
    return file.read_text().count('"kind":"train"') if file.exists() else 0


def processes(program: Program, module: str) -> list[psutil.Process]:
    """Ours alone: those whose arguments name this test's own state folder or job, and the module."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            mine = process.environ().get("LAUNCH_HOME") == str(program.home / "state")
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if mine and "-m" in words and words[words.index("-m") + 1] == module:
            found.append(process)
    return found


def driver_of(program: Program) -> psutil.Process:
    (process,) = processes(program, "jobs.driver")
    return process


def trainer_of(program: Program) -> psutil.Process:
    (process,) = [one for one in processes(program, "train") if "dpo" in one.cmdline()]
    return process


def after_step(step: int) -> Callable[[Program], bool]:
    return lambda program: steps_done(program) >= step


def in_a_checkpoint(program: Program) -> bool:
    """A checkpoint is being written at this moment."""
    return any((work(program) / "checkpoints").glob(".*tmp*")) or any((work(program) / "checkpoints").glob("*.tmp*"))


MOMENTS = {
    "at once": lambda program: work(program).exists(),
    "after a step": after_step(1),
    "after some steps": after_step(7),
    "in a checkpoint": in_a_checkpoint,
    "near the end": after_step(STEPS - 2),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("victim", ["trainer", "driver"])
def test_kill_9_then_resume_ends_in_the_same_adapter(
    job: Program, undisturbed: tuple[str, list[float]], victim: str, moment: str
) -> None:
    launched = job.start(*RUN)
    reached = MOMENTS[moment]
    until(lambda: bool(processes(job, "jobs.driver")) or launched.poll() is not None, "a driver")
    until(lambda: launched.poll() is not None or reached(job), moment)
    if victim == "trainer":
        until(lambda: launched.poll() is not None or bool(trainers(job)), "a trainer")
    victims = trainers(job) if victim == "trainer" else processes(job, "jobs.driver")
    for process in victims:
        process.send_signal(signal.SIGKILL)
    launched.communicate(timeout=120)
    assert victims, "the run was over before the moment came"
    done = job.run("resume", "dpo-1")
    assert done.returncode == 0, done.stderr
    results = Path(job.job("dpo-1")["results"])
    assert losses(results) == undisturbed[1]
    assert adapter_hash(results) == undisturbed[0]
    assert len(job.document("cost")["rows"]) >= 1
    assert not processes(job, "train")


def trainers(program: Program) -> list[psutil.Process]:
    return [one for one in processes(program, "train") if "dpo" in one.cmdline()]


def test_a_trainer_ends_when_its_driver_does_and_status_says_what_to_type(job: Program) -> None:
    launched = job.start(*RUN)
    until(lambda: steps_done(job) >= 2, "two steps")
    driver_of(job).send_signal(signal.SIGKILL)
    until(lambda: not processes(job, "train"), "the trainer's end")
    launched.communicate(timeout=60)
    assert launched.returncode == 1
    row = job.job("dpo-1")
    assert row["outcome"] is None
    (item,) = row["attention"]
    assert (item["code"], item["costing"], item["command"]) == ("driver_lost", False, "launch resume dpo-1")
    assert "launch resume dpo-1" in job.good("status").stdout


def test_ctrl_c_stops_the_watching_and_not_the_job(job: Program) -> None:
    launched = job.start(*RUN)
    until(lambda: steps_done(job) >= 2, "two steps")
    launched.send_signal(signal.SIGINT)
    _, err = launched.communicate(timeout=60)
    assert launched.returncode == 130
    assert "dpo-1 goes on" in err
    assert "launch cancel dpo-1" in err
    assert job.run("resume", "dpo-1").returncode == 0  # it watches the same driver
    row = job.job("dpo-1")
    assert (row["outcome"], row["step"], row["attempt"]) == ("succeeded", STEPS, 1)


def test_cancel_brings_the_last_checkpoint_home_and_resume_goes_on(
    job: Program, undisturbed: tuple[str, list[float]]
) -> None:
    launched = job.start(*RUN)
    until(lambda: steps_done(job) >= 3, "three steps")
    job.good("cancel", "dpo-1")
    launched.communicate(timeout=60)
    assert launched.returncode == 6
    row = job.job("dpo-1")
    assert row["outcome"] == "cancelled"
    assert Path(row["results"], "checkpoint").is_dir()
    job.good("cancel", "dpo-1")
    assert job.run("resume", "dpo-1").returncode == 0
    assert adapter_hash(Path(row["results"])) == undisturbed[0]
    assert job.job("dpo-1")["attempt"] == 2


def test_detach_returns_at_once_and_the_job_goes_on(job: Program) -> None:
    done = job.run(*RUN, "--detach")
    assert done.returncode == 0
    assert "launch status dpo-1" in done.stderr
    until(lambda: job.job("dpo-1")["outcome"] == "succeeded", "the end of the job")


def test_a_disk_that_fills_while_training_is_exit_1_with_the_last_checkpoint_kept(
    job: Program, filling_disk: Path
) -> None:
    program = Program(filling_disk, job.folder)
    launched = program.start(*RUN)
    until(lambda: any((work(program) / "checkpoints").glob("checkpoint-*")), "a first checkpoint")
    ballast = filling_disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 65536):
                pass
        except OSError:
            pass
    _, err = launched.communicate(timeout=120)
    assert launched.returncode == 1, err
    assert list((work(program) / "checkpoints").glob("checkpoint-*"))
    ballast.unlink()
    assert program.run("resume", "dpo-1").returncode == 0


def test_two_launches_at_once_are_two_jobs(job: Program) -> None:
    both = [job.start("dpo", "--yes", "--max-steps", "2") for _ in range(2)]
    for child in both:
        _, err = child.communicate(timeout=180)
        assert child.returncode == 0, err
    rows = job.document("status")["jobs"]
    assert {row["id"] for row in rows} == {"dpo-1", "dpo-2"}
    assert len({row["results"] for row in rows}) == 2


def test_resume_beside_a_running_job_only_watches(job: Program) -> None:
    launched = job.start(*RUN)
    until(lambda: steps_done(job) >= 1, "a step")
    beside = job.start("resume", "dpo-1")
    for child in (launched, beside):
        _, err = child.communicate(timeout=120)
        assert child.returncode == 0, err
    assert job.job("dpo-1")["attempt"] == 1
