"""What the tests of several folders stand on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # moto takes seconds to import
    from tests.acceptance.aws_cloud.service import FakeAws


@pytest.fixture(scope="module")
def one_aws() -> Iterator[FakeAws]:
    from tests.acceptance.aws_cloud.service import FakeAws

    with FakeAws() as made:
        yield made


@pytest.fixture
def aws(one_aws: FakeAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeAws:
    """Empty, with credentials for it and none of another cloud, in a HOME of the test's own."""
    one_aws.reset()
    for name in [name for name in os.environ if name.startswith(("AWS_", "LAUNCH_", "LAMBDA_"))]:
        monkeypatch.delenv(name)
    for name, value in one_aws.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    return one_aws
