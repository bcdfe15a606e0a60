"""Real clinical text, long tail and odd characters included, through the whole line. No claim of learning here."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
from pathlib import Path
from random import Random

import pytest

from tests.acceptance.program import Program

DIALOGUES = Path(__file__).parents[3] / "shared" / "data" / "mts_dialog"
SWAPS = {"left": "right", "right": "left", "no ": "some ", "denies": "reports", "She": "He", "He": "She", "mg": "g"}


def with_facts_changed(note: str, random: Random) -> str:
    """The note with a number, a side, a negation or a unit changed; with a made-up sentence where it has none."""
    numbers = list(re.finditer(r"\d+", note))
    if numbers:
        found = random.choice(numbers)
        return note[: found.start()] + str(int(found[0]) + random.randint(1, 9)) + note[found.end() :]
    for word, other in SWAPS.items():
        if word in note:
            return note.replace(word, other, 1)
    return f"{note} The patient takes warfarin {random.randint(1, 9)} mg."


def pairs_of(name: str) -> list[dict[str, str]]:
    random = Random(7)
    with (DIALOGUES / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        {
            "prompt": row["dialogue"] + "\n\nSummary:",
            "chosen": " " + row["section_text"],
            "rejected": " " + with_facts_changed(row["section_text"], random),
        }
        for row in rows
    ]


def write_jsonl(file: Path, rows: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def project(program: Program) -> Program:
    if not DIALOGUES.is_dir():
        pytest.skip(f"the dialogues of MTS-Dialog are not beside this checkout ({DIALOGUES})")
    folder = program.folder
    train, held_out = pairs_of("train"), pairs_of("validation")
    write_jsonl(folder / "train.jsonl", train)
    write_jsonl(folder / "val.jsonl", held_out[:50])
    write_jsonl(folder / "test.jsonl", held_out[50:70])
    text = folder / "text.txt"
    text.write_text("\n".join(row["prompt"] + row["chosen"] for row in train), encoding="utf-8")
    maker = Path(__file__).with_name("real_text_model.py")
    subprocess.run(
        [os.environ["LAUNCH_TEST_TRAIN_PYTHON"], str(maker), str(text), str(folder / "model")], check=True, timeout=120
    )
    requirement = {
        "schema": "hardware-requirement/1",
        "workload": {
            "model": {"base": {"path": "model"}, "architecture": "LlamaForCausalLM"},
            "data": {"train_path": "train.jsonl", "train_examples": len(train), "val_path": "val.jsonl"},
            "training": {"epochs": 1, "batch_size": 4, "max_length": 512, "learning_rate": 1e-4},
        },
        "options": [{"name": "cpu", "device": "cpu", "gpus": 0, "min_ram_gib": 1, "trainer": {"precision": "fp32"}}],
    }
    (folder / "requirement.json").write_text(json.dumps(requirement))
    return program


def test_the_whole_line_runs_on_real_dialogues(project: Program) -> None:
    done = project.run(
        "dpo", "--yes", "--requirements", "requirement.json", "--test", "test.jsonl", "--max-steps", "12", timeout_s=300
    )
    assert done.returncode == 0, done.stderr
    row = project.job("dpo-1")
    results = Path(row["results"])
    lines = [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert len(losses) == 12
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)
    report = json.loads((results / "data.json").read_text())["train"]
    assert report["pairs"] == 1201
    assert 0 < report["usable"] <= 1201
    assert report["usable"] + sum(part["pairs"] for part in report["left_out"]) == report["pairs"]
    measures = {measure["name"]: measure for measure in project.document("eval", "dpo-1")["measures"]}
    assert {"loss", "reward_accuracy", "margin", "unsupported_terms"} <= measures.keys()
    assert measures["unsupported_terms"]["kind"] == "proxy"
    assert "no measure of truth" in project.good("eval", "dpo-1").stdout

    (project.folder / "two.jsonl").write_text("".join((project.folder / "test.jsonl").read_text().splitlines(True)[:2]))
    (project.folder / "terms.txt").write_text("\n".join("abcdefghijklmnopqrstuvwxyz"))  # it has not learned words yet
    counts = [
        next(one for one in project.document("eval", "dpo-1", "--test", "two.jsonl", *words)["measures"][::-1])
        for words in ((), ("--terms", "terms.txt"))
    ]
    assert {one["name"] for one in counts} == {"unsupported_terms"}
    plain, listed = (sum((one[stage] or {"n": 0})["n"] for stage in ("stage_a", "stage_b")) for one in counts)
    assert listed > plain
