"""`launch dpo --budget 5 --cloud lambda`, from the command to the ledger: real SkyPilot, real SSH, a fake Lambda."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import pull
from jobs.backends.machine_record import MachineRecord
from tests.acceptance.lambda_cloud import stock_sky
from tests.acceptance.lambda_cloud.cloud import Cloud
from tests.acceptance.processes import end_all, processes
from tests.acceptance.program import Program, copy_small
from tests.acceptance.waiting import until
from tests.catalogues import files

LINE = ("dpo", "--budget", "5", "--cloud", "lambda", "--yes", "--max-steps", "12", "--no-container")
LIMIT_S = 600


@pytest.fixture
def renter(cloud: Cloud, tmp_path: Path, demo_project: Path) -> Iterator[Program]:
    """The sample project, with a state folder and a HOME of its own, a key and a catalogue."""
    if why := stock_sky.cannot_run():
        pytest.skip(why)
    home = tmp_path / "home"
    files.write(home / ".sky/catalogs/v8/lambda/vms.csv", files.LAMBDA, files.lambda_rows())
    copy_small(demo_project, tmp_path / "project")
    # A machine of this cloud has no GPU, whatever it is sold as.
    environ = cloud.environment() | {"LAUNCH_RENTED_DEVICE": "cpu"}
    program = Program(home, tmp_path / "project", environ)
    yield program
    for job in program.document("status")["jobs"]:
        if job["state"] != "done":
            program.run("cancel", job["id"], "--now")
    end_all(tmp_path)


def record_of(program: Program, job_id: str = "dpo-1", attempt: int = 1) -> MachineRecord | None:
    file = program.state(job_id) / f"machine-{attempt}" / "record.json"
    return MachineRecord.model_validate_json(file.read_bytes()) if file.exists() else None


def driver_log(program: Program, job_id: str = "dpo-1") -> str:
    log = program.state(job_id) / "logs" / "driver.log"
    return log.read_text() if log.exists() else "no driver.log"


def agrees_with_the_meter(program: Program, cloud: Cloud) -> None:
    """Each row of the ledger, within one billing unit; and nothing runs."""
    assert cloud.provider.everything() == [], "something is left running"
    rows = program.document("cost")["rows"]
    billed = {reading.id: reading.billed_s for reading in cloud.meter.read()}
    for row in rows:
        assert row["settled"]
        assert abs(row["billed_s"] - billed.get(row["instance_id"], 0)) <= row["billing_unit_s"], row


def test_the_name_line_works_from_command_to_ledger(renter: Program, cloud: Cloud) -> None:
    done = renter.run(*LINE, timeout_s=LIMIT_S)
    assert done.returncode == 0, done.stderr + driver_log(renter)
    row = renter.job("dpo-1")
    assert (row["outcome"], row["cloud"], row["step"]) == ("succeeded", "lambda", 12)
    results = Path(row["results"])
    names = {path.name for path in results.iterdir()}
    assert {"adapter", "adapter_last", "checkpoint", "metrics.jsonl", "eval.json", "task.yaml", "end.json"} <= names
    assert pull.results_are_whole(results)
    assert len(cloud.api.creates()) == 1
    (ledger,) = renter.document("cost")["rows"]
    assert ledger["cost_usd"] > 0
    agrees_with_the_meter(renter, cloud)
    # No secret is in what stays: argv and logs hold none, nor does anything in the results or the database.
    key = cloud.key.encode()
    kept = [path for root in (results, renter.home / "state") for path in root.rglob("*") if path.is_file()]
    holders = {path.relative_to(renter.home.parent) for path in kept if key in path.read_bytes()}
    assert holders <= {Path("home/state/skypilot/.lambda_cloud/lambda_keys")}


def test_a_driver_killed_in_training_is_followed_by_one_that_takes_the_machine_over(
    renter: Program, cloud: Cloud
) -> None:
    watching = renter.start(*LINE)
    until(lambda: (renter.state("dpo-1") / "work/metrics.jsonl").exists(), "the first step", seconds=LIMIT_S)
    for process in processes(renter, "jobs.driver"):
        process.kill()
    watching.communicate(timeout=60)
    renter.document("status")  # starts a driver
    until(lambda: renter.job("dpo-1")["state"] == "done", "the end", seconds=LIMIT_S, poll_s=1)
    row = renter.job("dpo-1")
    assert row["outcome"] == "succeeded", driver_log(renter)
    assert len(cloud.api.creates()) == 1
    assert pull.results_are_whole(Path(row["results"]))
    agrees_with_the_meter(renter, cloud)


def test_no_capacity_anywhere_is_said_with_what_was_tried(renter: Program, cloud: Cloud) -> None:
    cloud.faults.next("launch", answer=400, code="instance-operations/launch/insufficient-capacity", times=50)
    done = renter.run(*LINE, timeout_s=LIMIT_S)
    assert done.returncode == 3, done.stderr + driver_log(renter)
    assert "us-east-1" in done.stderr
    rows = renter.document("cost")["rows"]
    assert rows
    assert all(row["cost_usd"] == 0 for row in rows)
    agrees_with_the_meter(renter, cloud)


def test_a_wrong_key_is_said_before_anything_is_made(renter: Program, cloud: Cloud) -> None:
    cloud.provider.revoke(cloud.key)
    done = renter.run(*LINE, timeout_s=LIMIT_S)
    assert done.returncode == 4
    assert "does not accept the API key" in done.stderr
    assert json.loads(renter.good("cost", "--json").stdout)["rows"] == []
