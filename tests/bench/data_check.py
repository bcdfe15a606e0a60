# pyright: basic
"""How long the data check takes for as many pairs as the real job has: 8,484 of 14.6 KB, 2 cores.

    .venv-train/bin/python tests/bench/data_check.py

Pairs are made-up words (`sample_pairs.py`), tokenized by a byte-level BPE of 32,000 tokens that splits as Llama 3
does, trained on such words. Measured from outside: the whole process, imports and report included. Writes
`tests/bench/results/data_check.json`. A figure of a machine, not a test: it fails nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

PAIRS, KILOBYTES, MAX_LENGTH, CORES, TARGET_S = 8484, 14.6, 4096, 2, 20
ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.bench.sample_pairs import write_pairs, write_tokenizer

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pairs(folder / "pairs.jsonl", given.pairs, KILOBYTES)
        write_tokenizer(folder / "model")
        config = {
            "schema": "run/1", "job": "bench", "model": {"base": str(folder / "model")},
            "data": {"train": str(folder / "pairs.jsonl")}, "training": {"max_length": MAX_LENGTH},
            "output_dir": str(folder / "out"), "reference_cache": str(folder / "cache"),
        }  # fmt: skip
        (folder / "run.json").write_text(json.dumps(config), encoding="utf-8")
        cores = sorted(os.sched_getaffinity(0))[:CORES]
        runs = [measure(folder, set(cores)) for _ in range(given.runs)]
        report = json.loads((folder / "out" / "data.json").read_bytes())["train"]
        megabytes = (folder / "pairs.jsonl").stat().st_size / 1e6
    result = {
        "machine": platform.machine(), "python": platform.python_version(), "tokenizers": version("tokenizers"),
        "transformers": version("transformers"), "cores": len(cores), "pairs": report["pairs"],
        "megabytes": round(megabytes, 1), "pair_tokens_median": report["tokens"]["pair"]["median"], "runs": runs,
    }  # fmt: skip
    for run in runs:
        print(f"{run['wall_s']:.1f} s, {run['cpu_s']:.1f} s of processor time, {run['peak_mib']:,} MiB")
    print(f"{report['pairs']:,} pairs, {megabytes:.1f} MB, {len(cores)} cores; target {TARGET_S} s")
    file = ROOT / "tests" / "bench" / "results" / "data_check.json"
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def measure(folder: Path, cores: set[int]) -> dict[str, float]:
    """Wall and processor seconds, and the largest resident memory in MiB, of one check on these cores."""
    argv = [sys.executable, "-m", "train", "check", "--config", str(folder / "run.json"), "--progress"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    child = subprocess.Popen(
        argv, env=environ, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )  # fmt: skip
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"the check ended with {child.returncode}")
    return {
        "wall_s": round(wall, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mib": usage.ru_maxrss // 1024,
    }


if __name__ == "__main__":
    main()
