# pyright: basic
"""The sample project's claim, and that it can fail: what partial training is for, measured by generation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.demo.project import write_project

STEPS, NOTES = 100, 300
AT_MOST, STAGE_A_RANGE, OMITTED_MORE = 0.15, (0.5, 0.7), 0.03


def holds(document: dict[str, Any]) -> bool:
    """The claim: at most 15% of summaries are wrong, and the policy does not get there by saying less."""
    measures = {measure["name"]: measure for measure in document["measures"] if measure["fact"] is None}
    wrong, omitted = measures["hallucinated_summaries"], measures["omitted_facts"]
    says_no_less = omitted["stage_b"]["value"] <= omitted["stage_a"]["value"] + OMITTED_MORE
    return bool(wrong["stage_b"]["value"] <= AT_MOST and says_no_less)


def run(command: str, config: Path) -> None:
    environ = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(
        [sys.executable, "-m", "train", command, "--config", str(config)],
        env=environ, check=True, timeout=240, capture_output=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_project(folder)
    return folder


def model(project: Path) -> dict[str, str]:
    return {"base": str(project / "stage_a" / "base"), "adapter": str(project / "stage_a" / "adapter")}


def training(project: Path) -> dict[str, Any]:
    import tomllib

    settings = tomllib.loads((project / "launch.toml").read_text())
    return {name: settings[name] for name in ("batch_size", "max_length", "learning_rate", "beta", "eval_every")}


def trained(project: Path, name: str, train: Path, val: Path | None = None) -> Path:
    """`adapter/` after a tenth of an epoch on these pairs: the best on `val`, else the last."""
    config = project / f"{name}.json"
    document = {
        "schema": "run/1", "job": name, "model": model(project),
        "data": {"train": str(train), "val": str(val) if val else None},
        "training": {**training(project), "max_steps": STEPS},
        "output_dir": str(project / name), "reference_cache": str(project / "reference"),
    }  # fmt: skip
    config.write_text(json.dumps(document))
    run("dpo", config)
    return project / name / "adapter"


def evaluated(project: Path, name: str, adapter: Path) -> dict[str, Any]:
    config, output = project / f"{name}-eval.json", project / f"{name}-result.json"
    document = {
        "schema": "evalrun/1", "job": name, "model": model(project), "trained_adapter": str(adapter),
        "test": str(project / "data" / "test.jsonl"), "train": str(project / "data" / "train.jsonl"),
        "output": str(output), "reference_cache": str(project / "reference"), "max_examples": NOTES,
    }  # fmt: skip
    config.write_text(json.dumps(document))
    run("evaluate", config)
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def test_a_tenth_of_an_epoch_brings_hallucination_from_60_to_at_most_15_percent(project: Path) -> None:
    data = project / "data"
    adapter = trained(project, "right", data / "train.jsonl", data / "val.jsonl")
    lines = [json.loads(line) for line in (project / "right" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "val"] == list(range(20, STEPS + 1, 20))
    document = evaluated(project, "right", adapter)
    first = document["measures"][0]
    low, high = STAGE_A_RANGE
    assert first["stage_a"]["n"] == first["stage_b"]["n"] == NOTES
    assert low <= first["stage_a"]["value"] <= high
    assert holds(document), json.dumps(first)


def test_an_adapter_trained_on_swapped_pairs_fails_it(project: Path) -> None:
    swapped = project / "data" / "swapped.jsonl"
    lines = [json.loads(line) for line in (project / "data" / "train.jsonl").read_text().splitlines()]
    swapped.write_text(
        "".join(json.dumps({**line, "chosen": line["rejected"], "rejected": line["chosen"]}) + "\n" for line in lines)
    )
    assert not holds(evaluated(project, "wrong", trained(project, "wrong", swapped)))


def test_an_untrained_adapter_fails_it(project: Path) -> None:
    document = evaluated(project, "untrained", project / "stage_a" / "adapter")
    assert not holds(document)
    first = document["measures"][0]
    assert first["stage_a"] == first["stage_b"]  # the same policy with the same seeds writes the same summaries
