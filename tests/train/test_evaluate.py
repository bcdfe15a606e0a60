# pyright: basic
"""What is refused as held-out data, and what an evaluation of preference pairs says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from launcher.demo.project import write_project
from train.config import EvalConfig
from train.errors import DataError, InputError
from train.evaluate import run
from train.proxy import unsupported


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_project(folder, train_pairs=24, val_pairs=8, test_notes=16)
    return folder


def config(project: Path, **changed: Any) -> EvalConfig:
    document = {
        "job": "dpo-1",
        "model": {"base": str(project / "stage_a" / "base"), "adapter": str(project / "stage_a" / "adapter")},
        "trained_adapter": str(project / "stage_a" / "adapter"),
        "test": str(project / "data" / "test.jsonl"),
        "train": str(project / "data" / "train.jsonl"),
        "val": str(project / "data" / "val.jsonl"),
        "output": str(project / "eval.json"),
        "reference_cache": str(project / "reference"),
        "training": {"max_length": 192},
        "max_new_tokens": 60,
    }
    return EvalConfig.model_validate(document | changed)


def test_the_data_on_which_it_was_trained_or_chosen_is_refused(project: Path) -> None:
    for name in ("train", "val"):
        with pytest.raises(DataError, match=r"is the data on which the adapter is (trained|chosen)"):
            run(config(project, test=str(project / "data" / f"{name}.jsonl")))


def test_a_copy_of_training_prompts_is_refused(project: Path) -> None:
    copy = project / "copy.jsonl"
    lines = (project / "data" / "train.jsonl").read_text().splitlines(keepends=True)
    copy.write_text("".join(lines[:3]))
    with pytest.raises(DataError, match=r"is not held out: 3 lines of .*train\.jsonl"):
        run(config(project, test=str(copy)))


def test_facts_give_rates_by_kind_with_intervals(project: Path) -> None:
    assert run(config(project)) == 0
    document = json.loads((project / "eval.json").read_text())
    names = [(measure["name"], measure["fact"]) for measure in document["measures"]]
    assert names[0] == ("hallucinated_summaries", None)
    assert ("omitted_facts", None) in names
    kinds = [fact for name, fact in names if name == "hallucinated"]
    assert len(kinds) == 8
    for measure in document["measures"]:
        assert measure["kind"] == "rate"
        value = measure["stage_a"]
        assert value is None or 0 <= value["low"] <= value["value"] <= value["high"] <= 1


def test_pairs_give_loss_ln_2_and_margin_0_for_stage_a_itself_and_a_proxy(project: Path) -> None:
    other = project / "other"
    write_project(other, seed=9, train_pairs=12, val_pairs=2, test_notes=2)
    assert run(config(project, test=str(other / "data" / "train.jsonl"), train=None, val=None)) == 0
    document = json.loads((project / "eval.json").read_text())
    found = {measure["name"]: measure for measure in document["measures"]}
    assert found["loss"]["stage_b"]["value"] == pytest.approx(math.log(2), abs=1e-6)
    assert found["margin"]["stage_b"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["reward_accuracy"]["kind"] == "rate"
    assert found["unsupported_terms"]["kind"] == "proxy"
    assert found["unsupported_terms"]["stage_a"]["n"] > 0


def test_an_adapter_that_cannot_be_loaded_is_named(project: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        run(config(project, trained_adapter=str(project / "nowhere")))


@pytest.mark.parametrize(
    ("summary", "source", "expected"),
    [
        ("takes 500 mg daily", "given 500 mg of it", (0, 1)),
        ("takes 850 mg daily", "given 500 mg of it", (1, 1)),
        ("sees Doctor Smith in 3 weeks", "comes back in 3 weeks", (2, 3)),
        ("The cough is gone", "a cough", (0, 0)),
        ("on aspirin", "no drugs", (1, 1)),
    ],
)
def test_the_proxy_counts_what_the_source_does_not_say(summary: str, source: str, expected: tuple[int, int]) -> None:
    assert unsupported(summary, source, frozenset({"aspirin"})) == expected
