"""The requirement file: read as it is, or refused with the key that is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.errors import UsageProblem
from launcher.requirement_file import read_requirement


def document() -> dict[str, Any]:
    return {
        "schema": "hardware-requirement/1",
        "workload": {
            "method": "dpo",
            "model": {"base": {"path": "base"}, "adapter": {"path": "adapter"}},
            "data": {"train_path": "train.jsonl", "train_examples": 8484},
            "training": {"epochs": 2, "batch_size": 1, "max_length": 512},
        },
        "options": [{"name": "cpu", "device": "cpu", "gpus": 0, "min_ram_gib": 1}],
    }


def written(tmp_path: Path, content: object) -> Path:
    file = tmp_path / "requirement.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def test_a_good_file_is_read_without_a_warning(tmp_path: Path) -> None:
    requirement, warnings = read_requirement(written(tmp_path, document()))
    assert requirement.workload.data.train_examples == 8484
    assert warnings == []


def test_unknown_keys_are_named(tmp_path: Path) -> None:
    found = document() | {"colour": "blue"}
    found["options"][0]["speed"] = 3
    _, warnings = read_requirement(written(tmp_path, found))
    assert [warning.split()[1] for warning in warnings] == ["colour", "options[0].speed"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match=r"no requirement file .*nowhere\.json"):
        read_requirement(tmp_path / "nowhere.json")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="cannot be read"):
        read_requirement(tmp_path)


@given(st.integers(min_value=0, max_value=len(json.dumps(document())) - 1))
def test_a_file_cut_off_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    file = written(tmp_path_factory.mktemp("cut"), json.dumps(document())[:length])
    with pytest.raises(UsageProblem):
        read_requirement(file)


@pytest.mark.parametrize("schema", ["hardware-requirement/2", "hardware-requirement/0", "other/1", None, 1])
def test_another_version_is_refused(tmp_path: Path, schema: object) -> None:
    with pytest.raises(UsageProblem, match="not hardware-requirement/1"):
        read_requirement(written(tmp_path, document() | {"schema": schema}))


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("options", 0, "min_ram_gib"), -1, "min_ram_gib"),
        (("options", 0, "min_vram_gib"), 5, "min_vram_gib"),
        (("options", 0, "device"), "tpu", "device"),
        (("options",), [], "options: there is none"),
        (("workload", "training", "epochs"), 0, "epochs"),
        (("workload", "training", "batch_size"), 1.5, "batch_size"),
        (("workload", "data", "train_examples"), 0, "train_examples"),
        (("workload", "model", "base"), {}, "base"),
        (("workload", "model", "base"), {"path": "a", "hub_id": "b/c"}, "base"),
    ],
)
def test_nonsense_is_named_by_its_key(tmp_path: Path, path: tuple[Any, ...], value: object, named: str) -> None:
    found = document()
    place: Any = found
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(UsageProblem, match=named):
        read_requirement(written(tmp_path, found))


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_is_none_is_refused(tmp_path: Path, word: str) -> None:
    text = json.dumps(document()).replace('"min_ram_gib": 1', f'"min_ram_gib": {word}')
    with pytest.raises(UsageProblem, match=f"{word} is not a number"):
        read_requirement(written(tmp_path, text))


def test_two_options_of_one_name_are_refused(tmp_path: Path) -> None:
    found = document()
    found["options"] *= 2
    with pytest.raises(UsageProblem, match="same name"):
        read_requirement(written(tmp_path, found))


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (
            {"device": "cuda", "gpus": 1, "min_vram_gib": 9.5},
            "less than its weights alone: 8,030,261,248 parameters are 15.0",
        ),
        ({"device": "cuda", "gpus": 1, "min_vram_gib": 12288}, "far more than its training needs"),
        (
            {"device": "cpu", "gpus": 0, "min_ram_gib": 20, "trainer": {"precision": "fp32"}},
            "less than its weights alone",
        ),
        ({"device": "cuda", "gpus": 1, "min_vram_gib": 9.5, "trainer": {"quantization": "nf4"}}, None),
        ({"device": "cuda", "gpus": 1, "min_vram_gib": 65.8}, None),
        ({"device": "cuda", "gpus": 1}, None),
    ],
)
def test_memory_that_the_parameters_contradict_is_named(
    tmp_path: Path, option: dict[str, Any], says: str | None
) -> None:
    found = document()
    found["workload"]["model"]["parameters"] = 8_030_261_248
    found["options"] = [{"name": "a way", **option}]
    file = written(tmp_path, found)
    if says is None:
        assert read_requirement(file)[1] == []
        return
    with pytest.raises(UsageProblem, match=says) as caught:
        read_requirement(file)
    assert "options.0.min_" in str(caught.value)


@pytest.mark.parametrize(
    ("max_length", "batch_size", "gib", "fits"),
    [
        (4096, 1, 55.7, True),
        (8192, 1, 140, True),
        (4096, 8, 420, True),
        (512, 1, 12288, False),
        (4096, 1, 12288, False),
    ],
)
def test_long_pairs_and_large_batches_may_need_many_times_the_weights(
    tmp_path: Path, max_length: int, batch_size: int, gib: float, fits: bool
) -> None:
    """What `launch estimate` traces of an 8B model in 4 bits without checkpointing is no contradiction."""
    found = document()
    found["workload"]["model"]["parameters"] = 8_030_261_248
    found["workload"]["training"] |= {"max_length": max_length, "batch_size": batch_size}
    found["options"] = [
        {"name": "nf4", "device": "cuda", "gpus": 1, "min_vram_gib": gib, "trainer": {"quantization": "nf4"}}
    ]
    file = written(tmp_path, found)
    if fits:
        assert read_requirement(file)[1] == []
        return
    with pytest.raises(UsageProblem, match="far more than its training needs"):
        read_requirement(file)


@pytest.mark.parametrize(("steps", "fits"), [(2122, True), (2120, True), (2121, True), (16968, False), (848, False)])
def test_steps_that_contradict_epochs_pairs_and_batch_are_named(tmp_path: Path, steps: int, fits: bool) -> None:
    found = document()
    found["workload"]["training"] |= {"batch_size": 8, "steps": steps}
    file = written(tmp_path, found)
    if fits:
        assert read_requirement(file)[1] == []
        return
    with pytest.raises(UsageProblem, match=r"workload\.training\.steps: .* contradict .* which are 2,121"):
        read_requirement(file)
