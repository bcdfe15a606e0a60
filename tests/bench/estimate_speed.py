"""How long the calculator takes for an 8B model: all options, at batch sizes of 1 and of 8 (2, 4 and 8 GPUs), 2 cores.

    .venv-train/bin/python tests/bench/estimate_speed.py [--save]

Measured from outside: the whole process and its children, imports included. A figure of a machine, not a test.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORES, RUNS, TARGET_S = 2, 3, 20


def measure(folder: Path, batch_size: int, cores: set[int]) -> dict[str, float]:
    """Wall and processor seconds of one estimate on these cores, and how many options it found."""
    config = {"model": {"base": str(folder / "Mistral-7B" / "config.json")}, "training": {"batch_size": batch_size}}
    (folder / "estimate.json").write_text(json.dumps(config), encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "train", "estimate", "--config", str(folder / "estimate.json")], env=environ,
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )  # fmt: skip
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "batch_size": batch_size,
        "options": len(json.loads(done.stdout)["options"]),
        "wall_s": round(wall, 1),
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
    }


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from tests.bench.case import write_case

    cores = set(sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory() as name:
        write_case(Path(name))
        runs = [measure(Path(name), size, cores) for size in (1, 8) for _ in range(RUNS)]
    for run in runs:
        print(f"{run['options']:>2} options at {run['batch_size']} pairs a step: {run['wall_s']:.1f} s, "
              f"{run['cpu_s']:.1f} s of processor time; target {TARGET_S} s")  # fmt: skip
    if "--save" in sys.argv:
        file = ROOT / "tests" / "bench" / "results" / "estimate_speed.json"
        file.write_text(json.dumps({"cores": len(cores), "runs": runs}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
