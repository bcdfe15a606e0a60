"""What a job's base is called in its results: as the user gave it, wherever that is on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.settings import Settings
from launcher.workload import model_ref, outgrown, with_settings
from tests.unit.train.test_stage_a import make_adapter, make_base
from train.config import ModelRef
from train.requirement import Requirement


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: `models/base`, `models/adapter` over it, and `base` beside the folder itself."""
    folder = tmp_path / "my project"
    make_base(folder / "models" / "base")
    make_adapter(folder / "models" / "adapter", "../base")
    make_base(tmp_path / "base")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    return folder


def ref(project: Path, source: dict[str, str], *, requirement_in: str = ".", **settings: str) -> ModelRef:
    workload = {
        "model": {"base": source, "adapter": {"path": str(project / "models" / "adapter")}},
        "data": {"train_path": "train.jsonl", "train_examples": 1},
        "training": {"epochs": 1, "batch_size": 1, "max_length": 8},
    }
    options = [{"name": "cpu", "device": "cpu", "gpus": 0}]
    document = {"schema": "hardware-requirement/1", "workload": workload, "options": options}
    requirement = with_settings(
        Requirement.model_validate(document), Settings.model_validate(settings), project / requirement_in
    )
    written = requirement.model_dump_json(by_alias=True)
    assert "named" not in written
    assert Requirement.model_validate_json(written).workload.model.base.path == requirement.workload.model.base.path
    return model_ref(requirement.workload.model)


@pytest.mark.parametrize("typed", ["models/base", "./models/base", "../base", "models/../models/base/"])
def test_a_relative_path_stays_as_it_was_typed(project: Path, typed: str) -> None:
    in_the_file = ref(project, {"path": typed})
    by_flags = ref(project, {"hub_id": "org/model"}, model="models/adapter", base=typed)
    for found in (in_the_file, by_flags):
        assert found.named == typed
        assert Path(found.base).is_absolute()
        assert Path(found.base).samefile(project / typed)
    assert ref(project, {"hub_id": "org/model"}, model=typed, adapter="none").named == typed


def test_an_absolute_path_stays_absolute(project: Path) -> None:
    assert ref(project, {"path": str(project / "models" / "base")}).named == str(project / "models" / "base")


def test_what_does_not_lead_there_from_the_project_is_named_so_that_it_does(project: Path) -> None:
    assert ref(project, {"path": "base"}, requirement_in="models").named == "models/base"
    (project / "models" / "x").mkdir()
    outside = ref(project, {"path": "../../../base"}, requirement_in="models/x").named
    assert Path(str(outside)).samefile(project.parent / "base")
    assert ref(project, {"path": "~/models/base"}).named == "models/base"
    by_the_adapter = ref(project, {"hub_id": "org/model"}, model="models/adapter")
    assert (project / str(by_the_adapter.named)).samefile(project / "models" / "base")
    assert not Path(str(by_the_adapter.named)).is_absolute()


def test_a_hub_id_and_its_revision_stay(project: Path) -> None:
    found = ref(project, {"hub_id": "org/model", "revision": "v2"})
    assert (found.base, found.base_revision, found.named) == ("org/model", "v2", None)
    assert json.loads(found.model_dump_json())["base"] == "org/model"


def need(batch_size: int = 2, max_length: int = 512) -> Requirement:
    workload = {
        "model": {"base": {"hub_id": "org/model"}},
        "data": {"train_path": "train.jsonl", "train_examples": 80},
        "training": {"epochs": 1, "batch_size": batch_size, "max_length": max_length},
    }
    options = [{"name": "cpu", "device": "cpu", "gpus": 0, "flop_per_step": 1e12}]
    return Requirement.model_validate({"schema": "hardware-requirement/1", "workload": workload, "options": options})


def test_a_step_of_four_times_the_pairs_is_four_times_the_work(tmp_path: Path) -> None:
    found = with_settings(need(), Settings(batch_size=8), tmp_path)
    assert found.options[0].flop_per_step == 4e12
    assert with_settings(need(), Settings(), tmp_path).options == need().options


@pytest.mark.parametrize(("method", "examples"), [("dpo", 2), ("orpo", 2), ("kto", 4), ("sft", 2)])
def test_data_is_counted_as_the_method_takes_it(tmp_path: Path, method: str, examples: int) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 2)
    settings = Settings.model_validate({"method": method, "train": file})
    assert with_settings(need(), settings, tmp_path).workload.data.train_examples == examples


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, None),
        ({"max_length": 512, "batch_size": 1}, None),
        ({"batch_size": 8, "micro_batch_size": 2}, None),
        ({"max_length": 1024}, "for max_length 512; 1,024 need more"),
        ({"batch_size": 8}, "for pairs at once 2; 8 need more"),
    ],
)
def test_flags_beyond_what_the_memory_is_meant_for_are_said(asked: dict[str, int], says: str | None) -> None:
    found = outgrown(need(), Settings.model_validate(asked))
    assert len(found) == (says is not None)
    assert says is None or says in found[0]
