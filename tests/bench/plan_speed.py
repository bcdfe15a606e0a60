"""Process time of `launch plan dpo` over a catalogue of full size, from a cold start: of the sample project, and of an
8B model that no machine trains for the budget, where each command that would fit is looked for.

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
    from tests.bench.sample_jobs import EIGHT_B
    from tests.catalogues.files import write_full_size

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_project(folder / "project")
        write_full_size(folder / "catalogs")
        (folder / "job").mkdir()
        (folder / "job" / "need.json").write_text(EIGHT_B.model_dump_json(by_alias=True))
        environ = {**os.environ, "HOME": name, "LAUNCH_HOME": str(folder / "state"), "PYTHONPATH": str(ROOT),
                   "LAUNCH_CATALOGS": str(folder / "catalogs"), "PYTHONSAFEPATH": "1"}  # fmt: skip
        print(f"launch plan dpo, 40,000 catalogue rows, process time of {RUNS} runs:")
        for said, place, words in (
            ("the sample project", "project", ("--budget", "5")),
            ("8B, nothing fits", "job", ("--requirements", "need.json", "--budget", "0.5")),
        ):
            seconds = sorted(process_time(folder / place, environ, words) for _ in range(RUNS))
            print(f"{said:<20} median {statistics.median(seconds):.2f} s, least {seconds[0]:.2f} s")


def process_time(place: Path, environ: dict[str, str], words: tuple[str, ...]) -> float:
    """Seconds of user and system time of one plan, everything from the start of the interpreter on."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "plan", "dpo", *words], cwd=place, env=environ,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
