"""The estimate and the plan that the README shows: an 8B Llama that is called a 7B, from its config.json alone, and
8,484 pairs of 512 tokens over two epochs. Prices are list prices of November 2026, in catalogue files of the tests.

PYTHONPATH=. .venv/bin/python tests/bench/case.py        (the trainer's environment: LAUNCH_TRAIN_PYTHON)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.catalogues.files import write_small

PAIRS = 8484
TRAIN = Path(__file__).parents[2] / ".venv-train" / "bin" / "python"
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "tie_word_embeddings": False, "rope_theta": 500000.0, "max_position_embeddings": 8192, "torch_dtype": "float16",
}  # fmt: skip


def write_case(folder: Path) -> None:
    """`Mistral-7B/config.json` and `pairs.jsonl`."""
    model = folder / "Mistral-7B"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps(CONFIG, indent=1))
    with (folder / "pairs.jsonl").open("w") as file:
        for number in range(PAIRS):
            line = {"prompt": f"Note {number}: ", "chosen": "stable", "rejected": "worse"}
            file.write(json.dumps(line) + "\n")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_case(folder)
        environ = os.environ | {
            "LAUNCH_HOME": str(folder / "home"), "LAUNCH_CATALOGS": str(write_small(folder / "catalogs")),
            "LAUNCH_TRAIN_PYTHON": os.environ.get("LAUNCH_TRAIN_PYTHON", str(TRAIN)),
        }  # fmt: skip
        for words in (
            "estimate --model Mistral-7B/config.json --train pairs.jsonl --max-length 512 --epochs 2 -o need.json",
            "plan dpo --requirements need.json --budget 5 --cloud any",
            "plan dpo --requirements need.json",
        ):
            print(f"\n$ launch {words}", flush=True)
            started = time.perf_counter()
            argv = [sys.executable, "-m", "launcher", *words.split(), *(["--yes"] if "estimate" in words else [])]
            subprocess.run(argv, cwd=folder, env=environ | {"PYTHONSAFEPATH": "1"}, check=False)
            print(f"({time.perf_counter() - started:.1f} s)", flush=True)


if __name__ == "__main__":
    main()
