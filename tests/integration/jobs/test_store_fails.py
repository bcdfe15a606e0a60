"""A database that fails after it was opened: said with its reason and a remedy, and nothing of the job is lost."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from artifacts.errors import StoreFailed, UsageProblem
from jobs import database, driver
from jobs.backends.machine_record import MachineRecord, RecordFile
from jobs.home import Home
from jobs.job import Outcome, State
from jobs.store import Store

IMPATIENT = """
import sys
from jobs import database, driver
database.BUSY_TIMEOUT_S = 0.2
sys.exit(driver.main())
"""


def locked(file: Path) -> sqlite3.Connection:
    """Another program that writes, and does not come to an end."""
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return other


def test_a_lock_that_is_kept_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.1)
    home = Home(tmp_path)
    with Store.open(home) as store:
        other = locked(home.database_file)
        with pytest.raises(StoreFailed, match="kept locked") as caught:
            store.next_job_id()
        other.close()
        message = str(caught.value)
        for words in ("database is locked", "Nothing is costing money.", "fuser", "then: launch status"):
            assert words in message
        assert store.next_job_id() == "dpo-1"


@pytest.mark.parametrize(("changed", "costs"), [
    ({"create_called_at": datetime.now(UTC)}, True),
    ({}, False),
    ({"create_called_at": datetime.now(UTC), "create_refused": "no capacity"}, False),
    ({"create_called_at": datetime.now(UTC), "gone_at": datetime.now(UTC)}, False),
])  # fmt: skip
def test_a_machine_that_may_be_rented_is_not_said_to_cost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], costs: bool
):
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.1)
    home = Home(tmp_path)
    machine = RecordFile(home.job("dpo-1") / "machine-1")
    machine.write(MachineRecord(
        cluster="launch-abc-dpo-1-1", instance_name="launch-abc-dpo-1-1-head", host_key="", price_per_hour=1.0,
        charged_s=60.0, on_host_s=50.0, reserve_s=0.0,
    ).model_copy(update=changed))  # fmt: skip
    with Store.open(home) as store:
        other = locked(home.database_file)
        with pytest.raises(StoreFailed) as caught:
            store.next_job_id()
        other.close()
    message = str(caught.value)
    assert ("launch-abc-dpo-1-1-head may be costing money" in message) is costs
    assert ("Nothing is costing money." in message) is not costs


@pytest.fixture
def full_disk(tmp_path: Path):
    """A file system without a free page, and a store on it that had room. Needs root (a mount)."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small file system needs root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    with (folder / "ballast").open("ab", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError:
            pass


def write_until_it_fails(store: Store) -> None:
    for _ in range(1000):  # SQLite's log has some room of its own at first
        store.next_job_id()


def test_a_full_disk_is_said_so_and_the_database_is_not_to_be_moved_away(full_disk: Path):
    home = Home(full_disk)
    store = Store.open(home)
    fill(full_disk)
    with pytest.raises(StoreFailed, match="is full") as caught:
        write_until_it_fails(store)
    message = str(caught.value)
    for words in (str(home.database_file), "make room", "Nothing is costing money."):
        assert words in message
    assert "move it away" not in message
    (full_disk / "ballast").unlink()
    store.close()
    fill(full_disk)
    with pytest.raises(UsageProblem, match="is full") as at_opening:
        Store.open(home)
    assert "make room" in str(at_opening.value)
    assert "move it away" not in str(at_opening.value)
    (full_disk / "ballast").unlink()
    with Store.open(home) as again:
        assert again.store_id == store.store_id
        again.next_job_id()


def test_a_server_that_goes_away_is_named(tmp_path: Path, postgres: str):
    admin = sqlalchemy.create_engine(postgres, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE goes_away")
        with Store.open(Home(tmp_path, postgres.replace("/postgres?", "/goes_away?"))) as store:
            connection.exec_driver_sql("DROP DATABASE goes_away WITH (FORCE)")
            with pytest.raises(StoreFailed) as caught:
                store.jobs()
    admin.dispose()
    for words in ("goes_away", "cannot be used", "does not exist", "LAUNCH_DATABASE_URL", "then: launch status"):
        assert words in str(caught.value)


def test_a_driver_that_cannot_record_ends_its_trainer_well_says_why_and_resume_goes_on(bench):
    reference = bench.weights(bench.run(bench.job({})))
    job = bench.job({"hold_at": 2})
    bench.home.job(job.id).mkdir(parents=True)
    root = Path(driver.__file__).parents[1]
    environ = os.environ | {"LAUNCH_HOME": str(bench.home.root), "PYTHONPATH": str(root), "PYTHONSAFEPATH": "1"}
    subprocess.run([sys.executable, "-c", IMPATIENT, "--detach", job.id], env=environ, check=True, timeout=60)
    bench.at_step(job, 2)
    other = locked(bench.home.database_file)
    left = bench.finished(job)
    other.close()
    assert (left.state, left.outcome) == (State.TRAINING, None)
    log = bench.log(job)
    for words in ("kept locked by another program", "database is locked", f"launch resume {job.id} takes it up"):
        assert words in log
    assert "Traceback" not in log
    assert "training failed" not in log, "it is not the training that failed"
    assert '"signal"' in (bench.home.work(job.id) / "end.json").read_text()

    bench.behave({})
    done = bench.run(left)
    assert done.outcome is Outcome.SUCCEEDED, bench.log(job)
    assert bench.weights(done) == reference
