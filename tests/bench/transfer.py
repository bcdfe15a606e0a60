"""2 GiB of weights to a machine of the fake cloud: our sync, the same again, and SkyPilot's file mount of the same.

.venv/bin/python tests/bench/transfer.py [--gib 2]        (root; what `make test-cloud` needs)

SkyPilot's figure is a `sky launch` on a machine that is up already with the file mount, less one without it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULT = Path(__file__).with_name("results") / "transfer.json"


def write_weights(file: Path, gib: float) -> None:
    """Normally distributed in bf16, as weights are: a compressor finds a fifth of it, and takes its time for that."""
    import numpy as np

    size = int(gib * 2**30)
    header = json.dumps({"w": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}}).encode()
    draw = np.random.default_rng(0)
    with file.open("wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        for _ in range(0, size, 2**26):
            values = 0.02 * draw.standard_normal(2**25, dtype=np.float32)
            out.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from artifacts import upload
    from artifacts.host import RemoteHost
    from artifacts.shell import Shell
    from jobs.skypilot.folder import CATALOGUES
    from tests.acceptance.lambda_cloud.cloud import Cloud, cannot_run
    from tests.acceptance.lambda_cloud.stock_sky import StockSky

    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--gib", type=float, default=2.0)
    gib = asked.parse_args().gib
    if why := cannot_run():
        raise SystemExit(why)
    with tempfile.TemporaryDirectory() as name, Cloud() as cloud:
        folder = Path(name)
        weights = folder / "model.safetensors"
        write_weights(weights, gib)
        sky = StockSky(folder / "home", cloud.url, cloud.key)
        assert (folder / "home" / CATALOGUES).is_dir()
        try:
            sky.start()
            (folder / "plain.yaml").write_text(
                "resources: {infra: lambda/us-east-1, instance_type: gpu_1x_a10}\nrun: 'true'\n"
            )
            mount = f"file_mounts: {{~/mounted/model.safetensors: {weights}}}\n"
            (folder / "mount.yaml").write_text((folder / "plain.yaml").read_text() + mount)

            def launched(task: str) -> float:
                began = time.monotonic()
                sky.sky("launch", "--yes", "--cluster", "bench", str(folder / task))
                return time.monotonic() - began

            launched("plain.yaml")  # the machine, and SkyPilot's set-up of it
            plain_s = launched("plain.yaml")
            mounted_s = launched("mount.yaml") - plain_s

            private, _ = sky.key_pair()
            machine = cloud.machine(sky.instance_name("bench"))
            host_key = machine.run(["cat", "/etc/ssh/ssh_host_ed25519_key.pub"]).rsplit(" ", 1)[0].strip()
            host = RemoteHost(machine.address, "ubuntu", private, host_key)

            def sent(shell: Shell) -> float:
                began = time.monotonic()
                upload.send(
                    shell, {"inputs/base/model.safetensors": upload.Item(weights)}, root="/home/ubuntu/launch",
                    job="bench", hashes=upload.Hashes(folder / "hashes.json"), staging=folder / "staging",
                    say=lambda done, total: None,
                )  # fmt: skip
                return time.monotonic() - began

            with Shell(host) as shell:
                first_s, again_s = sent(shell), sent(shell)
        finally:
            sky.stop()
    found = {
        "gib": gib,
        "ours_s": round(first_s, 1),
        "ours_again_s": round(again_s, 2),
        "skypilot_file_mount_s": round(mounted_s, 1),
        "ratio": round(mounted_s / first_s, 2),
        "cores": os.cpu_count(),
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{gib:g} GiB over loopback SSH, verified there: {first_s:.1f} s; the same again: {again_s:.2f} s")
    print(f"SkyPilot's file mount of the same: {mounted_s:.1f} s, {mounted_s / first_s:.1f} times as long")


if __name__ == "__main__":
    main()
