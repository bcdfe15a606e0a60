"""One plan over two clouds: what Lambda refuses is had from AWS, within one budget. And what ends a job on AWS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import LaunchError
from jobs import pull
from jobs.job import Outcome
from tests.acceptance.aws_cloud.by_ssh import InTestOfBoth
from tests.acceptance.aws_cloud.cloud import AwsWithMachines, make_renter
from tests.acceptance.aws_cloud.service import REGIONS
from tests.acceptance.lambda_cloud.by_ssh import HastyClock
from tests.acceptance.lambda_cloud.cloud import Cloud
from tests.acceptance.lambda_cloud.provider import CATALOGUE
from tests.acceptance.processes import end_all
from tests.acceptance.program import Program, edit_requirement, without_test_data
from tests.acceptance.waiting import until
from tests.catalogues import files

pytestmark = pytest.mark.filterwarnings("default")  # paramiko's and fabric's own

NO_CAPACITY = "instance-operations/launch/insufficient-capacity"
ON_AWS = ("--cloud", "aws", "--instance-type", "p3.2xlarge", "--region", "us-east-1")


@pytest.fixture(scope="module")
def lambda_of_this_module() -> Iterator[Cloud]:
    with Cloud() as made:
        yield made


@pytest.fixture
def cloud(lambda_of_this_module: Cloud) -> Iterator[Cloud]:
    lambda_of_this_module.reset()
    yield lambda_of_this_module
    lambda_of_this_module.reset()


@pytest.fixture
def program(
    cloud: Cloud, aws: AwsWithMachines, tmp_path: Path, demo_project: Path, warm_state: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Program]:  # fmt: skip
    made = make_renter(aws, tmp_path, demo_project, warm_state)
    files.write(made.home / ".sky/catalogs/v8/lambda/vms.csv", files.LAMBDA, files.lambda_rows())
    without_test_data(made.folder)
    made = replace(made, environ={**made.environ, **cloud.environment()})
    for name, value in made.variables().items():
        if name.startswith(("AWS_", "LAUNCH_", "LAMBDA_")) or name == "HOME":
            monkeypatch.setenv(name, value)  # the driver is in this process
    yield made
    end_all(tmp_path)


@pytest.fixture
def said_to(tmp_path: Path) -> Path:
    log = tmp_path / "drivers.log"
    log.touch()
    return log


def _only_on_a_gpu(project: Path) -> None:
    """This machine, which is one of the plan's at $0, does not do."""
    options = json.loads((project / "requirement.json").read_text())["options"]
    edit_requirement(project, ("options",), [option for option in options if option["device"] == "cuda"])


@pytest.mark.parametrize(
    ("answer", "code"), [(401, "global/invalid-api-key"), (400, "global/internal-error")], ids=["key", "no answer"]
)
def test_where_lambda_refuses_to_say_anything_the_machine_is_had_from_aws(
    program: Program, cloud: Cloud, aws: AwsWithMachines, said_to: Path, answer: int, code: str
) -> None:
    _only_on_a_gpu(program.folder)
    aws.products = {(kind, region): 3.20 for kind in ("p3.2xlarge", "g5.xlarge", "g6e.xlarge") for region in REGIONS}
    job = InTestOfBoth(program, cloud, aws, said_to, "--cloud", "any")
    cloud.faults.next("instance-types", answer=answer, code=code, times=10_000)  # since the plan
    try:
        assert job.run() is Outcome.SUCCEEDED, job.log()
    finally:
        job.close()
    refused, had = sorted(program.document("cost")["rows"], key=lambda row: row["attempt"])
    assert (refused["cloud"], refused["cost_usd"], had["cloud"]) == ("lambda", 0, "aws")
    assert cloud.api.creates() == []
    assert aws.instances() == []


def test_what_lambda_refuses_is_had_from_aws_within_one_budget(
    program: Program, cloud: Cloud, aws: AwsWithMachines, said_to: Path
) -> None:
    _only_on_a_gpu(program.folder)
    for sold in CATALOGUE:
        cloud.provider.set_type(sold.name, regions=("us-south-1",) if sold.name == "gpu_1x_a6000" else ())
    cloud.faults.next("launch", answer=400, code=NO_CAPACITY)
    aws.products = {("p3.2xlarge", "us-east-1"): 3.20, ("p3.2xlarge", "us-west-2"): 3.40}  # more than the catalogue's
    aws.products |= {(kind, region): 14.0 for kind in ("g5.xlarge", "g6e.xlarge") for region in REGIONS}
    job = InTestOfBoth(program, cloud, aws, said_to, "--cloud", "any")
    try:
        assert job.run() is Outcome.SUCCEEDED, job.log()
    finally:
        job.close()
    refused, had = sorted(program.document("cost")["rows"], key=lambda row: row["attempt"])
    assert (refused["cloud"], refused["cost_usd"], refused["settled"]) == ("lambda", 0, True)
    assert (had["cloud"], had["instance_type"], had["region"]) == ("aws", "p3.2xlarge", "us-east-1")
    assert 3.20 < had["price_per_hour"] < 3.25, "the price of now, with disk and address"
    assert 0 < had["cost_usd"] < 5
    assert pull.results_are_whole(Path(program.job("dpo-1")["results"]))
    assert aws.instances() == []
    assert cloud.provider.everything() == []
    reading = aws.readings()[-1]
    assert abs(had["billed_s"] - reading.billed_s) <= 10


def test_no_zone_of_any_region_has_room_and_all_that_was_tried_is_said(
    program: Program, cloud: Cloud, aws: AwsWithMachines, said_to: Path
) -> None:
    aws.fail("RunInstances", "InsufficientInstanceCapacity", status=500, times=50)
    job = InTestOfBoth(program, cloud, aws, said_to, "--cloud", "aws", "--instance-type", "p3.2xlarge")
    try:
        assert job.run() is Outcome.FAILED
    finally:
        job.close()
    error = program.job("dpo-1")["error"]
    assert "aws p3.2xlarge in us-east-1: no room for p3.2xlarge in any zone of us-east-1" in error
    assert "us-west-2b: InsufficientInstanceCapacity" in error
    rows = program.document("cost")["rows"]
    assert len(rows) == 2
    assert all(row["cost_usd"] == 0 and row["settled"] for row in rows)
    assert aws.instances() == []


def test_a_machine_that_somebody_ends_in_training_is_said_and_what_is_at_home_is_kept(
    program: Program, cloud: Cloud, aws: AwsWithMachines, said_to: Path
) -> None:
    job = InTestOfBoth(program, cloud, aws, said_to, *ON_AWS, "--max-steps", "400", "--eval-every", "5")
    driver = job.start()
    try:
        job.until_step(12)
        until(lambda: any((job.home.work("dpo-1") / "checkpoints").glob("checkpoint-*")), "a checkpoint", seconds=60)
        aws.instances()[0].terminate()
        assert driver.result(timeout=240) is Outcome.FAILED
    finally:
        job.close()
    said = program.job("dpo-1")
    assert "is gone, and nobody here has ended it" in said["error"]
    assert (Path(said["results"]) / "checkpoint" / "adapter_model.safetensors").is_file()
    (row,) = program.document("cost")["rows"]
    assert row["settled"]
    assert row["cost_usd"] > 0
    assert aws.instances() == []


def test_four_v100s_train_as_four_processes_with_the_pairs_of_one(
    program: Program, cloud: Cloud, aws: AwsWithMachines, said_to: Path
) -> None:
    options = json.loads((program.folder / "requirement.json").read_text())["options"]
    edit_requirement(
        program.folder, ("options",), [_on_four(options), *(each for each in options if each["device"] == "cpu")]
    )
    four = ("--cloud", "aws", "--instance-type", "p3.8xlarge", "--region", "us-east-1", "--budget", "20")
    job = InTestOfBoth(program, cloud, aws, said_to, *four, "--max-steps", "6")
    try:
        assert job.run() is Outcome.SUCCEEDED, job.log()
    finally:
        job.close()
    results = Path(program.job("dpo-1")["results"])
    assert json.loads((results / "run.json").read_text())["execution"]["processes"] == 4
    assert "on 4 processes" in (results / "logs" / "trainer.log").read_text()
    alone = program.good("dpo", "--yes", "--cloud", "local", "--max-steps", "6")
    assert "dpo-2 succeeded" in alone.stderr
    there, here = (losses(Path(program.job(name)["results"])) for name in ("dpo-1", "dpo-2"))
    assert there == pytest.approx(here, abs=1e-4)
    assert aws.instances() == []


def _on_four(options: list[dict[str, Any]]) -> dict[str, Any]:
    """The first option for a GPU, on four of them: a data-parallel process on each."""
    one = next(option for option in options if option["device"] == "cuda")
    return one | {"name": f"{one['name']}-x4", "gpus": 4}


def losses(results: Path) -> list[float]:
    lines = [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


SIGNED = ("DescribeInstances", "TerminateInstances", "GetCallerIdentity")


def test_a_session_that_expires_in_training_keeps_the_results_and_says_what_may_still_run(
    program: Program, cloud: Cloud, aws: AwsWithMachines, said_to: Path
) -> None:
    job = InTestOfBoth(program, cloud, aws, said_to, *ON_AWS, "--max-steps", "60", clock=HastyClock(20))
    driver = job.start()
    try:
        job.until_step(12)
        for operation in SIGNED:
            aws.fail(operation, "ExpiredToken", status=403, times=100_000)
        with pytest.raises(LaunchError):
            driver.result(timeout=240)
        row = program.job("dpo-1")
        assert pull.results_are_whole(Path(row["results"]))
        (attention,) = row["attention"]
        assert (attention["code"], attention["costing"]) == ("teardown_unconfirmed", True)
        assert "The session with AWS has expired" in attention["message"]
        assert len(aws.instances()) == 1
        aws.faults.clear()  # somebody signs in
        assert job.run() is Outcome.SUCCEEDED
    finally:
        job.close()
    row = program.job("dpo-1")
    assert (row["outcome"], row["attention"]) == ("succeeded", [])
    (ledger,) = program.document("cost")["rows"]
    assert ledger["settled"]
    assert aws.instances() == []
