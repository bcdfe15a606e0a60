"""One fake cloud a test run; a test finds it empty."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.lambda_cloud.cloud import Cloud, cannot_run


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
