"""What the verbs around a job say and return: exit codes and messages."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import pytest

from tests.acceptance.processes import stopped_at
from tests.acceptance.program import Program, without_test_data


def refused(program: Program, *words: str) -> str:
    done = program.run(*words)
    assert done.returncode == 2, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("verb", ["status", "logs", "pull", "cancel", "resume", "eval", "rm"])
def test_a_job_that_does_not_exist_is_named(program: Program, verb: str) -> None:
    message = refused(program, verb, "dpo-7")
    assert "dpo-7" in message
    assert "launch status" in message


def test_the_verbs_of_a_running_job_and_of_one_without_test_data(small: Program) -> None:
    without_test_data(small.folder)
    small.good("dpo", "--yes", "--max-steps", "2", "--detach")
    trainer = stopped_at(small, lambda program: True)
    message = refused(small, "pull", "dpo-1")
    assert "dpo-1 is still running" in message
    assert "launch status dpo-1 --watch" in message
    message = refused(small, "rm", "dpo-1", "--yes")
    assert "dpo-1 is not done" in message
    assert "launch cancel dpo-1" in message
    assert "dpo-1 is not done" in refused(small, "rm", "dpo-1")  # before the question, which has no terminal here
    assert "no held-out data" in refused(small, "eval", "dpo-1")

    following = small.start("logs", "dpo-1", "--follow")
    trainer.resume()
    out, err = following.communicate(timeout=120)
    assert following.returncode == 0, err
    assert "ended after step 2 of 2" in out
    assert small.job("dpo-1")["outcome"] == "succeeded"
    message = refused(small, "eval", "dpo-1")
    assert "launch eval dpo-1 --test FILE" in message
    assert "nothing to resume" in small.good("resume", "dpo-1").stderr
    assert "already done" in small.good("cancel", "dpo-1").stderr
    small.good("pull", "dpo-1")
    assert "--yes" in refused(small, "rm", "dpo-1")  # a question with no terminal
    Path(small.job("dpo-1")["results"], "adapter", "adapter_config.json").unlink()
    message = refused(small, "rm", "dpo-1")
    assert "are not whole" in message
    assert "launch pull dpo-1" in message


def test_init_finds_what_the_folder_holds_and_never_overwrites(program: Program, demo_project: Path) -> None:
    shutil.copytree(demo_project, program.folder, dirs_exist_ok=True)
    (program.folder / "launch.toml").unlink()
    done = program.good("init")
    file = program.folder / "launch.toml"
    assert tomllib.loads(file.read_text()) == {
        "requirements": "requirement.json",
        "train": "data/train.jsonl",
        "val": "data/val.jsonl",
        "test": "data/test.jsonl",
    }
    assert "found train: data/train.jsonl" in done.stderr
    written = file.read_bytes()
    assert "exists already, and is left as it is" in refused(program, "init")
    assert file.read_bytes() == written


def test_doctor_names_what_is_broken_with_its_remedy(program: Program) -> None:
    findings = {item["name"]: item for item in program.document("doctor")["findings"]}
    assert findings["trainer"]["level"] == "good"
    assert findings["state"]["level"] == "good"
    assert "its environment is ready" in program.good("doctor").stdout

    broken = Program(program.home, program.folder, {"LAUNCH_TRAIN_PYTHON": "/nonexistent/python"})
    done = broken.run("doctor", "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["schema"] == "doctor/1"
    (trainer,) = [item for item in document["findings"] if item["name"] == "trainer"]
    assert (trainer["level"], trainer["found"]) == ("broken", "/nonexistent/python cannot run the trainer")
    assert "[train] python" in trainer["remedy"]
    text = broken.run("doctor")
    assert text.returncode == 1
    assert "BAD  trainer" in text.stdout
