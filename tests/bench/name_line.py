"""`launch dpo --yes` from command to machine gone, beside the same done by hand with SkyPilot, on the fake cloud.

.venv/bin/python tests/bench/name_line.py        (root; what `make test-cloud` needs)

By hand: `sky launch` of the task that our own run wrote (its files in one folder, mounted as one), `rsync` of the
results, `sky down`, and a look until the provider's list is empty. By hand SkyPilot's server runs beforehand; ours is
started within its time. What we do besides (data check and plan, evaluation) is in its time too, and shown apart.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
RESULT = Path(__file__).with_name("results") / "name_line.json"


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from tests.acceptance.conftest import pytest_configure
    from tests.acceptance.lambda_cloud.cloud import Cloud, cannot_run
    from tests.acceptance.lambda_cloud.renter import LINE, make_renter
    from tests.acceptance.lambda_cloud.stock_sky import StockSky
    from tests.acceptance.program import Program
    from tests.acceptance.waiting import until

    pytest_configure(None)  # type: ignore[arg-type]
    if why := cannot_run():
        raise SystemExit(why)
    with tempfile.TemporaryDirectory() as name, Cloud() as cloud:
        folder = Path(name)
        (folder / "h").mkdir()
        Program(folder / "h", folder).good("demo", str(folder / "demo"))
        renter = make_renter(cloud, folder, folder / "demo")
        renter.good("plan", "dpo")  # measures this machine's rate once, as any earlier command has

        began, began_at = time.monotonic(), datetime.now(UTC)
        done = renter.run(*LINE, timeout_s=600)
        ours_s = time.monotonic() - began
        assert done.returncode == 0, done.stderr
        assert not cloud.provider.everything()
        report = renter.job("dpo-1")
        checks_s = (datetime.fromisoformat(report["created_at"]) - began_at).total_seconds()
        moves = _moves(renter.state("dpo-1") / "logs" / "driver.log")
        results = Path(report["results"])

        task = yaml.safe_load((results / "task.yaml").read_text())
        parcel = folder / "parcel"
        for there, here in task["file_mounts"].items():
            copy = parcel / there.removeprefix("~/launch/jobs/dpo-1/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(here, copy)
        task["file_mounts"] = {"~/launch/jobs/dpo-1": str(parcel)}
        sky = StockSky(folder / "sky", cloud.url, cloud.key)
        try:
            server_s = sky.start()
            (folder / "task.yaml").write_text(yaml.safe_dump(task))
            began = time.monotonic()
            sky.sky("launch", "--yes", "--cluster", "byhand", str(folder / "task.yaml"))
            machine = cloud.machine(sky.instance_name("byhand"))
            key, _ = sky.key_pair()
            shell = f"ssh -i {key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
            source = f"ubuntu@{machine.address}:launch/jobs/dpo-1/work/"
            subprocess.run(["rsync", "-a", "-e", shell, source, str(folder / "by-hand/")], check=True)
            sky.sky("down", "--yes", "byhand")
            until(lambda: not cloud.provider.everything(), "the machine's end")
            by_hand_s = time.monotonic() - began
            assert (folder / "by-hand/adapter/adapter_model.safetensors").is_file()
        finally:
            sky.stop()
    aside_s = checks_s + moves.get("evaluating", 0.0)
    found = {
        "ours_s": round(ours_s, 1), "of_it_checks_and_evaluation_s": round(aside_s, 1), "ours_by_state_s": moves,
        "by_hand_s": round(by_hand_s, 1), "by_hand_server_s": round(server_s, 1),
    }  # fmt: skip
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(
        f"launch dpo, from the command to the machine gone: {ours_s:.1f} s, of it checks and evaluation {aside_s:.1f} s"
    )
    print("  " + ", ".join(f"{state} {seconds:.0f} s" for state, seconds in moves.items()))
    print(f"by hand (sky launch, rsync, sky down), the same task: {by_hand_s:.1f} s")
    print(f"  and {server_s:.1f} s before it, in which SkyPilot's server starts")


def _moves(log: Path) -> dict[str, float]:
    """Seconds in each state, from the times that the driver's log has."""
    found: list[tuple[float, str]] = []
    for line in log.read_text().splitlines():
        clock, _, state = line.partition(" ")
        parts = clock.split(":")
        if len(parts) == 3 and all(part.isdigit() for part in parts):
            hours, minutes, seconds = map(int, parts)
            found.append((hours * 3600 + minutes * 60 + seconds, state))
    ends = [at for at, _ in found[1:]]
    return {state: end - at for (at, state), end in zip(found, ends, strict=False)}


if __name__ == "__main__":
    main()
