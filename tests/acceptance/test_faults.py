"""kill -9, Ctrl-C, cancel, a full disk, with the real trainer: nothing lost, and `resume` ends in the same adapter.

A run of so few steps is over before a test can aim at it, so the trainer is stopped (SIGSTOP) at the moment that the
test is about, and what happens to it happens there.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
from pathlib import Path

import psutil
import pytest

from artifacts import manifest
from tests.acceptance.processes import Moment, after_step, driver_of, processes, steps_done, stopped_at
from tests.acceptance.program import Program, copy_small, edit_requirement, without_test_data
from tests.acceptance.waiting import until

STEPS = 24
RUN = ("dpo", "--yes", "--max-steps", str(STEPS), "--eval-every", "8")


def adapter_hash(results: Path) -> str:
    return hashlib.sha256((results / "adapter_last" / "adapter_model.safetensors").read_bytes()).hexdigest()


def losses(results: Path) -> list[float]:
    lines = [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, demo_project: Path, warm_state: Path
) -> tuple[str, list[float]]:
    """The adapter and losses of the same run with nothing happening to it."""
    root = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(warm_state, root / "home" / "state")
    copy_small(demo_project, root / "project")
    without_test_data(root / "project")
    program = Program(root / "home", root / "project")
    program.good(*RUN)
    results = Path(program.job("dpo-1")["results"])
    assert len(losses(results)) == STEPS
    return adapter_hash(results), losses(results)


@pytest.fixture
def job(small: Program) -> Program:
    without_test_data(small.folder)
    return small


def work(program: Program) -> Path:
    return program.state("dpo-1") / "work"


def in_a_checkpoint(program: Program) -> bool:
    return any((work(program) / "checkpoints").glob("checkpoint-*.tmp-*"))


MOMENTS: dict[str, Moment] = {
    "at once": lambda program: True,
    "after some steps": after_step(7),
    "in a checkpoint": in_a_checkpoint,
}


def resumes_to_the_same(program: Program, undisturbed: tuple[str, list[float]]) -> None:
    done = program.run("resume", "dpo-1")
    assert done.returncode == 0, done.stderr
    row = program.job("dpo-1")
    assert (row["outcome"], row["attempt"], row["attention"]) == ("succeeded", 2, [])
    assert losses(Path(row["results"])) == undisturbed[1]
    assert adapter_hash(Path(row["results"])) == undisturbed[0]
    assert [line["attempt"] for line in program.document("cost")["rows"]] == [1, 2]
    assert not processes(program, "train")


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_9_of_the_trainer_then_resume_ends_in_the_same_adapter(
    job: Program, undisturbed: tuple[str, list[float]], moment: str
) -> None:
    launched = job.start(*RUN)
    stopped_at(job, MOMENTS[moment]).kill()
    _, err = launched.communicate(timeout=60)
    assert launched.returncode == 1
    assert "killed by SIGKILL" in err
    assert "launch resume dpo-1" in err
    resumes_to_the_same(job, undisturbed)
    swept = "a killed run left it half-done" in (job.state("dpo-1") / "logs" / "trainer.log").read_text()
    assert swept == (moment == "in a checkpoint")


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_9_of_the_driver_ends_its_trainer_and_resume_ends_in_the_same_adapter(
    job: Program, undisturbed: tuple[str, list[float]], moment: str
) -> None:
    launched = job.start(*RUN)
    trainer = stopped_at(job, MOMENTS[moment])
    driver_of(trainer).kill()
    trainer.resume()
    _, err = launched.communicate(timeout=60)
    assert launched.returncode == 1
    assert "launch resume dpo-1" in err
    row = job.job("dpo-1")
    assert row["outcome"] is None
    (item,) = row["attention"]
    assert (item["code"], item["costing"], item["command"]) == ("driver_lost", False, "launch resume dpo-1")
    assert "launch resume dpo-1" in job.good("status").stdout
    until(lambda: not processes(job, "train"), "the trainer's end")
    assert steps_done(job) < STEPS
    resumes_to_the_same(job, undisturbed)


def test_kill_9_of_both_at_once_in_a_checkpoint_then_resume_ends_in_the_same_adapter(
    job: Program, undisturbed: tuple[str, list[float]]
) -> None:
    launched = job.start(*RUN)
    trainer = stopped_at(job, MOMENTS["in a checkpoint"])
    driver = driver_of(trainer)
    for process in (driver, trainer):
        process.kill()
    launched.communicate(timeout=60)
    assert launched.returncode == 1
    resumes_to_the_same(job, undisturbed)


def test_kill_9_of_the_driver_ends_its_evaluation_and_resume_finishes_it(small: Program) -> None:
    launched = small.start("dpo", "--yes", "--max-steps", "2")
    evaluation = stopped_at(small, lambda program: True, "evaluate")
    assert small.job("dpo-1")["state"] == "evaluating"
    driver_of(evaluation).kill()
    evaluation.resume()
    launched.communicate(timeout=60)
    assert launched.returncode == 1
    until(lambda: not processes(small, "train"), "the evaluation's end", seconds=20)
    assert not (work(small) / "eval.json").exists(), "it was left to run to its end"
    done = small.run("resume", "dpo-1")
    assert done.returncode == 0, done.stderr
    results = Path(small.job("dpo-1")["results"])
    assert json.loads((results / "eval.json").read_text())["measures"]
    assert steps_done(small) == 2


def test_a_killed_evaluation_is_said_and_made_good_later(small: Program) -> None:
    launched = small.start("dpo", "--yes", "--max-steps", "2")
    evaluation = stopped_at(small, lambda program: True, "evaluate")
    evaluation.kill()
    _, said = launched.communicate(timeout=60)
    assert launched.returncode == 0, said
    assert "The evaluation was not made (killed by SIGKILL" in said
    assert "Next: launch eval dpo-1" in said
    assert "launch eval dpo-1" in small.good("status", "dpo-1").stdout
    results = Path(small.job("dpo-1")["results"])
    assert not (results / "eval.json").exists()
    assert "gave no result" in (results / "report.html").read_text()
    document = small.document("eval", "dpo-1")
    assert json.loads((results / "eval.json").read_text()) == document
    assert not manifest.differences(results, manifest.read(results))
    assert "eval.json" in (results / "manifest.json").read_text()
    assert "gave no result" not in (results / "report.html").read_text()
    assert "was not made" not in small.good("status", "dpo-1").stdout


def test_kill_9_of_launch_eval_ends_the_evaluation_that_it_started(job: Program) -> None:
    job.good("dpo", "--yes", "--max-steps", "1")
    asking = job.start("eval", "dpo-1", "--test", "data/test.jsonl")
    evaluation = stopped_at(job, lambda program: True, "evaluate")
    asking.kill()
    asking.communicate(timeout=60)
    evaluation.resume()
    until(lambda: not processes(job, "train"), "the evaluation's end", seconds=20)
    assert not list((job.home / "state" / "evaluations").glob("*.json")), "it was left to run to its end"


def test_ctrl_c_stops_the_watching_and_not_the_job_and_resume_watches_the_same_driver(job: Program) -> None:
    launched = job.start(*RUN)
    trainer = stopped_at(job, after_step(2))
    launched.send_signal(signal.SIGINT)
    _, err = launched.communicate(timeout=60)
    assert launched.returncode == 130
    assert "dpo-1 goes on" in err
    assert "launch cancel dpo-1" in err
    beside = job.start("resume", "dpo-1")
    assert beside.stderr is not None
    assert "dpo-1 is running; watching it" in beside.stderr.readline()
    trainer.resume()
    beside.communicate(timeout=60)
    assert beside.returncode == 0
    row = job.job("dpo-1")
    assert (row["outcome"], row["step"], row["attempt"]) == ("succeeded", STEPS, 1)


def told_to_end(process: psutil.Process) -> bool:
    """Whether SIGTERM waits for a process that is stopped."""
    pending = re.search(r"ShdPnd:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    assert pending is not None
    return bool(int(pending[1], 16) & 1 << (signal.SIGTERM - 1))


def test_cancel_brings_the_last_checkpoint_home_and_resume_goes_on(
    job: Program, undisturbed: tuple[str, list[float]]
) -> None:
    launched = job.start(*RUN)
    trainer = stopped_at(job, after_step(3))
    cancelling = job.start("cancel", "dpo-1")
    until(lambda: told_to_end(trainer), "the driver's SIGTERM")
    trainer.resume()
    for child, code in ((cancelling, 0), (launched, 6)):
        _, err = child.communicate(timeout=60)
        assert child.returncode == code, err
    row = job.job("dpo-1")
    assert row["outcome"] == "cancelled"
    state = json.loads(Path(row["results"], "checkpoint", "trainer_state.json").read_text())
    assert state["global_step"] == row["step"] < STEPS
    assert "already done (cancelled)" in job.good("cancel", "dpo-1").stderr
    resumes_to_the_same(job, undisturbed)


def test_detached_at_once_two_launches_are_two_jobs_that_need_no_terminal(job: Program) -> None:
    both = [job.start("dpo", "--yes", "--max-steps", "2", "--detach") for _ in range(2)]
    for child in both:
        _, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
        assert "launch status dpo-" in err
    until(lambda: all(row["outcome"] for row in job.document("status")["jobs"]), "the end of both", poll_s=0.5)
    rows = job.document("status")["jobs"]
    assert sorted((row["id"], row["outcome"]) for row in rows) == [("dpo-1", "succeeded"), ("dpo-2", "succeeded")]
    assert {Path(row["results"]).name for row in rows} == {"dpo-1", "dpo-2"}


def test_a_disk_that_fills_while_training_is_exit_1_with_the_last_checkpoint_kept(
    job: Program, undisturbed: tuple[str, list[float]], filling_disk: Path
) -> None:
    for option in (0, 1):
        edit_requirement(job.folder, ("options", option, "min_disk_gib"), 0.0)
    shutil.copytree(job.home / "state", filling_disk / "state")
    program = Program(filling_disk, job.folder)
    launched = program.start(*RUN)
    trainer = stopped_at(program, after_step(5))
    with (filling_disk / "ballast").open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError:
            pass
    trainer.resume()
    _, err = launched.communicate(timeout=60)
    assert launched.returncode == 1, err
    assert "full" in err
    assert "launch resume dpo-1" in err
    assert (work(program) / "checkpoints" / "checkpoint-4" / "whole.json").is_file()
    (filling_disk / "ballast").unlink()
    resumes_to_the_same(program, undisturbed)
