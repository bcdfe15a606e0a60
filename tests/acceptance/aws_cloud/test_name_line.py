"""`launch dpo --budget 5 --cloud aws`, from the command to the ledger: real SkyPilot, real SSH, moto in AWS's place."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from jobs import pull
from tests.acceptance.aws_cloud.cloud import LIMIT_S, AwsWithMachines
from tests.acceptance.lambda_cloud.renter import driver_log
from tests.acceptance.program import Program


@pytest.mark.parametrize("kind", ["g6e.xlarge", "p3.2xlarge"])
def test_a_job_on_aws_succeeds_and_nothing_is_left(renter: Program, aws: AwsWithMachines, kind: str) -> None:
    line = ("dpo", "--budget", "5", "--cloud", "aws", "--instance-type", kind, "--yes", "--max-steps", "12")
    done = renter.run(*line, "--no-container", timeout_s=LIMIT_S)
    assert done.returncode == 0, done.stderr + driver_log(renter)
    row = renter.job("dpo-1")
    assert (row["outcome"], row["cloud"], row["instance_type"], row["step"]) == ("succeeded", "aws", kind, 12)
    results = Path(row["results"])
    assert pull.results_are_whole(results)
    task = yaml.safe_load((results / "task.yaml").read_text())
    assert task["resources"]["infra"] == "aws/us-east-1"
    assert aws.instances() == [], "something is left running"
    (reading,) = aws.readings()[-1:]
    (ledger,) = renter.document("cost")["rows"]
    assert ledger["instance_id"] == reading.id
    assert abs(ledger["billed_s"] - reading.billed_s) <= 10  # a look at AWS's list each 2 s, and a slow machine
    assert 0 < ledger["cost_usd"] < 5
