"""A machine's first boot and its second, with real cloud-init and a real sshd: who may enter, and when it ends."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from jobs import guard
from tests.acceptance.lambda_cloud.cloud import Cloud
from tests.acceptance.waiting import until

NAME = "launch-abc123-dpo-1-1-0011aabb-head"
ALLOWED_S = 45.0


@dataclass
class Visitor:
    """Logs in as ubuntu, to the host key that was made beforehand or not at all."""

    folder: Path
    address: str

    def ssh(self, command: str) -> subprocess.CompletedProcess[str]:
        options = [
            "BatchMode=yes", "StrictHostKeyChecking=yes", f"UserKnownHostsFile={self.folder}/known_hosts",
            "GlobalKnownHostsFile=/dev/null", "ConnectTimeout=20", "IdentitiesOnly=yes",
        ]  # fmt: skip
        words = ["ssh", "-F", "none", "-i", str(self.folder / "me"), *(w for o in options for w in ("-o", o))]
        return subprocess.run(
            [*words, f"ubuntu@{self.address}", command], check=False, capture_output=True, text=True, timeout=120
        )

    def first_answer(self, command: str) -> str:
        """What the first command that gets in says; every one before it found no sshd at all."""
        said: list[str] = []

        def answered() -> bool:
            done = self.ssh(command)
            if done.returncode == 0:
                said.append(done.stdout)
                return True
            assert done.returncode == 255, f"it could enter, and then: {done.stderr}"
            assert any(each in done.stderr for each in ("refused", "timed out", "No route")), done.stderr
            return False

        until(answered, "an sshd", seconds=120)
        return said[0]


def test_from_the_first_connection_on_the_host_is_ours_and_guarded_and_it_ends_on_time_after_a_reboot_too(
    cloud: Cloud, tmp_path: Path
) -> None:
    for name in ("host", "me"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", tmp_path / name], check=True)
    host_key, me = ((tmp_path / f"{name}.pub").read_text().strip() for name in ("host", "me"))
    account = cloud.provider.account(cloud.key)
    cloud.provider.add_ssh_key(account, {"name": "me", "public_key": me})
    body: dict[str, object] = {
        "region_name": "us-east-1", "instance_type_name": "gpu_1x_a10", "ssh_key_names": ["me"],
    }  # fmt: skip
    (other,) = cloud.provider.launch(account, body | {"name": f"{NAME}-2"})
    user_data = guard.user_data(
        instance_name=NAME,
        api=cloud.url_on_host,
        key=cloud.key,
        allowed_s=ALLOWED_S,
        hold_s=None,
        host_key_private=(tmp_path / "host").read_text(),
        host_key_public=host_key,
        authorized_keys=(),
        job_folder="/home/ubuntu/launch/jobs/dpo-1",
    )
    start, start_wall = time.monotonic(), time.time()
    cloud.provider.launch(account, body | {"name": NAME, "user_data": user_data})
    machine = cloud.machine(NAME)
    (tmp_path / "known_hosts").write_text(f"{machine.address} {host_key}\n")
    visitor = Visitor(tmp_path, machine.address)
    deadline = int(visitor.first_answer("cat /run/launch-deadline"))
    assert start_wall + ALLOWED_S - 1 <= deadline <= time.time() + ALLOWED_S

    for refused in ("cat /var/lib/launch-guard/config.json", "ls /var/lib/launch-guard"):
        assert "Permission denied" in visitor.ssh(refused).stderr
    found = visitor.ssh(f"grep -rlsE '{cloud.key}' /etc /run /tmp /var/log /home; pgrep -f '[d]eadline run'").stdout
    assert "/" not in found, f"ubuntu finds the key in {found}"
    assert "not permitted" in visitor.ssh(f"kill -9 {found.split()[-1]}").stderr
    assert "armed" in visitor.ssh("cat /var/log/launch-guard.log").stdout

    machine.reboot()
    assert abs(int(visitor.first_answer("cat /run/launch-deadline")) - deadline) <= 1

    until(lambda: NAME not in [each.name for each in cloud.provider.everything()], "its end", seconds=180)
    assert time.monotonic() - start >= ALLOWED_S
    assert [each.id for each in cloud.provider.everything()] == [other]
