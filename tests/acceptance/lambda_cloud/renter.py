"""A person with the sample project, a key and a catalogue, who rents at the fake cloud; and what must hold for them."""

from __future__ import annotations

import shutil
from pathlib import Path

from jobs.backends.machine_record import MachineRecord
from tests.acceptance.lambda_cloud.cloud import Cloud
from tests.acceptance.program import Program, copy_small
from tests.catalogues import files

LINE = ("dpo", "--budget", "5", "--cloud", "lambda", "--yes", "--max-steps", "12", "--no-container")
LIMIT_S = 600.0


def make_renter(cloud: Cloud, folder: Path, demo: Path, state: Path | None = None) -> Program:
    """With a HOME and a state folder of their own in `folder`; the state is a copy of `state`, else a new one."""
    if state is not None:
        shutil.copytree(state, folder / "home/state")
    files.write(folder / "home/.sky/catalogs/v8/lambda/vms.csv", files.LAMBDA, files.lambda_rows())
    copy_small(demo, folder / "project")
    # A machine of this cloud has no GPU, whatever it is sold as.
    return Program(folder / "home", folder / "project", cloud.environment() | {"LAUNCH_RENTED_DEVICE": "cpu"})


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
    assert sum(row["cost_usd"] for row in rows) <= 5.0
