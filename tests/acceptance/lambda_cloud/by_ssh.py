"""A driver inside the test, which hands the task to the machine by SSH where the real one goes through SkyPilot.

SkyPilot takes most of a minute to set a machine up. What this project does around it (create, guard, transfer, watch,
pull, terminate, ledger) is the same with either, and its faults are told here by the dozen.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

from jobs.backends import Backend
from jobs.backends.lambda_cloud import LambdaCloud
from jobs.backends.rented import RentedMachine
from jobs.clock import Clock, SystemClock
from jobs.driver_lock import take
from jobs.home import Home
from jobs.job import Job, Outcome
from jobs.lease import DriverWrites
from jobs.offer import PricedOffer
from jobs.store import Store
from jobs.walk import Walk
from tests.acceptance.lambda_cloud.cloud import Cloud
from tests.acceptance.lambda_cloud.renter import LINE, record_of
from tests.acceptance.program import Program
from tests.acceptance.waiting import until

_ONE_KEY = threading.Lock()
NEVER = "never"
"""What `before_launch` returns for a task that is taken and does not begin."""


class BySsh:
    """In SkyPilot's place: runs the task's own `run:` on the machine of that name, as SkyPilot's user would."""

    def __init__(self, folder: Path, store_id: str, cloud: Cloud, before_launch: Callable[[], object]) -> None:
        self._folder, self._store_id, self._cloud, self._before_launch = folder, store_id, cloud, before_launch
        self.ssh_key_name = f"launch-test-{store_id}"
        self.launched: list[str] = []

    def prepare(self, offers: object = ()) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)

    def key_pair(self) -> tuple[Path, str]:
        key = self._folder / "id"
        with _ONE_KEY:
            if not key.exists():
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        return key, key.with_suffix(".pub").read_text().strip()

    def instance_name(self, cluster: str) -> str:
        return f"{cluster}-0123abcd-head"

    def start(self) -> None: ...

    def launch(self, task: dict[str, Any], cluster: str) -> str:
        self.launched.append(cluster)
        request = f"request-{len(self.launched)}"
        if self._before_launch() is NEVER:
            return request
        machine = self._cloud.machine(self.instance_name(cluster))
        exports = "".join(f"export {key}={shlex.quote(str(value))}\n" for key, value in task["envs"].items())
        script = f"{exports}{task['run']}"
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        background = "cat > task.sh; nohup bash task.sh > task.out 2>&1 < /dev/null &"
        key, _ = self.key_pair()
        subprocess.run(
            ["ssh", "-i", key, *options, f"ubuntu@{machine.address}", background], input=script, text=True, check=True
        )
        return request

    def finished(self, request_id: str) -> bool:
        return True

    def job_state(self, cluster: str) -> str:
        return "PENDING"

    def forget(self, cluster: str) -> None: ...

    def close(self) -> None: ...


class HastyClock(SystemClock):
    """Runs `factor` times as fast, so that limits of minutes come in seconds."""

    def __init__(self, factor: float) -> None:
        self._factor, self._began, self._wall = factor, super().monotonic(), datetime.now(UTC)

    def now(self) -> datetime:
        return self._wall + timedelta(seconds=self.monotonic() - self._began)

    def monotonic(self) -> float:
        return self._began + (super().monotonic() - self._began) * self._factor

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds / self._factor)


class InTest:
    """One job, whose driver is a thread of the test."""

    def __init__(
        self, program: Program, cloud: Cloud, said_to: Path, *words: str, number: int = 1, clock: Clock | None = None
    ) -> None:
        self._said_to = said_to
        self._out: TextIO | None = None
        self._stdout = sys.stdout
        self.program, self.cloud, self.job_id, self.clock = program, cloud, f"dpo-{number}", clock
        self.before_launch: Callable[[], object] = lambda: None
        self.home = Home(program.home / "state")
        # The lock says that the job has a driver: the one that `launch dpo` starts ends at once, and this is it.
        self.home.job(self.job_id).mkdir(parents=True, exist_ok=True)
        lock = take(self.home, self.job_id)
        assert lock is not None
        self._lock = lock
        self.said = program.run(*LINE, *words)
        assert "has a driver already" in self.said.stderr, self.said.stderr
        self._pool = ThreadPoolExecutor(1)
        self.sky: BySsh | None = None

    def start(self) -> Future[Outcome]:
        self._end_what_is_said()
        self._out = sys.stdout = self._said_to.open("a", buffering=1)
        return self._pool.submit(self._drive)

    def run(self) -> Outcome:
        return self.start().result()

    def _drive(self) -> Outcome:
        with Store.open(self.home) as store:
            write = store.as_driver(self.job_id, store.take_lease(self.job_id))
            job = store.job(self.job_id)
            return Walk(self.home, store, job, write, backends=self._backend, clock=self.clock).run()

    def _backend(
        self, home: Home, store: Store, write: DriverWrites, job: Job, choice: PricedOffer, number: int, clock: Clock
    ) -> Backend:
        environ = dict(os.environ) | dict(self.program.environ)
        self.sky = BySsh(home.root / "by-ssh", store.store_id, self.cloud, lambda: self.before_launch())
        return RentedMachine(
            home, store, write, job, choice, number, clock, provider=LambdaCloud(environ), sky=self.sky
        )

    def machine(self) -> Any:
        """The one that it has now."""
        attempt = max(int(path.name.removeprefix("machine-")) for path in self.home.job(self.job_id).glob("machine-*"))
        record = record_of(self.program, self.job_id, attempt)
        assert record is not None
        return self.cloud.machine(record.instance_name)

    def state(self) -> str:
        return str(self.program.job(self.job_id)["state"])

    def until_state(self, *states: str, seconds: float = 120) -> None:
        """Until the job is in one of them, as the store has it."""
        with Store.open(self.home) as store:
            until(lambda: str(store.job(self.job_id).state) in states, f"{states}", seconds=seconds, poll_s=0.01)

    def until_step(self, step: int) -> None:
        metrics = self.home.work(self.job_id) / "metrics.jsonl"
        until(
            lambda: metrics.exists() and metrics.read_text().count('"kind":"train"') >= step,
            f"step {step}",
            seconds=120,
        )

    def close(self) -> None:
        self._pool.shutdown(wait=True)
        self._lock.release()
        self._end_what_is_said()

    def log(self) -> str:
        """Of the drivers of this test, which all say it to one standard output."""
        return self._said_to.read_text()

    def _end_what_is_said(self) -> None:
        """The file that the last driver wrote to: a job may have one driver after another."""
        if self._out is None:
            return
        if sys.stdout is self._out:
            sys.stdout = self._stdout
        self._out.close()
        self._out = None
