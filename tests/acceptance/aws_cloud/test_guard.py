"""The deadline on a machine of AWS: it powers itself off, which ends it, and no credential lies on it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from artifacts.host import make_host_key
from jobs import guard
from jobs.aws.account import Account
from jobs.backends.aws_cloud import AwsCloud
from jobs.backends.provider import Order
from tests.acceptance.aws_cloud.cloud import AwsWithMachines
from tests.acceptance.waiting import until

NAME = "launch-abc123-dpo-1-1-0011aabb-head"


def rent(aws: AwsWithMachines, monkeypatch: pytest.MonkeyPatch, allowed_s: float) -> None:
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)
    private, public = make_host_key()
    data = guard.user_data(
        instance_name=NAME, api="", key="", allowed_s=allowed_s, hold_s=None, host_key_private=private,
        host_key_public=public, authorized_keys=["ssh-ed25519 AAAA nobody"], job_folder="/home/ubuntu/launch/jobs/x",
    )  # fmt: skip
    account = Account(aws.environment())
    AwsCloud(account, "us-east-1", gpu="L40S").create(Order(NAME, "g6e.xlarge", "us-east-1", "", data))


def test_when_nobody_is_left_the_machine_ends_itself_and_aws_terminates_it(
    aws: AwsWithMachines, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.time()
    rent(aws, monkeypatch, allowed_s=25)
    until(lambda: not aws.instances(), "the end of the machine", seconds=120)
    (one,) = aws.terminated()
    assert one.instance_initiated_shutdown_behavior == "terminate"
    assert not aws.operations("TerminateInstances"), "nobody asked AWS for it"
    reading = aws.readings()[-1]
    assert reading.ended_at is not None
    assert reading.ended_at - began >= 25


def test_no_credential_of_the_account_lies_on_the_machine(
    aws: AwsWithMachines, monkeypatch: pytest.MonkeyPatch
) -> None:
    rent(aws, monkeypatch, allowed_s=3600)
    machine = aws.machine(NAME)
    machine.wait_until_up()
    secrets = [aws.environment()[name].encode() for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    disk: Path = machine.folder / "disk"
    held = [path for path in disk.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(held) > 20
    assert [path for path in held if any(secret in path.read_bytes() for secret in secrets)] == []
    assert '"key": ""' in machine.run(["cat", f"{guard.FOLDER}/config.json"])
    assert machine.run(["stat", "-c", "%a %U", f"{guard.FOLDER}/config.json"]).split() == ["600", "root"]
