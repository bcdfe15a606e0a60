"""What a machine boots with: a document that cloud-init takes, and a `bootcmd` that arms the guard, run for real."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import guard
from jobs.lambda_http import LambdaUnreachable

KEY = "secret_launch_0123456789abcdef"
NAME = "launch-abc123-dpo-1-1-0011aabb-head"
PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5v\n-----END OPENSSH PRIVATE KEY-----\n"
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHostKey launch"
MINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMine me"


def text(**changed: Any) -> str:
    given: dict[str, Any] = {
        "instance_name": NAME, "api": "https://cloud.lambda.ai", "key": KEY, "allowed_s": 3600.0, "hold_s": 600.0,
        "host_key_private": PRIVATE, "host_key_public": PUBLIC, "authorized_keys": [MINE],
        "job_folder": "/home/ubuntu/launch/jobs/dpo-1",
    }  # fmt: skip
    return guard.user_data(**{**given, **changed})


def test_the_document_sets_the_host_key_who_may_enter_and_the_guard() -> None:
    written = text()
    assert written.startswith("#cloud-config\n")
    document = yaml.safe_load(written)
    assert document["ssh_deletekeys"] is True
    assert document["ssh_keys"] == {"ed25519_private": PRIVATE, "ed25519_public": PUBLIC}
    assert document["ssh_authorized_keys"] == [MINE]
    (command,) = document["bootcmd"]
    (config, _) = (base64.b64decode(each) for each in re.findall(r"echo (\S+) \| base64 -d", command))
    assert json.loads(config) == {
        "name": NAME, "api": "https://cloud.lambda.ai", "key": KEY, "allowed_s": 3600.0, "hold_s": 600.0,
        "job_folder": "/home/ubuntu/launch/jobs/dpo-1",
    }  # fmt: skip
    assert "ssh_authorized_keys" not in yaml.safe_load(text(authorized_keys=[]))


def test_it_is_small_and_a_machine_without_time_is_none() -> None:
    assert len(text()) < guard.LARGEST_USER_DATA * 0.75, "AWS takes 16 KiB"
    with pytest.raises(ValueError, match="user data of"):
        text(authorized_keys=[MINE] * 1000)
    for allowed_s in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="without time"):
            text(allowed_s=allowed_s)


@pytest.mark.skipif(shutil.which("cloud-init") is None, reason="cloud-init is not installed here")
def test_cloud_init_takes_the_document(tmp_path: Path) -> None:
    file = tmp_path / "user-data"
    file.write_text(text())
    command = ["cloud-init", "schema", "--config-file", str(file)]
    checked = subprocess.run(command, check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert "Valid cloud-config" in checked.stdout + checked.stderr


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare: a machine's")
def test_the_boot_command_arms_the_guard_and_a_second_boot_changes_nothing(tmp_path: Path) -> None:
    """In mount and process namespaces with empty /var/lib, /var/log and /run, so that this computer keeps its own."""
    (tmp_path / "boot").write_text(yaml.safe_load(text(api="http://127.0.0.1:9"))["bootcmd"][0])
    (tmp_path / "script").write_text(
        "set -e\n"
        "for each in /var/lib /var/log /run; do mount -t tmpfs tmpfs $each; done\n"
        "sh boot\n"
        "cp /run/launch-deadline first\n"
        "stat -c '%a %n' /var/lib/launch-guard /var/lib/launch-guard/* /run/launch-deadline\n"
        "touch -d '2000-01-01' /var/lib/launch-guard/config.json\n"
        "rm /run/launch-deadline\n"
        "sh boot\n"
        "stat -c '%Y' /var/lib/launch-guard/config.json\n"
        "limit=600\n"
        "until cat /run/launch-deadline > second && grep -q armed /var/log/launch-guard.log; do\n"
        "    limit=$((limit - 1)); [ $limit -gt 0 ]; sleep 0.1\n"
        "done 2> waited\n"
    )
    ran = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "script"],
        cwd=tmp_path, check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    *modes, age = ran.stdout.split("\n")[:-1]
    assert modes == [
        "700 /var/lib/launch-guard",
        "600 /var/lib/launch-guard/config.json",
        "700 /var/lib/launch-guard/deadline",
        "600 /var/lib/launch-guard/lock",
        "600 /var/lib/launch-guard/state.json",
        "644 /run/launch-deadline",
    ]
    assert int(age) < 1e9, "the configuration was written again"
    first, second = (int((tmp_path / name).read_text()) for name in ("first", "second"))
    assert abs(first - second) <= 1


def test_only_a_test_on_this_computer_has_another_address_on_the_machine() -> None:
    other = {"LAUNCH_LAMBDA_URL_ON_HOST": "http://10.77.0.1:8000"}
    assert guard.address_on_host(other) == "https://cloud.lambda.ai"
    assert guard.address_on_host({"LAUNCH_LAMBDA_URL": "https://cloud.example", **other}) == "https://cloud.example"
    loopback = {"LAUNCH_LAMBDA_URL": "http://127.0.0.1:8000"}
    assert guard.address_on_host(loopback) == "http://127.0.0.1:8000"
    assert guard.address_on_host({**loopback, **other}) == "http://10.77.0.1:8000"
    with pytest.raises(LambdaUnreachable):
        guard.address_on_host({"LAUNCH_LAMBDA_URL": "http://10.77.0.1:8000"})
