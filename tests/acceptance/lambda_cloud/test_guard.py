"""A machine's first boot and its second, with real cloud-init and a real sshd: who may enter, and when it ends.

The machine is a copy-on-write view of this computer's own root in namespaces of its own, with one wire to the test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jobs import guard
from tests.acceptance.waiting import until
from tests.integration.jobs.loopback_lambda import KEY, LIST, TERMINATE, LoopbackLambda, serving

NEEDED = ("unshare", "ip", "cloud-init", "ssh-keygen", "ssh", "sshd", "mount")
MISSING = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts and namespaces"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed here: {', '.join(MISSING)}"),
]

NAME = "launch-abc123-dpo-1-1-0011aabb-head"
ALLOWED_S = 60.0
HERE, THERE = "10.203.77.1", "10.203.77.2"
LINK, SPACE = "lnchguard0", "lnchguard"

BOOT = f"""set -e
mount -t overlay overlay -o lowerdir=/,upperdir=$DISK/upper,workdir=$DISK/work $DISK/root
cd $DISK/root
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mkdir -p run/sshd
exec chroot . /bin/sh -c '
cloud-init init --local
cloud-init init
exec /usr/sbin/sshd -D -e -o ListenAddress={THERE} -o Port=22
'
"""


@dataclass
class Machine:
    folder: Path
    boots: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    def boot(self) -> None:
        command = ["ip", "netns", "exec", SPACE, "unshare", "--mount", "--pid", "--uts", "--ipc", "--fork",
                   "--kill-child", "sh", "-c", BOOT]  # fmt: skip
        with (self.folder / "console").open("ab") as console:
            self.boots.append(
                subprocess.Popen(command, env={**os.environ, "DISK": str(self.disk)}, stdout=console, stderr=console)
            )

    def power_off(self) -> None:
        for boot in self.boots:
            boot.kill()  # and with it, all that runs in its process namespace
            boot.wait()

    def ssh(self, command: str) -> subprocess.CompletedProcess[str]:
        """As ubuntu, and with the host key that was made beforehand or not at all."""
        options = [
            "BatchMode=yes", "StrictHostKeyChecking=yes", f"UserKnownHostsFile={self.folder}/known_hosts",
            "GlobalKnownHostsFile=/dev/null", "ConnectTimeout=20", "IdentitiesOnly=yes",
        ]  # fmt: skip
        words = ["ssh", "-F", "none", "-i", str(self.folder / "me"), *(w for o in options for w in ("-o", o))]
        return subprocess.run(
            [*words, f"ubuntu@{THERE}", command], check=False, capture_output=True, text=True, timeout=120
        )

    def first_answer(self, command: str) -> str:
        """What the first command that gets in says; every one before it found no sshd at all."""

        def answered() -> bool:
            done = self.ssh(command)
            if done.returncode == 0:
                said.append(done.stdout)
                return True
            assert done.returncode == 255, f"it could enter, and then: {done.stderr}"
            assert "refused" in done.stderr or "timed out" in done.stderr, done.stderr
            return False

        said: list[str] = []
        until(answered, "an sshd", seconds=400)
        return said[0]


def sh(command: str, *, check: bool = True) -> None:
    subprocess.run(["sh", "-c", command], check=check, capture_output=True)


@pytest.fixture
def wire() -> Iterator[None]:
    remove = f"ip link delete {LINK}; ip netns delete {SPACE}"
    sh(remove, check=False)  # of a run that was killed
    sh(
        f"ip netns add {SPACE} && ip link add {LINK} type veth peer name eth0 netns {SPACE}"
        f" && ip addr add {HERE}/30 dev {LINK} && ip link set {LINK} up"
        f" && ip -n {SPACE} addr add {THERE}/30 dev eth0"
        f" && ip -n {SPACE} link set eth0 up && ip -n {SPACE} link set lo up"
    )
    yield
    sh(remove, check=False)


@pytest.fixture
def machine(tmp_path: Path, wire: None) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    machine.disk.mkdir()
    sh(f"mount -t tmpfs -o size=1G tmpfs {machine.disk}")  # an overlay may not lie in what it covers
    for name in ("upper", "work", "root"):
        (machine.disk / name).mkdir()
    yield machine
    machine.power_off()
    print((machine.folder / "console").read_text(errors="replace")[-4000:])  # shown where the test failed
    sh(f"umount -l {machine.disk}")


def seed(machine: Machine, user_data: str) -> None:
    """As a provider hands it over, and no trace of what this computer itself was made with."""
    cloud = machine.disk / "upper" / "var" / "lib" / "cloud"
    (cloud / "seed" / "nocloud").mkdir(parents=True)
    os.setxattr(cloud, "trusted.overlay.opaque", b"y")
    (cloud / "seed" / "nocloud" / "meta-data").write_text("instance-id: i-1\n")
    (cloud / "seed" / "nocloud" / "user-data").touch(mode=0o600)
    (cloud / "seed" / "nocloud" / "user-data").write_text(user_data)
    settings = machine.disk / "upper" / "etc" / "cloud" / "cloud.cfg.d" / "99-test.cfg"
    settings.parent.mkdir(parents=True)
    settings.write_text(
        "datasource_list: [NoCloud]\nsystem_info: {default_user: {name: ubuntu, lock_passwd: true, shell: /bin/bash}}\n"
    )


def test_from_the_first_connection_on_the_host_is_ours_and_guarded_and_it_ends_on_time_after_a_reboot_too(
    machine: Machine,
) -> None:
    for name in ("host", "me"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(machine.folder / name)], check=True
        )
    host_key = (machine.folder / "host.pub").read_text().strip()
    (machine.folder / "known_hosts").write_text(f"{THERE} {host_key}\n")
    cloud = LoopbackLambda()
    other = cloud.add(f"{NAME}-2")
    cloud.add(NAME)
    with serving(cloud, host=HERE):
        seed(
            machine,
            guard.user_data(
                instance_name=NAME,
                api=cloud.address,
                key=KEY,
                allowed_s=ALLOWED_S,
                hold_s=None,
                host_key_private=(machine.folder / "host").read_text(),
                host_key_public=host_key,
                authorized_keys=[(machine.folder / "me.pub").read_text().strip()],
                job_folder="/home/ubuntu/launch/jobs/dpo-1",
            ),
        )
        start, start_wall = time.monotonic(), time.time()
        machine.boot()
        deadline = int(machine.first_answer("cat /run/launch-deadline"))
        assert start_wall + ALLOWED_S - 1 <= deadline <= time.time() + ALLOWED_S

        for refused in ("cat /var/lib/launch-guard/config.json", "ls /var/lib/launch-guard"):
            assert "Permission denied" in machine.ssh(refused).stderr
        found = machine.ssh(f"grep -rlsE '{KEY}|echo ey' /etc /run /tmp /var/lib /var/log; pgrep -f '[d]eadline run'")
        *_, process = found.stdout.split()
        assert "/" not in found.stdout, f"ubuntu finds the key in {found.stdout}"
        assert "not permitted" in machine.ssh(f"kill -9 {process}").stderr
        assert "armed" in machine.ssh("cat /var/log/launch-guard.log").stdout

        machine.power_off()
        machine.boot()
        assert abs(int(machine.first_answer("cat /run/launch-deadline")) - deadline) <= 1

        until(lambda: not cloud.named(NAME), "the end of the machine", seconds=300)
        assert time.monotonic() - start >= ALLOWED_S
        assert {what for what, _ in cloud.asked} == {LIST, TERMINATE}
        assert list(cloud.machines) == [other]
