"""A real sshd on loopback, with keys of its own; its logins are this user's."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.acceptance.waiting import until

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


@dataclass
class Sshd:
    """`root` is the folder that stands for the machine's `~/launch`."""

    folder: Path
    port: int
    host_key: str
    process: subprocess.Popen[bytes]

    @property
    def root(self) -> Path:
        return self.folder / "machine"

    @property
    def key_file(self) -> Path:
        return self.folder / "id"

    def connections(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    pytest.importorskip("paramiko", reason="the extra `cloud` is not installed")
    for program in (SSHD, "rsync", "ssh"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian: openssh-server rsync)")
    folder = tmp_path / "ssh d"
    (folder / "machine").mkdir(parents=True)
    for name in ("host", "id"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "id.pub", folder / "authorized")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config = folder / "config"
    config.write_text(
        f'ListenAddress 127.0.0.1\nPort {port}\nHostKey "{folder}/host"\nAuthorizedKeysFile "{folder}/authorized"\n'
        "StrictModes no\nUsePAM no\nPidFile none\nSubsystem sftp internal-sftp\nPermitRootLogin prohibit-password\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen([SSHD, "-D", "-E", folder / "log", "-f", config])

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(answers, "sshd", seconds=30)
        host_key = " ".join((folder / "host.pub").read_text().split()[:2])
        yield Sshd(folder, port, host_key, process)
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # it ended by itself
                    child.kill()
        process.kill()
        process.wait()
