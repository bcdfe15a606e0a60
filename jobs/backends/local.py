"""This machine: a trainer is a child process that ends with its driver."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from artifacts.errors import LaunchError
from jobs import environment
from jobs.backends import Command, Machine, Say, Task
from jobs.container import TrainerImage, find_image
from jobs.environment import Environment, child_environ
from jobs.evaluation import eval_config
from jobs.home import Home
from jobs.inputs import check_inputs
from jobs.job import JobSpec, PhaseProgress
from jobs.lock import FileLock, is_held
from jobs.work import write_document
from train.config import EvalConfig, RunConfig

LEFTOVER_GRACE_S = 75.0
"""A trainer whose driver was killed sees the end of its standard input, finishes its step and saves (at most 60 s)."""
KILL_S = 30.0
"""What a container engine may take to end a container."""


class LocalBackend:
    """Runs one command at a time. The child's standard input is its life line: it ends when this process does.

    The child inherits `jobs/JOB/trainer.lock`, so that the lock is free when it, and all that it started, has ended;
    `trainer.json` names it by pid and start time, since a pid alone may be another process by now.
    """

    def __init__(self, home: Home, spec: JobSpec, *, leftover_grace_s: float = LEFTOVER_GRACE_S) -> None:
        self._home, self._spec, self._leftover_grace_s = home, spec, leftover_grace_s
        self._job_id, self._work, self._logs = spec.id, home.work(spec.id), home.logs(spec.id)
        self._environment: Environment | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._kill_argv: tuple[str, ...] = ()
        self._image: TrainerImage | None = None

    def create(self, say: Say) -> Machine:
        """This machine, when no trainer of an earlier driver runs on it any more, with the trainer's environment."""
        self.end_leftovers()

        def installing(line: str) -> None:
            say(PhaseProgress(name=line[:80], done=0, unit="packages"))

        spec = self._spec
        device, python = spec.run.execution.device, spec.train_python
        if spec.container:
            self._image = find_image(device, spec.plan.choice and spec.plan.choice.offer.gpu, spec.image)
            self._environment = self._image.environment(self._home)
        else:
            self._environment = environment.ensure(
                self._home, device=device, python=python, pip_args=spec.pip_args, say=installing
            )
        return Machine(socket.gethostname())

    def end_leftovers(self) -> None:
        """Waits for a trainer that an earlier driver left to end by itself, then ends it."""
        job_id, folder = self._job_id, self._home.job(self._job_id)
        self._work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "trainer.lock")
        if not lock.acquire(wait_s=self._leftover_grace_s):
            _kill_recorded(folder / "trainer.json")
            if not lock.acquire(wait_s=10):
                raise LaunchError(
                    f"An earlier trainer of {job_id} still runs on this machine and cannot be ended",
                    why=f"it holds {lock.path}; {folder / 'trainer.json'} names its pid",
                    next_step=f"end that process, then: launch resume {job_id}",
                )
        _run_kill(_recorded(folder / "trainer.json").get("kill_argv", ()))  # a container may outlive its command
        lock.release()

    def sync(self, say: Say) -> None:
        """Nothing travels: the inputs are looked at, and the trainer's configuration is written."""
        assert self._environment is not None
        check_inputs(self._spec, self._work)
        self._home.reference_cache.mkdir(parents=True, exist_ok=True)
        run = self._spec.run.model_copy(update={"lock": self._spec.run.lock or self._environment.lock})
        write_document(self._work / "run.json", run.model_dump_json(by_alias=True, indent=2))

    def submit(self, command: Command) -> None:
        assert self._environment is not None
        config, log_file = self._work / "run.json", self._logs / "trainer.log"
        asked: RunConfig | EvalConfig = self._spec.run
        word: str = self._spec.run.method
        if command == "evaluate":
            word = command
            config, log_file = self._work / "evalrun.json", self._logs / "evaluate.log"
            assert self._spec.test is not None
            asked = eval_config(
                self._spec, adapter=self._work / "adapter", test=self._spec.test, output=self._work / "eval.json"
            )
            write_document(config, asked.model_dump_json(by_alias=True, indent=2))
        argv = (str(self._environment.python), "-m", "train", word, "--config", str(config), "--stop-on-eof")
        task = Task(argv, child_environ(self._environment), log_file)
        if self._image is not None:
            task = self._image.wrap(task, asked, self._home, self._job_id)
        self._start(task)

    def _start(self, task: Task) -> None:
        folder = self._home.job(self._job_id)
        lock = FileLock(folder / "trainer.lock")
        if not lock.acquire():
            raise LaunchError(f"A trainer of {self._job_id} is running already", why=f"{lock.path} is held")
        try:
            task.log.parent.mkdir(parents=True, exist_ok=True)
            with task.log.open("ab") as log:
                self._child = subprocess.Popen(
                    task.argv,
                    cwd=self._work,
                    env=dict(task.environ),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(lock.fileno(),),
                    # A Ctrl-C or a closed terminal is the driver's to answer.
                    start_new_session=True,
                )
        finally:
            lock.release()
        self._kill_argv = task.kill_argv
        record = {"pid": self._child.pid, "started": _started(self._child.pid), "kill_argv": task.kill_argv}
        (folder / "trainer.json").write_text(json.dumps(record))

    def poll(self, timeout_s: float) -> int | None:
        status = self._wait(timeout_s)
        if status is not None:
            self._remove_container()
        return status

    def _remove_container(self) -> None:
        """A command that was killed, or told to end while it made its container, has left that behind."""
        argv, self._kill_argv = self._kill_argv, ()
        _run_kill(argv)

    def _wait(self, timeout_s: float) -> int | None:
        child = self._child
        if child is None:
            return None
        if sys.platform == "linux" and child.poll() is None:
            pidfd = os.pidfd_open(child.pid)
            try:
                select.select([pidfd], [], [], timeout_s)
            finally:
                os.close(pidfd)
            return child.poll()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout_s)
        return child.returncode

    def stop(self, grace_s: float) -> None:
        child = self._child
        if child is None or child.poll() is not None:
            return
        child.terminate()
        if self.poll(grace_s) is None:
            child.kill()
            child.wait()
            self._remove_container()

    def collect(self) -> None:
        """The trainer writes where the results are brought home from."""

    def time_left_s(self) -> float | None:
        return None

    def held_until(self) -> None:
        return None

    def billed(self) -> None:
        return None

    def leave(self) -> None:
        """No trainer runs on without a driver."""
        self.destroy()

    def destroy(self) -> None:
        """There is no machine to give back; the command has ended, and so has what it started."""
        self.stop(60.0)
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.close()
        if self._child is not None and is_held(self._home.job(self._job_id) / "trainer.lock"):
            # What the trainer started holds the lock still. Its group's number is not given away while one lives.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
        self._remove_container()


def running_on_this_machine(home: Home) -> list[str]:
    """The jobs that have a trainer running here."""
    return sorted(path.parent.name for path in home.jobs_dir.glob("*/trainer.lock") if is_held(path))


def _started(pid: int) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None


def _run_kill(argv: Sequence[str]) -> None:
    if argv:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=KILL_S, check=False)


def _recorded(record: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads(record.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return known


def _kill_recorded(record: Path) -> None:
    """Ends the recorded trainer's session, if the pid is still the process that was recorded."""
    known = _recorded(record)
    if not known:
        return
    _run_kill(known.get("kill_argv", ()))  # named for the job, so that it is no stranger's
    pid = int(known["pid"])
    if known["started"] is not None and _started(pid) == known["started"]:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
