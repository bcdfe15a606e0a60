"""Jobs of this machine with a trainer in miniature, and the two databases."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from jobs import driver
from jobs.home import Home
from jobs.job import Job, JobSpec, State
from jobs.lock import FileLock
from jobs.offer import Chosen, Offer, Plan, PricedOffer
from jobs.store import Store
from train.config import Data, Method, ModelRef, RunConfig
from train.requirement import Requirement

FAKE = Path(__file__).with_name("fake_trainer.py")
POSTGRES = Path("/usr/lib/postgresql/15/bin")
LIMIT_S = 40


def requirement() -> Requirement:
    document = {
        "schema": "hardware-requirement/1",
        "workload": {
            "model": {"base": {"path": "/models/base"}},
            "data": {"train_path": "/data/train.jsonl", "train_examples": 3},
            "training": {"epochs": 1, "batch_size": 1, "max_length": 64},
        },
        "options": [{"name": "cpu", "device": "cpu", "gpus": 0}],
    }
    return Requirement.model_validate(document)


def make_spec(home: Home, job_id: str, folder: Path, *, method: Method = "dpo", **changes: Any) -> JobSpec:
    """A job over files in `folder`, which is made; `name` and others may be given."""
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / "base"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text("{}")
    (folder / "train.jsonl").write_text("{}\n")
    fake = folder / "python"
    fake.write_text(f"#!{sys.executable}\n{FAKE.read_text()}")
    fake.chmod(0o755)
    needed = requirement()
    offer = Offer(cloud="local", instance_type="cpu-2")
    priced = PricedOffer(
        offer=offer, option=needed.options[0], hours_expected=None, hours_affordable=None, cost_expected=0.0,
        cost_worst=0.0, basis="none", fits=True, steps=4,
    )  # fmt: skip
    plan = Plan(
        requirement="x", budget_usd=None, budget_needed_usd=None, steps=4, steps_total=4, partial=False,
        offers=(priced,), chosen=Chosen(offer=0, reason="only"),
    )  # fmt: skip
    run = RunConfig(
        job=job_id,
        method=method,
        model=ModelRef(base=str(base)),
        data=Data(train=folder / "train.jsonl"),
        output_dir=home.work(job_id),
        reference_cache=home.reference_cache,
    )
    fields: dict[str, Any] = {
        "id": job_id, "name": job_id, "project": folder, "results": folder / "runs" / job_id, "requirement": needed,
        "plan": plan, "run": run, "steps": 4, "train_python": fake,
    }  # fmt: skip
    return JobSpec(**fields | changes)


def wait_until(what: Callable[[], Any], said: str) -> Any:
    """The first true value of `what`, within the limit."""
    give_up = time.monotonic() + LIMIT_S
    while time.monotonic() < give_up:
        value = what()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited {LIMIT_S} s for {said}")


class Bench:
    """One store, one folder, and the drivers that a test starts; all are ended with it."""

    def __init__(self, home: Home, store: Store, folder: Path) -> None:
        self.home, self.store, self.folder = home, store, folder
        self.pids: list[int] = []

    def job(self, behaviour: dict[str, Any], *, method: Method = "dpo", **changes: Any) -> Job:
        job_id = self.store.next_job_id(method)
        spec = make_spec(self.home, job_id, self.folder, method=method, **changes)
        self.behave({"steps": 4} | behaviour)
        return self.store.create(spec, now=datetime.now(UTC))

    def behave(self, behaviour: dict[str, Any]) -> None:
        (self.folder / "behaviour.json").write_text(json.dumps({"steps": 4} | behaviour))

    def spawn(self, job: Job) -> int:
        pid = driver.spawn(self.home, job.id)
        self.pids.append(pid)
        return pid

    def until(self, job: Job, what: Callable[[Job], Any], said: str) -> Job:
        wait_until(lambda: what(self.store.job(job.id)), f"{said}; driver.log: {self.log(job)}")
        return self.store.job(job.id)

    def at_step(self, job: Job, step: int) -> Job:
        """Until the store shows the step; the trainer holds there."""
        return self.until(job, lambda now: now.progress and now.progress.step == step, f"step {step}")

    def finished(self, job: Job) -> Job:
        """Until the driver has gone."""
        lock = FileLock(self.home.job(job.id) / "driver.lock")
        assert lock.acquire(LIMIT_S), f"the driver does not end: {self.log(job)}"
        lock.release()
        return self.store.job(job.id)

    def run(self, job: Job) -> Job:
        self.spawn(job)
        return self.finished(job)

    def kill(self, pid: int, job: Job) -> Job:
        os.kill(pid, signal.SIGKILL)
        return self.finished(job)

    def log(self, job: Job) -> str:
        log = self.home.logs(job.id) / "driver.log"
        return log.read_text() if log.exists() else "none"

    def weights(self, job: Job) -> bytes:
        return (job.spec.results / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    home = Home(tmp_path / "home")
    home.root.mkdir()
    with Store.open(home) as store:
        bench = Bench(home, store, tmp_path / "a 'project'")
        yield bench
        for job in store.jobs():
            if job.state is not State.DONE and driver.alive(home, job.id):
                store.request_cancel(job.id, "now")
                bench.finished(job)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server of this session's own, on a socket in a temporary folder."""
    if not POSTGRES.is_dir():
        pytest.skip(f"no PostgreSQL server in {POSTGRES}")
    # A socket's path may have 107 characters, and the server refuses root.
    folder = Path(subprocess.check_output(["mktemp", "-d", "/tmp/launch-pg-XXXXXX"], text=True).strip())
    as_user: list[str] = []
    if os.getuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data = folder / "data"
    subprocess.run([*as_user, POSTGRES / "initdb", "-D", data, "-U", "launch", "-A", "trust", "-N"], check=True,
                   capture_output=True, cwd=folder)  # fmt: skip
    options = f"-k {folder} -c listen_addresses= -c fsync=off"
    control = [*as_user, POSTGRES / "pg_ctl", "-D", data, "-w", "-l", folder / "log"]
    subprocess.run([*control, "-o", options, "start"], check=True, stdout=subprocess.DEVNULL, cwd=folder)
    try:
        yield f"postgresql+psycopg://launch@/postgres?host={folder}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, cwd=folder)
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    """A home on each database, empty."""
    if request.param == "sqlite":
        yield Home(tmp_path)
        return
    import sqlalchemy

    url = request.getfixturevalue("postgres")
    name = f"t{time.monotonic_ns()}"
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    yield Home(tmp_path, url.replace("/postgres?", f"/{name}?"))
