"""A bridge of one run's own, and what a run that was killed has left: namespaces, links and folders of its name."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import IO

from tests.acceptance.lambda_cloud import rootfs

LOCKS = Path("/run/launch-test-cloud")
PREFIX = "lnch"
MOST_RUNS = 40


def ip(*arguments: str, check: bool = True) -> str:
    """What `ip` says.

    Raises:
        RuntimeError: it fails, with its own words.
    """
    said = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if check and said.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {said.stderr.strip()}")
    return said.stdout


class Network:
    """One bridge `lnchN` with 10.77.N.1/24, held by a lock for as long as this process lives.

    `$LAUNCH_TEST_CLOUD_NETWORK` (default `10.77`) is the first half of the addresses. Nothing is forwarded: what hangs
    on it reaches this machine and its neighbours, and nothing else.
    """

    def __init__(self) -> None:
        self._lock, number = _take_number()
        self.bridge = f"{PREFIX}{number}"
        self.subnet = f"{os.environ.get('LAUNCH_TEST_CLOUD_NETWORK', '10.77')}.{number}"
        self.address = f"{self.subnet}.1"
        self.folder = rootfs.cache() / "runs" / self.bridge
        sweep(self.bridge)
        self.folder.mkdir(parents=True)
        ip("link", "add", self.bridge, "type", "bridge")
        ip("address", "add", f"{self.address}/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        self._taken: set[int] = set()

    def take_address(self) -> str:
        """A free one for an instance."""
        last = next(each for each in range(10, 250) if each not in self._taken)
        self._taken.add(last)
        return f"{self.subnet}.{last}"

    def give_back(self, address: str) -> None:
        """It is free again."""
        self._taken.discard(int(address.rpartition(".")[2]))

    def close(self) -> None:
        """Ends what hangs on it, and takes it away."""
        sweep(self.bridge)
        self._lock.close()


def _take_number() -> tuple[IO[str], int]:
    LOCKS.mkdir(exist_ok=True)
    for number in range(MOST_RUNS):
        lock = (LOCKS / f"{PREFIX}{number}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return lock, number
    raise RuntimeError(f"{MOST_RUNS} runs of the fake cloud are under way on this machine")


def sweep(bridge: str) -> None:
    """Ends everything of this bridge's name: processes, namespaces, links, folders. The caller holds its lock."""
    for line in ip("netns", "list").splitlines():
        name = line.split()[0] if line else ""
        if name.startswith(f"{bridge}-"):
            end_namespace(name)
    links = json.loads(ip("-json", "link", "show", "master", bridge, check=False) or "[]")
    for link in links:
        ip("link", "delete", link["ifname"], check=False)  # the namespace's end may have taken it already
    if Path(f"/sys/class/net/{bridge}").exists():
        ip("link", "delete", bridge)
    folder = rootfs.cache() / "runs" / bridge
    if folder.exists():
        shutil.rmtree(folder)


def end_namespace(name: str) -> None:
    """Kills all that runs in it, and removes it."""
    for pid in ip("netns", "pids", name, check=False).split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
    ip("netns", "delete", name, check=False)
