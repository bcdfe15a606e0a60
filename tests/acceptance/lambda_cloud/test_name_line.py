"""`launch dpo --budget 5 --cloud lambda`, from the command to the ledger: real SkyPilot, real SSH, a fake Lambda."""

from __future__ import annotations

import json
from pathlib import Path

from jobs import pull
from tests.acceptance.lambda_cloud.cloud import Cloud
from tests.acceptance.lambda_cloud.renter import LIMIT_S, LINE, agrees_with_the_meter, driver_log
from tests.acceptance.program import Program


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
