"""The sample project: what is held out stays out, what is right is right, and the model knows every word of it."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.demo import notes
from launcher.demo.project import STAGE_A, write_project
from launcher.requirement_file import read_requirement
from train.facts import Fact, check, is_facts_file, read_facts
from train.pairs import read_pairs

SEEDS = st.integers(min_value=-(2**63), max_value=2**63)
SPLITS = ("train", "val", "test")
# Every value of every kind, in facts that are otherwise the same.
USUAL = notes.Facts("54", "man", "knee pain", "left", "3 weeks", "naproxen", "10", "latex")
EVERY_VALUE = [
    *(replace(USUAL, age=age) for age in notes.AGES),
    *(replace(USUAL, sex=sex, side=side) for sex in notes.SEXES for side in notes.SIDES),
    *(replace(USUAL, complaint=complaint) for complaint in notes.SIDED),
    *(replace(USUAL, complaint=complaint, side=None) for complaint in notes.UNSIDED),
    *(replace(USUAL, duration=duration) for duration in notes.DURATIONS),
    *(replace(USUAL, drug=drug) for drug in notes.DRUGS),
    *(replace(USUAL, dose=dose) for dose in notes.DOSES),
    *(replace(USUAL, allergy=allergy) for allergy in (*notes.ALLERGENS, None)),
]


def facts_of(facts: notes.Facts) -> list[Fact]:
    return [Fact.model_validate(line) for line in facts.lines()]


def drawn(seed: int, split: notes.Split, count: int = 60) -> list[notes.Facts]:
    return list(islice(notes.patients(seed, split), count))


@settings(max_examples=15, deadline=None)
@given(SEEDS, SEEDS)
def test_a_held_out_patient_is_in_no_other_split_of_any_seed(one: int, other: int) -> None:
    held_out = drawn(one, "test")
    others = {*drawn(other, "train"), *drawn(other, "val"), *drawn(one, "train"), *drawn(one, "val")}
    assert not others & set(held_out)
    assert len(set(held_out)) == len(held_out)
    # Not by luck of the draw: nothing but the facts themselves says where a patient belongs.
    assert {facts.split for facts in held_out} == {"test"}
    assert "test" not in {facts.split for facts in others}


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_the_same_seed_gives_the_same_patients_and_texts(seed: int) -> None:
    once, again = ([notes.pair(facts, Random(seed)) for facts in drawn(seed, "train", 10)] for _ in range(2))
    assert once == again


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_chosen_is_faithful_and_complete_and_rejected_has_a_wrong_fact(seed: int) -> None:
    random = Random(seed)
    for facts in (notes.draw_facts(random) for _ in range(40)):
        pair, known = notes.pair(facts, random), facts_of(facts)
        good, bad = check(pair["chosen"], known), check(pair["rejected"], known)
        assert (good.wrong, good.omitted) == ((), ())
        assert bad.hallucinated
        assert not bad.omitted


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_spoiled_facts_differ_in_one_to_three_kinds_which_are_those_that_the_check_names(seed: int) -> None:
    random = Random(seed)
    for facts in (notes.draw_facts(random) for _ in range(40)):
        spoiled = notes.spoil(facts, random)
        differences = facts.differences(spoiled)
        assert 1 <= len(differences) <= 3
        assert check(notes.write_summary(spoiled, random), facts_of(facts)).wrong == differences


@pytest.mark.parametrize("write", [notes.write_note, notes.write_summary])
def test_the_committed_tokenizer_knows_every_word(write: Callable[[notes.Facts, Random], str]) -> None:
    tokenizer = json.loads((STAGE_A / "base" / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary, splitter = tokenizer["model"]["vocab"], tokenizer["pre_tokenizer"]
    assert (tokenizer["model"]["type"], tokenizer["normalizer"], splitter["type"]) == ("WordLevel", None, "Split")
    piece, random = re.compile(splitter["pattern"]["Regex"]), Random(0)
    texts = {write(facts, random) for facts in EVERY_VALUE for _ in range(12)}
    assert {"".join(piece.findall(text)) for text in texts} == texts
    assert {word for text in texts for word in piece.findall(text)} <= vocabulary.keys()


def small_project(folder: Path, seed: int = 1) -> Path:
    write_project(folder, seed=seed, train_pairs=40, val_pairs=12, test_notes=20)
    return folder


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    def contents(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    one, same, other = (
        contents(small_project(tmp_path / name, seed)) for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    assert one == same
    assert {name for name in one if one[name] != other[name]} >= {f"data/{split}.jsonl" for split in SPLITS}


def test_the_requirement_is_read_without_a_warning_and_says_what_is_there(tmp_path: Path) -> None:
    folder = small_project(tmp_path / "-odd 'name'")
    requirement, warnings = read_requirement(folder / "requirement.json")
    assert warnings == []
    model, data = requirement.workload.model, requirement.workload.data
    assert model.adapter is not None
    assert model.base.path is not None
    assert (folder / model.base.path / "config.json").is_file()
    assert (folder / model.adapter.path / "adapter_config.json").is_file()
    assert data.val_path is not None
    for path, examples in ((data.train_path, data.train_examples), (data.val_path, data.val_examples)):
        assert len(list(read_pairs(folder / path))) == examples
    assert {option.device for option in requirement.options} == {"cuda", "cpu"}
    for option in requirement.options:
        for figure in ("min_ram_gib", "min_disk_gib", "min_vram_gib")[: 3 if option.device == "cuda" else 2]:
            assert "estimated, nobody measured" in option.basis[figure]


def test_held_out_notes_are_read_with_their_facts_and_were_not_trained_on(tmp_path: Path) -> None:
    data = small_project(tmp_path / "sample") / "data"
    assert is_facts_file(data / "test.jsonl")
    held_out = list(read_facts(data / "test.jsonl"))
    assert len(held_out) == 20
    assert all([fact.name for fact in line.facts] == list(notes.KINDS) for line in held_out)
    trained = {pair.prompt for name in ("train", "val") for pair in read_pairs(data / f"{name}.jsonl")}
    assert not trained & {line.prompt for line in held_out}


def test_stage_a_has_at_most_8_mb() -> None:
    assert sum(path.stat().st_size for path in STAGE_A.rglob("*") if path.is_file()) <= 8_000_000
