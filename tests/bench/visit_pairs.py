# pyright: basic
"""The data check on pairs made from full visits: what max_length 512, 1,024, 2,048 and 4,096 leave of them.

    .venv-train/bin/python tests/bench/visit_pairs.py VISITS.csv

VISITS.csv has the columns `dialogue` and `note`, as ACI-BENCH publishes them (Yim et al., Scientific Data 2023). A
prompt is the dialogue, chosen the note, rejected the note with another number in each paragraph that has one. The
tokenizer is a byte-level BPE of 2,000 tokens trained on the same text (`tests/acceptance/real_text_model.py`): a
model's own, with a larger vocabulary, makes fewer tokens of it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[2]
MAX_LENGTHS = (512, 1024, 2048, 4096)


def pairs_of(visits: Path) -> list[dict[str, str]]:
    """A pair a visit, the same for the same file."""
    from tests.acceptance.test_real_text import with_facts_changed

    random = Random(7)
    with visits.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        {
            "prompt": row["dialogue"] + "\n\nNote:",
            "chosen": "\n" + row["note"],
            "rejected": "\n"
            + "\n\n".join(
                with_facts_changed(part, random) if re.search(r"\d", part) else part
                for part in row["note"].split("\n\n")
            ),
        }
        for row in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("visits", type=Path)
    parser.add_argument("--batch-size", type=int, default=4)
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from launcher.data_view import lines

    pairs = pairs_of(given.visits)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
        text = "\n".join(pair["prompt"] + pair["chosen"] for pair in pairs)
        (folder / "text.txt").write_text(text, encoding="utf-8")
        maker = ROOT / "tests" / "acceptance" / "real_text_model.py"
        subprocess.run([sys.executable, str(maker), "text.txt", "model"], cwd=folder, check=True)
        for max_length in MAX_LENGTHS:
            done = check(folder, max_length, given.batch_size)
            if done.returncode == 2:  # not one pair can be used
                print(f"max_length {max_length:,}: {done.stderr.strip()}\n")
                continue
            done.check_returncode()
            document = json.loads(done.stdout)
            print("\n".join(lines(document)))
            print("\n".join(f"warning: {warning}" for warning in document["train"]["warnings"]) + "\n")


def check(folder: Path, max_length: int, batch_size: int) -> subprocess.CompletedProcess[str]:
    config = {
        "schema": "run/1", "job": "visits", "model": {"base": str(folder / "model")},
        "data": {"train": "pairs.jsonl"},
        "training": {"max_length": max_length, "batch_size": batch_size},
        "output_dir": str(folder / "out"), "reference_cache": str(folder / "cache"),
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(config), encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}
    argv = [sys.executable, "-m", "train", "check", "--config", str(folder / "run.json")]
    return subprocess.run(argv, env=environ, cwd=folder, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    main()
