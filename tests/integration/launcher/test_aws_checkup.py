"""What `launch doctor` and `launch reap` say of AWS, against moto's server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.aws.account import Account
from jobs.backends.aws_cloud import AwsCloud
from jobs.backends.provider import Order
from jobs.home import Home
from jobs.store import Store
from launcher.aws_checkup import look
from tests.acceptance.aws_cloud.service import FakeAws


@pytest.fixture
def aws(aws: FakeAws) -> FakeAws:
    aws.products = {("g5.xlarge", "us-east-1"): 1.006}
    return aws


def test_an_account_that_can_rent_is_good(aws: FakeAws) -> None:
    level, found, remedy = look(os.environ)
    assert (level, remedy) == ("good", None)
    assert found.startswith("account 123456789012 is known; quotas in us-east-1: G 64 vCPUs, P 96 vCPUs; prices")


def test_without_credentials_it_says_how_to_get_some(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    level, found, remedy = look(os.environ)
    assert (level, "nothing is rented" in found, "aws configure" in str(remedy)) == ("note", True, True)
    assert aws.asked == []


def test_a_new_accounts_quota_of_zero_says_where_it_is_raised(aws: FakeAws) -> None:
    aws.quotas["L-DB2E81BA"] = 0.0
    level, found, remedy = look(os.environ)
    assert level == "note"
    assert "G 0 vCPUs" in found
    assert "raise Running On-Demand G and VT instances (L-DB2E81BA) at https://us-east-1.console" in str(remedy)


@pytest.mark.parametrize(
    ("operation", "code", "says", "remedy"),
    [
        ("GetCallerIdentity", "ExpiredToken", "has expired", "aws sso login"),
        ("GetCallerIdentity", "InvalidClientTokenId", "does not accept", "aws configure"),
        ("GetCallerIdentity", "RequestTimeTooSkewed", "clock is off", "timedatectl"),
        ("DescribeRegions", "UnauthorizedOperation", "may not call ec2:DescribeRegions", "ec2:DescribeRegions"),
    ],
)
def test_what_is_refused_is_broken_with_its_remedy(
    aws: FakeAws, operation: str, code: str, says: str, remedy: str
) -> None:
    aws.fail(operation, code, status=403, times=9)
    level, found, step = look(os.environ)
    assert level == "broken"
    assert says in found
    assert remedy in str(step)


def test_a_region_that_is_not_enabled_is_named(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "xx-nowhere-1")
    level, found, remedy = look(os.environ)
    assert (level, "has not enabled xx-nowhere-1" in found) == ("broken", True)
    assert "enable-region" in str(remedy)


@pytest.mark.parametrize(
    ("operation", "action"),
    [
        ("GetServiceQuota", "servicequotas:GetServiceQuota"),
        ("GetProducts", "pricing:GetProducts"),
        ("DescribeVpcs", "ec2:DescribeVpcs"),
    ],
)
def test_a_permission_that_is_missing_is_a_note_that_names_it(aws: FakeAws, operation: str, action: str) -> None:
    aws.fail(operation, "AccessDeniedException", status=400, times=9)
    level, found, remedy = look(os.environ)
    assert level == "note"
    assert action in found
    assert action in str(remedy)


# ---- launch reap ----


def launch(aws: FakeAws, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": os.environ["PATH"], "HOME": str(folder), "LAUNCH_HOME": str(folder / "state"),
                 "PYTHONSAFEPATH": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "launcher", *words], cwd=folder, env=variables | aws.environment(), check=False,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def test_reap_ends_this_stores_machines_in_every_region_and_no_strangers(aws: FakeAws, tmp_path: Path) -> None:
    home = Home(tmp_path / "state")
    home.root.mkdir()
    with Store.open(home) as store:
        mine = f"launch-{store.store_id}-dpo-9-1-0011aabb-head"
    made: dict[str, str] = {}
    for region, name in (("us-west-2", mine), ("us-east-1", "launch-zzzzzz-dpo-1-1-0011aabb-head")):
        order = Order(name, "g6e.xlarge", region, "", "#cloud-config\n")
        made[name] = AwsCloud(Account(os.environ), region, gpu="L40S").create(order)
    done = launch(aws, tmp_path, "reap", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)["machines"]
    assert {(row["instance_id"], row["claim"], row["ended"], row["cloud"]) for row in rows} == {
        (made[mine], "over", True, "aws"), (made["launch-zzzzzz-dpo-1-1-0011aabb-head"], "stranger", False, "aws"),
    }  # fmt: skip
    assert [one.id for one in aws.instances()] == [made["launch-zzzzzz-dpo-1-1-0011aabb-head"]]
