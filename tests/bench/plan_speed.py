"""Process time of `launch plan dpo` over a catalogue of full size, from a cold start.

.venv/bin/python tests/bench/plan_speed.py
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUNS = 7


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from launcher.demo.project import write_project
    from tests.catalogues.files import write_full_size

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_project(folder / "project")
        write_full_size(folder / "catalogs")
        seconds: list[float] = []
        for _ in range(RUNS):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(
                [sys.executable, "-m", "launcher", "plan", "dpo", "--budget", "5", "--json"],
                cwd=folder / "project",
                env={**os.environ, "HOME": name, "LAUNCH_HOME": str(folder / "state"), "PYTHONPATH": str(ROOT),
                     "LAUNCH_CATALOGS": str(folder / "catalogs"), "PYTHONSAFEPATH": "1"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )  # fmt: skip
            assert done.returncode in (0, 3), done.stderr
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print(f"launch plan dpo, 40,000 catalogue rows: median {statistics.median(seconds):.2f} s of process time, "
          f"least {min(seconds):.2f} s, of {RUNS} runs")  # fmt: skip


if __name__ == "__main__":
    main()
