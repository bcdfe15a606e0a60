"""What is said before anything is recorded, where AWS would not rent: exit 4, what to do, and nothing was made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.acceptance.aws_cloud.cloud import make_renter
from tests.acceptance.aws_cloud.service import FakeAws
from tests.acceptance.processes import end_all
from tests.acceptance.program import Program

LINE = ("dpo", "--budget", "5", "--cloud", "aws", "--instance-type", "g6e.xlarge", "--yes", "--max-steps", "12")


@pytest.fixture(scope="module")
def one_aws() -> Iterator[FakeAws]:
    with FakeAws() as made:
        yield made


@pytest.fixture
def aws(one_aws: FakeAws) -> FakeAws:
    one_aws.reset()
    return one_aws


@pytest.fixture
def renter(aws: FakeAws, tmp_path: Path, demo_project: Path, warm_state: Path) -> Iterator[Program]:
    yield make_renter(aws, tmp_path, demo_project, warm_state)
    end_all(tmp_path)


def refused(renter: Program, aws: FakeAws, *, code: int = 4) -> str:
    done = renter.run(*LINE)
    assert done.returncode == code, done.stderr
    assert json.loads(renter.good("cost", "--json").stdout)["rows"] == []
    assert aws.instances() == []
    return done.stderr


def test_without_credentials_nothing_is_rented(renter: Program, aws: FakeAws) -> None:
    without = {name: value for name, value in renter.environ.items() if name != "AWS_ACCESS_KEY_ID"}
    said = refused(replace(renter, environ=without), aws)
    assert "There are no credentials of AWS here" in said
    assert "aws configure" in said


def test_a_permission_that_is_missing_is_named_before_the_question(renter: Program, aws: FakeAws) -> None:
    aws.fail("RunInstances", "UnauthorizedOperation", status=403, times=9)
    assert "may not call ec2:RunInstances" in refused(renter, aws)


def test_an_expired_session_is_said(renter: Program, aws: FakeAws) -> None:
    aws.fail("GetCallerIdentity", "ExpiredToken", status=403, times=9)
    said = refused(renter, aws)
    assert "The session with AWS has expired" in said
    assert "aws sso login" in said


def test_a_quota_of_zero_is_said_before_the_question_with_the_one_to_raise(renter: Program, aws: FakeAws) -> None:
    aws.quotas = dict.fromkeys(aws.quotas, 0.0)
    said = refused(renter, aws, code=3)
    assert "AWS would refuse every machine that fits." in said
    assert "aws g6e.xlarge in us-east-1: the quota Running On-Demand G and VT instances (L-DB2E81BA)" in said
    assert "is 0 vCPUs, and g6e.xlarge has 4" in said
    assert "https://us-west-2.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/L-DB2E81BA" in said
    assert "Start it?" not in said


def test_what_cannot_be_had_is_said_with_the_question_where_another_can(renter: Program, aws: FakeAws) -> None:
    aws.quotas["L-DB2E81BA"] = 0.0
    done = renter.run("dpo", "--budget", "5", "--cloud", "aws", "--max-steps", "12")
    assert done.returncode == 2, "nobody can be asked here"
    assert "aws g6e.xlarge in us-east-1: the quota Running On-Demand G and VT instances (L-DB2E81BA)" in done.stderr
    assert "The next of the plan is tried in its place." in done.stderr
    assert aws.instances() == []
