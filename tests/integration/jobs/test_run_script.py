"""The script in `sky/dpo.yaml`, run by bash in a home of its own with a trainer in miniature."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.cloud_task import submitted, task_document

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the script is for Linux hosts")

LIMIT_S = 120
# It writes what it was told, then does what `behaviour.json` says: waits for a signal or the end of its input.
TRAINER = """
import json, os, pathlib, signal, sys, threading, time
work = pathlib.Path("work")
behaviour = json.loads(pathlib.Path("behaviour.json").read_text())
command = sys.argv[1]
if command != "evaluate":
    runs = work / "runs"
    first = not runs.exists()
    runs.write_text((runs.read_text() if not first else "") + "run\\n")
    said = {"argv": sys.argv[1:], "path": os.environ["PYTHONPATH"], "safe": os.environ["PYTHONSAFEPATH"],
            "hub": os.environ["HF_HOME"], "end_was_there": (work / "end.json").exists(), "pid": os.getpid()}
    if behaviour.get("hold") and first:
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        threading.Thread(target=lambda: (os.read(0, 1), stop.set()), daemon=True).start()
        (work / "said.json").write_text(json.dumps(said))
        stop.wait()
        said["stopped"] = True
    (work / "said.json").write_text(json.dumps(said))
    if behaviour.get("to_its_limit"):
        time.sleep(int(sys.argv[sys.argv.index("--max-seconds") + 1]) + 1)
    print("trained")
    if behaviour.get("adapter", True):
        (work / "adapter").mkdir(exist_ok=True)
    sys.exit(behaviour.get("status", 0))
if behaviour.get("evaluation_holds"):
    time.sleep(600)
print("evaluated")
sys.exit(behaviour.get("evaluation", 0))
"""


class Machine:
    """A rented machine's home with one synced job in it."""

    def __init__(self, home: Path) -> None:
        self.home, self.job = home, home / "launch" / "jobs" / "dpo-1"
        package = self.job / "trainer" / "train"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(TRAINER)
        lock = self.job / "trainer" / "lock.txt"
        lock.write_text("# nothing\n")
        environment = home / "launch" / "environments" / sha256(lock.read_bytes()).hexdigest()[:12]
        (environment / "bin").mkdir(parents=True)
        (environment / "bin" / "python").symlink_to(sys.executable)
        (environment / "whole").touch()
        (self.job / "run.json").write_text("{}")
        (self.job / "SYNCED").touch()
        self.deadline = home / "deadline"
        self.behave()
        document = task_document(
            job="dpo-1", cloud="lambda", region="us-east-1", instance_type="gpu_1x_a10", idle_minutes=60,
            envs={"LAUNCH_CONTAINER": "none", "LAUNCH_RESERVE_S": "100"},
        )  # fmt: skip
        self.task = submitted(document, wait_s=LIMIT_S)
        self.started: list[subprocess.Popen[str]] = []

    def behave(self, **behaviour: Any) -> None:
        (self.job / "behaviour.json").write_text(json.dumps(behaviour))

    def start(self, **envs: str) -> subprocess.Popen[str]:
        variables = {"HOME": str(self.home), "PATH": os.environ["PATH"], "LAUNCH_DEADLINE_FILE": str(self.deadline)}
        script = subprocess.Popen(
            ["bash", "-c", self.task["run"]],
            env=variables | self.task["envs"] | envs,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(script)
        return script

    def run(self, **envs: str) -> tuple[int, str]:
        script = self.start(**envs)
        words, _ = script.communicate(timeout=LIMIT_S)
        return script.returncode, words

    def read(self, name: str) -> str:
        return (self.job / name).read_text().strip()

    def said(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.read("work/said.json"))
        return document

    def until(self, what: Callable[[], Any], said: str) -> None:
        give_up = time.monotonic() + LIMIT_S
        while not what():
            assert time.monotonic() < give_up, f"waited {LIMIT_S} s for {said}"
            time.sleep(0.02)

    def until_training(self) -> None:
        self.until((self.job / "work" / "said.json").exists, "the trainer")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "ubuntu")
    yield machine
    for script in machine.started:
        if script.poll() is None:
            os.killpg(script.pid, signal.SIGKILL)
            script.wait()
        if script.stdout:
            script.stdout.close()


def test_trains_then_evaluates_and_says_how_each_ended(machine: Machine) -> None:
    (machine.job / "evalrun.json").write_text("{}")
    status, words = machine.run()
    assert status == 0, words
    assert "the host's Python runs the trainer: no container (none)" in words
    assert [machine.read(name) for name in ("phase", "train.exit", "evaluate.exit")] == ["finished", "0", "0"]
    assert (machine.read("logs/trainer.log"), machine.read("logs/evaluate.log")) == ("trained", "evaluated")
    said = machine.said()
    assert said["argv"] == ["dpo", "--config", str(machine.job / "run.json"), "--stop-on-eof"]
    assert (said["path"], said["safe"]) == (str(machine.job / "trainer"), "1")
    assert said["hub"] == str(machine.home / "launch" / "hub")


def test_it_trains_what_the_task_says(machine: Machine) -> None:
    assert machine.run(LAUNCH_METHOD="kto")[0] == 0
    assert machine.said()["argv"][0] == "kto"


def test_the_machines_deadline_bounds_the_training(machine: Machine) -> None:
    machine.deadline.write_text(f"{int(time.time()) + 1000}\n")
    assert machine.run()[0] == 0
    *_, flag, seconds = machine.said()["argv"]
    assert flag == "--max-seconds"
    assert 880 < int(seconds) <= 900


def test_with_no_time_left_nothing_is_trained(machine: Machine) -> None:
    machine.deadline.write_text(f"{int(time.time()) + 99}\n")
    status, words = machine.run()
    assert (status, machine.read("phase")) == (0, "finished")
    assert "no time is left" in words
    assert not (machine.job / "train.exit").exists()
    assert not (machine.job / "work" / "said.json").exists()


@pytest.mark.parametrize(("seconds", "evaluated"), [("0", False), ("80", True)])
def test_a_training_that_ends_at_its_line_is_evaluated_in_the_time_kept_for_that(
    machine: Machine, seconds: str, evaluated: bool
) -> None:
    (machine.job / "evalrun.json").write_text("{}")
    machine.behave(to_its_limit=True)
    machine.deadline.write_text(f"{int(time.time()) + 103}\n")
    assert machine.run(LAUNCH_EVALUATE_S=seconds)[0] == 0
    assert machine.read("train.exit") == "0"
    assert (machine.job / "evaluate.exit").exists() is evaluated


@pytest.mark.parametrize("behaviour", [{"status": 3}, {"adapter": False}], ids=["failed", "no adapter"])
def test_what_did_not_train_well_is_not_evaluated(machine: Machine, behaviour: dict[str, Any]) -> None:
    (machine.job / "evalrun.json").write_text("{}")
    machine.behave(**behaviour)
    status, _ = machine.run()
    assert status == behaviour.get("status", 0)
    assert machine.read("train.exit") == str(status)
    assert machine.read("phase") == "finished"
    assert not (machine.job / "evaluate.exit").exists()


def test_a_failed_evaluation_leaves_the_training_a_success(machine: Machine) -> None:
    (machine.job / "evalrun.json").write_text("{}")
    machine.behave(evaluation=4)
    assert machine.run()[0] == 0
    assert (machine.read("train.exit"), machine.read("evaluate.exit")) == ("0", "4")


def test_a_file_stop_ends_the_training_well(machine: Machine) -> None:
    (machine.job / "evalrun.json").write_text("{}")
    machine.behave(hold=True)
    script = machine.start()
    machine.until_training()
    assert machine.read("phase") == "training"
    (machine.job / "stop").touch()
    assert script.wait(LIMIT_S) == 0
    assert machine.said()["stopped"]
    assert (machine.read("phase"), machine.read("train.exit")) == ("finished", "0")
    assert not (machine.job / "evaluate.exit").exists()


def test_a_file_stop_before_it_begins_keeps_it_from_training(machine: Machine) -> None:
    (machine.job / "stop").touch()
    status, words = machine.run()
    assert (status, machine.read("phase")) == (0, "finished")
    assert "stopped before the training" in words
    assert not (machine.job / "work" / "said.json").exists()


def test_a_signal_to_the_script_ends_the_training_well(machine: Machine) -> None:
    machine.behave(hold=True)
    script = machine.start()
    machine.until_training()
    script.terminate()
    assert script.wait(LIMIT_S) == 0
    assert machine.said()["stopped"]
    assert machine.read("phase") == "finished"


def test_a_second_submission_ends_at_once_and_touches_nothing(machine: Machine) -> None:
    machine.behave(hold=True)
    script = machine.start()
    machine.until_training()
    status, words = machine.run()
    assert status == 0
    assert "another run of dpo-1 is at work here" in words
    assert machine.read("phase") == "training"
    assert script.poll() is None
    (machine.job / "stop").touch()
    assert script.wait(LIMIT_S) == 0


def test_after_a_killed_script_the_trainer_goes_and_the_next_run_goes_on(machine: Machine) -> None:
    machine.behave(hold=True)
    script = machine.start()
    machine.until_training()
    trainer = machine.said()["pid"]
    script.kill()  # the script alone, as the system does when memory runs out
    (machine.job / "train.exit").write_text("9\n")
    (machine.job / "work" / "end.json").write_text("{}")
    status, words = machine.run()
    assert status == 0, words
    assert not psutil.pid_exists(trainer) or psutil.Process(trainer).status() == psutil.STATUS_ZOMBIE
    assert machine.read("work/runs") == "run\nrun"
    assert machine.said()["end_was_there"] is False
    assert (machine.read("phase"), machine.read("train.exit")) == ("finished", "0")


def test_it_waits_for_the_marker_of_the_transfer(machine: Machine) -> None:
    (machine.job / "SYNCED").unlink()
    script = machine.start()
    machine.until((machine.job / "phase").exists, "the phase")
    assert machine.read("phase") == "waiting"
    (machine.job / "SYNCED").touch()
    assert script.wait(LIMIT_S) == 0
    assert machine.read("train.exit") == "0"


def test_a_marker_that_never_comes_is_said(machine: Machine) -> None:
    shutil.rmtree(machine.job)
    status, words = machine.run(LAUNCH_SYNC_WAIT_S="1")
    assert status == 75
    assert "the data of dpo-1 is not here after 1 s; nothing was trained" in words
    assert machine.read("phase") == "finished"


def test_a_stop_while_it_waits_for_the_transfer_is_no_failure(machine: Machine) -> None:
    (machine.job / "SYNCED").unlink()
    script = machine.start()
    machine.until((machine.job / "phase").exists, "the phase")
    (machine.job / "stop").touch()
    assert script.wait(LIMIT_S) == 0
    assert machine.read("phase") == "finished"


def test_an_environment_is_made_from_the_lock_and_kept(machine: Machine) -> None:
    shutil.rmtree(machine.home / "launch" / "environments")
    status, words = machine.run()
    assert status == 0, words + machine.read("logs/environment.log")
    (made,) = (machine.home / "launch" / "environments").iterdir()
    assert (made / "whole").exists()
    before = (made / "whole").stat().st_mtime_ns
    assert machine.run()[0] == 0
    assert (made / "whole").stat().st_mtime_ns == before


def test_an_environment_that_cannot_be_made_ends_the_run(machine: Machine) -> None:
    lock = machine.job / "trainer" / "lock.txt"
    lock.write_text("--no-index\nno-such-package-of-ours==1.0\n")
    status, words = machine.run()
    assert status == 1
    assert "could not be made; logs/environment.log says why" in words
    assert "no-such-package-of-ours" in machine.read("logs/environment.log")
    assert machine.read("phase") == "finished"
