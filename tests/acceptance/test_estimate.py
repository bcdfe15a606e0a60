"""`launch estimate`, and `plan` and `dpo` without a requirement file, as a person types them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.machine import gpus
from tests.acceptance.program import Program
from tests.bench.case import write_case
from tests.catalogues.files import write_small

README = Path(__file__).parents[2] / "README.md"

MODEL, TRAIN = ("--model", "stage_a/adapter"), ("--train", "data/train.jsonl")


@pytest.fixture
def without_file(small: Program) -> Program:
    """The small project without its requirement file and what goes with it."""
    (small.folder / "requirement.json").unlink()
    (small.folder / "launch.toml").write_text('val = "data/val.jsonl"\nbatch_size = 8\nmax_length = 192\n')
    return small


def test_the_case_in_one_screen_of_80_columns(program: Program) -> None:
    write_case(program.folder)
    done = program.good("estimate", "--model", "Mistral-7B/config.json", "--yes")
    screen = done.stdout.splitlines()
    assert max(map(len, screen)) <= 80
    assert len(screen) <= 24
    text = " ".join(done.stdout.split())
    assert "8,037,076,992 parameters with the adapter. 6,815,744 of them (0.08%) are trained" in text
    assert "It is called Mistral-7B, and has 8.03 billion parameters, not 7." in text
    assert "12 GB (an RTX 5070) trains it whole up to 4,096 tokens: nf4-qlora-ckpt" in text
    assert "Two models are no option: Stage A, the reference, is in memory once already." in text
    assert "--train FILE" in done.stderr
    again = program.good("estimate", "--model", "Mistral-7B/config.json")
    assert "was made before" in again.stderr
    assert again.stdout == done.stdout


def shown(readme: str, first: str) -> list[str]:
    """The lines of the block of the README that begins so."""
    return next(block for block in readme.split("```\n") if block.startswith(first)).splitlines()


@pytest.mark.skipif(bool(gpus()), reason="the README shows the plan of a machine without a GPU")
def test_the_readme_shows_what_the_case_prints(program: Program, tmp_path: Path) -> None:
    """All but what this machine's own speed decides."""
    readme = README.read_text(encoding="utf-8")
    write_case(program.folder)
    priced = replace(program, environ={"LAUNCH_CATALOGS": str(write_small(tmp_path / "catalogs"))})
    words = ("--model", "Mistral-7B/config.json", "--train", "pairs.jsonl", "--max-length", "512", "--epochs", "2")
    estimate = priced.good("estimate", *words, "-o", "need.json", "--yes").stdout.splitlines()
    built = re.compile(r"(?<=\d)\+(cpu|cu\d+)")  # which build of PyTorch traces decides none of the numbers
    assert [built.sub("", line) for line in estimate] == [built.sub("", x) for x in shown(readme, "LlamaForCausalLM: ")]
    done = priced.run("plan", "dpo", "--requirements", "need.json", "--budget", "5", "--cloud", "any")
    assert done.returncode == 3
    plan, says = (
        [line for line in lines if "local CPU" not in line and "--within" not in line]
        for lines in ([*done.stdout.splitlines(), *done.stderr.splitlines()], shown(readme, "Nothing fits."))
    )
    # A column is as wide as its widest, and the steps, which all have, go where that is too wide.
    steps = ("steps", "16,968")
    plan, says = ([[word for word in line.split() if word not in steps] for line in lines] for lines in (plan, says))
    assert plan == says
    assert len(shown(readme, "Nothing fits.")) <= 33
    assert max(map(len, [*done.stdout.splitlines(), *done.stderr.splitlines()])) <= 80


def test_what_is_estimated_is_planned_and_trained(without_file: Program) -> None:
    file = without_file.folder / "out" / "need it.json"
    file.parent.mkdir()
    done = without_file.good("estimate", *MODEL, *TRAIN, "-o", str(file), "--yes")
    assert "96 of 96 training pairs can be used at max_length 192" in done.stdout
    need = json.loads(file.read_text())
    assert need["schema"] == "hardware-requirement/1"
    assert {row["precision"] for row in need["measured"]} >= {"fp32"}
    assert need["workload"]["model"]["adapter"]["trainable_parameters"] == 12288

    from_file = without_file.document("plan", "dpo", "--requirements", str(file), "--partial")
    estimated = without_file.run("plan", "dpo", *MODEL, *TRAIN, "--partial", "--json")
    assert estimated.returncode == 0, estimated.stderr
    assert "was made before" in estimated.stderr
    plan = json.loads(estimated.stdout)
    assert [offer["option"] for offer in plan["offers"]] == [offer["option"] for offer in from_file["offers"]]
    assert plan["steps"] == from_file["steps"] == 1

    without_file.good("dpo", *MODEL, *TRAIN, "--max-steps", "2", "--yes")
    job = without_file.job("dpo-1")
    assert (job["outcome"], job["step"]) == ("succeeded", 2)
    kept = json.loads((Path(job["results"]) / "requirement.json").read_text())
    assert [option["flop_per_step"] for option in kept["options"]] == [
        option["flop_per_step"] for option in need["options"]
    ]

    # A model without weights can be priced; other pairs are other content.
    (without_file.folder / "bare.json").write_text((without_file.folder / "stage_a/base/config.json").read_text())
    pairs = without_file.folder / "data" / "train.jsonl"
    pairs.write_text("".join(pairs.read_text().splitlines(keepends=True)[:40]))
    anew = without_file.good("plan", "dpo", "--model", "bare.json", *TRAIN)
    assert "was made before" not in anew.stderr
    assert "There are no weights" in anew.stderr
    assert "of 5 in an epoch" in anew.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("estimate",), "No model is named."),
        (("estimate", "--model", "stage_a/adapter", "--train", "none.jsonl"), "There is no file"),
        (("estimate", "--model", "stage_a/nothing"), "No folder here has that name."),
        (("estimate", "--model", "README.md"), "is a file, and a model is a folder"),
        (("estimate", *MODEL, "--lora-target", "no_proj", "--batch-size", "0"), "--batch-size"),
        (("estimate", *MODEL, *TRAIN, "-o", "nowhere/need.json"), "cannot be written"),
        (("plan", "dpo"), "no requirement file, and no --model and no --train"),
        (("dpo", *MODEL), "no requirement file, and no --train"),
        (("dpo", *TRAIN), "no requirement file, and no --model"),
        (("dpo", "--model", "bare.json", *TRAIN, "--yes"), "is a file, and a model is a folder"),
    ],
)
def test_bad_input_is_said_with_the_next_step(without_file: Program, words: tuple[str, ...], says: str) -> None:
    config = (without_file.folder / "stage_a" / "base" / "config.json").read_text()
    (without_file.folder / "bare.json").write_text(config)
    offline = replace(without_file, environ={"HF_HUB_OFFLINE": "1"})
    done = offline.run(*words)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Next: " in done.stderr
    assert "Traceback" not in done.stderr
    assert without_file.document("status")["jobs"] == []
