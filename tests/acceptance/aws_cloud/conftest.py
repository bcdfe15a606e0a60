"""One fake AWS a test run; a test finds it empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.aws_cloud.cloud import AwsWithMachines, make_renter
from tests.acceptance.lambda_cloud import stock_sky
from tests.acceptance.lambda_cloud.cloud import cannot_run
from tests.acceptance.processes import end_all
from tests.acceptance.program import Program


@pytest.fixture(scope="session")
def aws_of_this_run() -> Iterator[AwsWithMachines]:
    if why := cannot_run():
        pytest.skip(why)
    with AwsWithMachines() as made:
        yield made


@pytest.fixture
def aws(aws_of_this_run: AwsWithMachines) -> Iterator[AwsWithMachines]:
    aws_of_this_run.reset()
    yield aws_of_this_run
    aws_of_this_run.reset()


@pytest.fixture
def renter(aws: AwsWithMachines, tmp_path: Path, demo_project: Path, warm_state: Path) -> Iterator[Program]:
    """Who rents through SkyPilot. Whatever a failed test leaves is ended."""
    if why := stock_sky.cannot_run():
        pytest.skip(why)
    yield make_renter(aws, tmp_path, demo_project, warm_state)
    aws.reset()
    end_all(tmp_path)
