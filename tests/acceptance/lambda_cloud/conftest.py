"""One fake cloud a test run; a test finds it empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.lambda_cloud import stock_sky
from tests.acceptance.lambda_cloud.cloud import Cloud, cannot_run
from tests.acceptance.lambda_cloud.renter import make_renter
from tests.acceptance.processes import end_all
from tests.acceptance.program import Program


@pytest.fixture(scope="session")
def cloud_of_this_run() -> Iterator[Cloud]:
    """Made on first use, so that tests of the API alone need no root."""
    if why := cannot_run():
        pytest.skip(why)
    with Cloud() as made:
        yield made


@pytest.fixture
def cloud(cloud_of_this_run: Cloud) -> Iterator[Cloud]:
    """The cloud, with nothing running and nothing going wrong; emptied again afterwards."""
    cloud_of_this_run.reset()
    yield cloud_of_this_run
    cloud_of_this_run.reset()


@pytest.fixture
def renter(cloud: Cloud, tmp_path: Path, demo_project: Path, warm_state: Path) -> Iterator[Program]:
    """Who rents through SkyPilot. Whatever a failed test leaves is ended."""
    if why := stock_sky.cannot_run():
        pytest.skip(why)
    program = make_renter(cloud, tmp_path, demo_project, warm_state)
    yield program
    cloud.provider.reset()
    end_all(tmp_path)
