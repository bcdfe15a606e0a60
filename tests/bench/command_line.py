"""What the command line costs: process time (user + system) of `launch --help` and of `launch status` with 100 jobs.

    make bench

Prints the median and the range of 15 runs and writes `tests/bench/results/command_line.json`. A figure of a
machine, not a test: it fails nothing.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = 15
TARGETS_S = {"launch --help": 0.30, "launch status, 100 jobs": 0.35}


def cpu_seconds(argv: list[str], environ: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, env=environ, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.bench.sample_jobs import fill

    launch = str(Path(sys.executable).parent / "launch")
    rows = {}
    with tempfile.TemporaryDirectory() as home:
        environ = {**os.environ, "LAUNCH_HOME": home}
        fill(Path(home), jobs=100)
        for name, argv in (("launch --help", [launch, "--help"]), ("launch status, 100 jobs", [launch, "status"])):
            cpu_seconds(argv, environ)
            seconds = sorted(cpu_seconds(argv, environ) for _ in range(RUNS))
            median, low, high = statistics.median(seconds), seconds[0], seconds[-1]
            rows[name] = {"median_s": round(median, 3), "min_s": round(low, 3), "max_s": round(high, 3)}
            print(f"{name:<26} {median:.3f} s ({low:.3f} to {high:.3f}), target {TARGETS_S[name]}")
    result = {"machine": platform.machine(), "python": platform.python_version(), "runs": RUNS, "rows": rows}
    file = Path(__file__).parent / "results" / "command_line.json"
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
