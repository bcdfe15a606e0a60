"""The sample project: a Stage-A model that hallucinates, preference pairs, held-out notes, and what the job needs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from launcher.demo.notes import Facts, Split, held_out, pair, patients

STAGE_A = Path(__file__).with_name("stage_a")
BATCH_SIZE, MAX_LENGTH, EPOCHS = 8, 192, 1
LEARNING_RATE, BETA = 1e-3, 0.1
MIN_RAM_GIB, MIN_VRAM_GIB, MIN_DISK_GIB = 2.0, 2.0, 1.0
"""Estimates, as the requirement's `basis` says too: nobody measured them."""

LAUNCH_TOML = """\
# Settings of `launch dpo` in this folder. A flag wins over a LAUNCH_* variable, and that over this file.

# The hardware requirement: what the job is (model, pairs, schedule) and the ways to run it.
requirements = "requirement.json"

# Preference pairs (JSONL: prompt, chosen, rejected); those by which the best adapter is chosen; and held-out notes
# with their facts, on which Stage A is compared with what was trained.
train = "data/train.jsonl"
val = "data/val.jsonl"
test = "data/test.jsonl"

# Pairs an optimizer step, and tokens of prompt and completion together.
batch_size = {batch_size}
max_length = {max_length}
epochs = {epochs}

# A model this small takes a rate far above the usual 5e-6. beta holds the policy to Stage A: the lower, the looser.
learning_rate = {learning_rate}
beta = {beta}

# Steps between validations; the adapter with the best one is kept.
eval_every = 20

# No budget: nothing is ever bought, and the job runs on this machine.
# budget = 5
"""

README = """\
# A sample project

Synthetic clinical notes, made by a generator: no patient and no text of anyone stands behind them.

- `stage_a/`: a small language model (`base/`) and the adapter of its first stage (`adapter/`), which was tuned on
  careless summaries: in about {rate:.0%} of its own it gets a fact wrong.
- `data/train.jsonl`, `data/val.jsonl`: notes with a right summary (`chosen`) and one that changes or invents facts
  (`rejected`).
- `data/test.jsonl`: notes that are in neither, with their facts, so that every summary can be checked.
- `requirement.json`: what the job needs of a machine. `launch.toml`: its settings.

    launch dpo          # a tenth of an epoch on this machine, a few minutes on a CPU
    launch eval JOB     # how often Stage A and the trained adapter are wrong, fact by fact
"""


def write_project(
    folder: Path, *, seed: int = 1, train_pairs: int = 8000, val_pairs: int = 96, test_notes: int = 400
) -> None:
    """Writes the project into `folder`, which is made where it is missing. The same seed gives the same bytes."""
    measured: dict[str, Any] = json.loads((STAGE_A / "measured.json").read_text(encoding="utf-8"))
    for part in ("base", "adapter"):
        shutil.copytree(STAGE_A / part, folder / "stage_a" / part)
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    _write(data / "train.jsonl", _draw(seed, "train", train_pairs, pair))
    _write(data / "val.jsonl", _draw(seed, "val", val_pairs, pair))
    _write(data / "test.jsonl", _draw(seed, "test", test_notes, held_out))
    requirement = _requirement(folder, measured, train_pairs, val_pairs)
    (folder / "requirement.json").write_text(json.dumps(requirement, indent=2) + "\n", encoding="utf-8")
    toml = LAUNCH_TOML.format(
        batch_size=BATCH_SIZE, max_length=MAX_LENGTH, epochs=EPOCHS, learning_rate=LEARNING_RATE, beta=BETA
    )
    (folder / "launch.toml").write_text(toml, encoding="utf-8")
    (folder / "README.md").write_text(README.format(rate=measured["stage_a_hallucination"]), encoding="utf-8")


def _draw(seed: int, split: Split, count: int, line: Callable[[Facts, Random], dict[str, Any]]) -> Iterable[object]:
    random = Random(f"{seed} {split} wording")  # noqa: S311  # synthetic data, to be the same for the same seed
    return (line(facts, random) for facts in islice(patients(seed, split), count))


def _write(path: Path, lines: Iterable[object]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _requirement(folder: Path, measured: dict[str, Any], train_pairs: int, val_pairs: int) -> dict[str, Any]:
    """A `hardware-requirement/1` written by hand, around the FLOPs that were counted when the model was made."""
    train, val = folder / "data" / "train.jsonl", folder / "data" / "val.jsonl"
    base, adapter = (folder / "stage_a" / part for part in ("base", "adapter"))
    adapter_config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    basis = {
        "flop_per_step": f"counted by torch.utils.flop_counter over one step of {measured['pairs_per_step']} pairs "
        "(policy forward and backward, reference forward) when the model was made",
        "min_ram_gib": f"estimated, nobody measured it: {measured['parameters']:,} parameters need little, torch and "
        "its libraries most",
        "min_disk_gib": "estimated, nobody measured it: model, data, checkpoints and results; the trainer's "
        "environment is not in it",
    }
    vram_basis = "estimated, nobody measured it: the model needs little, the GPU's runtime most"
    needs = {"flop_per_step": measured["flop_per_step"], "min_disk_gib": MIN_DISK_GIB, "min_ram_gib": MIN_RAM_GIB}
    return {
        "schema": "hardware-requirement/1",
        "created_by": "launch demo",
        "workload": {
            "method": "dpo",
            "model": {
                "base": {"path": "stage_a/base"},
                "adapter": {
                    "path": "stage_a/adapter",
                    "kind": "lora",
                    "r": adapter_config["r"],
                    "target_modules": sorted(adapter_config["target_modules"]),
                    "trainable_parameters": measured["trainable_parameters"],
                    "bytes_on_disk": _bytes(adapter),
                },
                "architecture": "LlamaForCausalLM",
                "parameters": measured["parameters"],
                "bytes_on_disk": _bytes(base),
            },
            "data": {
                "train_path": "data/train.jsonl", "train_examples": train_pairs, "train_bytes": train.stat().st_size,
                "val_path": "data/val.jsonl", "val_examples": val_pairs, "val_bytes": val.stat().st_size,
            },
            "training": {
                "epochs": EPOCHS, "batch_size": BATCH_SIZE, "max_length": MAX_LENGTH, "learning_rate": LEARNING_RATE,
                "beta": BETA, "steps": -(-train_pairs // BATCH_SIZE) * EPOCHS,
            },
        },
        "options": [
            {
                "name": "gpu-16bit", "device": "cuda", "gpus": 1, "min_vram_gib": MIN_VRAM_GIB, **needs,
                "basis": {**basis, "min_vram_gib": vram_basis},
                "trainer": {"precision": "16bit"},
            },
            {
                "name": "cpu-fp32", "device": "cpu", "gpus": 0, **needs,
                "basis": basis,
                "trainer": {"precision": "fp32"},
            },
        ],
    }  # fmt: skip


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
