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
from pathlib import Path

import psutil

from artifacts.errors import LaunchError
from jobs.backends import Host, Task
from jobs.home import Home
from jobs.lock import FileLock, is_held

LEFTOVER_GRACE_S = 75.0
"""A trainer whose driver was killed sees the end of its standard input, finishes its step and saves (at most 60 s)."""
KILL_S = 30.0
"""What a container engine may take to end a container."""


class LocalBackend:
    """Runs one task at a time. The child's standard input is its life line: it ends when this process does.

    The child inherits `jobs/JOB/trainer.lock`, so that the lock is free when it, and all that it started, has ended;
    `trainer.json` names it by pid and start time, since a pid alone may be another process by now.
    """

    def __init__(self, home: Home, job_id: str, *, leftover_grace_s: float = LEFTOVER_GRACE_S) -> None:
        self._home, self._job_id, self._leftover_grace_s = home, job_id, leftover_grace_s
        self._child: subprocess.Popen[bytes] | None = None
        self._kill_argv: tuple[str, ...] = ()

    def create(self, job_id: str) -> Host:
        """Waits for a trainer that an earlier driver left to end by itself, then ends it."""
        folder = self._home.job(job_id)
        self._home.work(job_id).mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "trainer.lock")
        if not lock.acquire(wait_s=self._leftover_grace_s):
            _kill_recorded(folder / "trainer.json")
            if not lock.acquire(wait_s=10):
                raise LaunchError(
                    f"An earlier trainer of {job_id} still runs on this machine and cannot be ended",
                    why=f"it holds {lock.path}; {folder / 'trainer.json'} names its pid",
                    next_step=f"end that process, then: launch resume {job_id}",
                )
        lock.release()
        return Host(socket.gethostname(), self._home.work(job_id))

    def submit(self, host: Host, task: Task) -> None:
        folder = self._home.job(self._job_id)
        lock = FileLock(folder / "trainer.lock")
        if not lock.acquire():
            raise LaunchError(f"A trainer of {self._job_id} is running already", why=f"{lock.path} is held")
        try:
            task.log.parent.mkdir(parents=True, exist_ok=True)
            with task.log.open("ab") as log:
                self._child = subprocess.Popen(
                    task.argv,
                    cwd=host.work,
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

    def poll(self, host: Host, timeout_s: float) -> int | None:
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

    def stop(self, host: Host, grace_s: float) -> None:
        child = self._child
        if child is None or child.poll() is not None:
            return
        child.terminate()
        if self.poll(host, grace_s) is None:
            child.kill()
            child.wait()
            _run_kill(self._kill_argv)

    def destroy(self, host: Host) -> None:
        """There is no machine to give back; the task has ended, and so has what it started."""
        self.stop(host, 60.0)
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.close()
        if self._child is not None and is_held(self._home.job(self._job_id) / "trainer.lock"):
            # What the trainer started holds the lock still. Its group's number is not given away while one lives.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            _run_kill(self._kill_argv)

    def list(self) -> list[str]:
        return sorted(path.parent.name for path in self._home.jobs_dir.glob("*/trainer.lock") if is_held(path))


def _started(pid: int) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None


def _run_kill(argv: tuple[str, ...]) -> None:
    if argv:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=KILL_S, check=False)


def _kill_recorded(record: Path) -> None:
    """Ends the recorded trainer's session, if the pid is still the process that was recorded."""
    try:
        known = json.loads(record.read_text())
    except (FileNotFoundError, ValueError):
        return
    _run_kill(tuple(known.get("kill_argv", ())))  # named for the job, so that it is no stranger's
    pid = int(known["pid"])
    if known["started"] is not None and _started(pid) == known["started"]:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
