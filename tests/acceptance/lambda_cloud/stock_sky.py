"""A stock SkyPilot, client and server, with a HOME of its own, that takes the fake cloud for Lambda."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import yaml

from tests.acceptance.lambda_cloud.provider import CATALOGUE, REGIONS

VERSION = "0.14.1"
PLUGIN = Path(__file__).with_name("sky_plugin")
SERVER_MODULE = "sky.server.server"


def cannot_run() -> str | None:
    """Why there is no SkyPilot here; None where there is."""
    try:
        found = importlib.metadata.version("skypilot")
    except importlib.metadata.PackageNotFoundError:
        return "SkyPilot is not installed: pip install -e '.[cloud]'"
    return None if found == VERSION else f"SkyPilot {found} is installed, and the tests are for {VERSION}"


def free_port() -> int:
    """One that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_catalogue(home: Path) -> None:
    """What SkyPilot would download: as files of one's own they count as modified and are never overwritten."""
    folder = home / ".sky/catalogs/v8"
    head = "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,Region,GpuInfo,SpotPrice"
    rows = [
        f"{sold.name},{_accelerator(sold.name)},{sold.gpus},{sold.vcpus},{sold.memory_gib},"
        f"{sold.price_cents_per_hour / 100},{region},,"
        for sold in CATALOGUE
        for region in REGIONS
    ]
    _write(folder / "lambda/vms.csv", "\n".join([head, *rows, ""]))
    names = sorted({_accelerator(sold.name) for sold in CATALOGUE})
    _write(
        folder / "common/accelerators.csv", "\n".join(["AcceleratorName,Clouds", *(f"{n},Lambda" for n in names), ""])
    )
    _write(
        folder / "common/metadata.csv", "\n".join(["GPU,MemoryGB,Manufacturer", *(f"{n},24,NVIDIA" for n in names), ""])
    )


def _accelerator(instance_type: str) -> str:
    return instance_type.split("_")[2].upper()


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


class StockSky:
    """One user's SkyPilot. `environment` is for every process of it, `user_hash` ends its clusters' names.

    Args:
        home: a folder of its own, made into a HOME.
        address: the fake cloud's, for processes on this machine.
        key: of an account there.
    """

    def __init__(self, home: Path, address: str, key: str, *, user_hash: str = "0123abcd") -> None:
        self.home, self.user_hash = home, user_hash
        self.port = free_port()
        plugins = home / "plugins.yaml"
        parameters = {"class": "launch_test_cloud.FakeLambda", "parameters": {"address": address}}
        _write(plugins, yaml.safe_dump({"plugins": [parameters]}))
        _write(home / ".lambda_cloud/lambda_keys", f"api_key = {key}\n")
        (home / ".lambda_cloud/lambda_keys").chmod(0o600)
        write_catalogue(home)
        self.environment: Mapping[str, str] = {
            "HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(PLUGIN),
            "LANG": "C.UTF-8",
            "SKYPILOT_SERVER_PLUGINS_CONFIG": str(plugins),
            "SKYPILOT_API_SERVER_LOCAL_PORT": str(self.port),
            "SKYPILOT_API_SERVER_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "SKYPILOT_USER_ID": user_hash,
            "SKYPILOT_USER": "tester",
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
        }

    def instance_name(self, cluster: str) -> str:
        """What SkyPilot calls the one machine of a cluster at Lambda."""
        return f"{cluster}-{self.user_hash}-head"

    def start(self) -> float:
        """`sky api start`; returns the seconds until the server was healthy."""
        began = time.monotonic()
        self.sky("api", "start")
        return time.monotonic() - began

    def key_pair(self) -> tuple[Path, str]:
        """SkyPilot's own SSH key of this user, made where there is none: private key file, public line."""
        code = "from sky.utils import auth_utils; print(*auth_utils.get_or_generate_keys())"
        private, public = self.python(code).split()[-2:]
        return Path(private), Path(public).read_text().strip()

    def python(self, code: str, limit_s: float = 120) -> str:
        """What a client's program says."""
        return self._run([sys.executable, "-c", code], limit_s)

    def sky(self, *arguments: str, limit_s: float = 400) -> str:
        """What the command line says.

        Raises:
            RuntimeError: it fails, with all it said.
        """
        return self._run([str(Path(sys.executable).with_name("sky")), *arguments], limit_s)

    def _run(self, command: list[str], limit_s: float) -> str:
        said = subprocess.run(
            command, env=dict(self.environment), capture_output=True, text=True, check=False, timeout=limit_s,
            cwd=self.home, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if said.returncode:
            raise RuntimeError(f"{command[1:]}: {said.returncode}\n{said.stdout[-6000:]}\n{said.stderr[-6000:]}")
        return said.stdout

    def servers(self) -> list[psutil.Process]:
        """The API server's main process, found by its port."""
        wanted = [SERVER_MODULE, f"--port={self.port}"]
        found = psutil.process_iter(["cmdline"])
        return [each for each in found if all(word in (each.info["cmdline"] or []) for word in wanted)]

    def stop(self) -> None:
        """Ends the server and all that it started."""
        processes: list[psutil.Process] = []
        for server in self.servers():
            processes += [server, *server.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)
