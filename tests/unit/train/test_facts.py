"""What a summary states, checked against known facts; and how held-out data is read."""

import json
from pathlib import Path
from typing import Any

import pytest

from train.errors import DataError
from train.facts import GOOD_LINE, Fact, check, is_facts_file, read_facts

AGE = {"name": "age", "value": "54", "pattern": r"(\d+)-year-old"}
ALLERGY = {"name": "allergy", "value": None, "pattern": r"allergic to (\w+)"}


def facts(*documents: dict[str, Any]) -> list[Fact]:
    return [Fact.model_validate(document) for document in documents]


@pytest.mark.parametrize(
    ("summary", "wrong", "omitted"),
    [
        ("A 54-year-old man.", (), ()),
        ("A 54-YEAR-OLD man, seen as a 54-year-old.", (), ()),
        ("A 45-year-old man.", ("age",), ()),
        ("A 54-year-old man, a 45-year-old.", ("age",), ()),
        ("A man.", (), ("age",)),
        ("A man allergic to latex.", ("allergy",), ("age",)),
        ("A 45-year-old man allergic to latex.", ("age", "allergy"), ()),
        ("", (), ("age",)),
    ],
)
def test_a_statement_that_differs_or_was_invented_is_wrong_and_a_missing_one_omitted(
    summary: str, wrong: tuple[str, ...], omitted: tuple[str, ...]
) -> None:
    found = check(summary, facts(AGE, ALLERGY))
    assert (found.wrong, found.omitted) == (wrong, omitted)
    assert found.hallucinated == bool(wrong)


def test_values_are_compared_without_regard_to_case_and_space_around() -> None:
    drug = {"name": "drug", "value": " Straße ", "pattern": r"takes(\s\w+)"}
    assert check("TAKES STRASSE", facts(drug)) == check("takes straße", facts(drug))
    assert check("TAKES STRASSE", facts(drug)).wrong == ()


def test_a_group_that_did_not_take_part_states_something_else() -> None:
    either = {"name": "dose", "value": "5", "pattern": r"(\d+) mg|some mg"}
    assert check("some mg", facts(either)).wrong == ("dose",)


def test_a_number_may_stand_for_its_text() -> None:
    assert Fact.model_validate(AGE | {"value": 54}).value == "54"


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_lines_are_read_in_order_and_other_keys_are_left_to_others(tmp_path: Path) -> None:
    more = json.dumps({"prompt": "p", "facts": [AGE, ALLERGY], "id": 7})
    path = write(tmp_path / "-odd 'name'\n.jsonl", GOOD_LINE, "", more)
    first, second = read_facts(path)
    assert first.facts[0].stated("a 54-year-old") == ("54",)
    assert (second.prompt, [fact.name for fact in second.facts]) == ("p", ["age", "allergy"])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not valid JSON"),
        ('["prompt"]', "an array"),
        ({"facts": [AGE]}, "prompt: Field required"),
        ({"prompt": "", "facts": [AGE]}, "prompt: "),
        ({"prompt": "p"}, "facts: Field required"),
        ({"prompt": "p", "facts": []}, "facts: "),
        ({"prompt": "p", "facts": "age"}, "facts: "),
        ({"prompt": "p", "facts": [AGE, AGE]}, "facts: age is there twice"),
        ({"prompt": "p", "facts": [{"name": "age", "pattern": "(a)"}]}, r"facts\[0\].value: Field required"),
        ({"prompt": "p", "facts": [AGE | {"kind": 1}]}, r"facts\[0\].kind: Extra inputs"),
        ({"prompt": "p", "facts": [ALLERGY, AGE | {"pattern": "(5"}]}, r"facts\[1\].pattern: .* not a regular expr"),
        ({"prompt": "p", "facts": [AGE | {"pattern": "5"}]}, r"facts\[0\].pattern: '5' needs a group"),
        ({"prompt": "\ud83d", "facts": [AGE]}, "prompt: .* valid string"),
    ],
)
def test_a_bad_line_is_named_by_file_number_and_reason(tmp_path: Path, line: object, reason: str) -> None:
    path = write(tmp_path / "test.jsonl", GOOD_LINE, line if isinstance(line, str) else json.dumps(line))
    with pytest.raises(DataError, match=reason) as caught:
        list(read_facts(path))
    assert f"{path}, line 2: " in str(caught.value)
    assert GOOD_LINE in caught.value.next_step


def test_a_missing_and_an_empty_file_are_named(tmp_path: Path) -> None:
    for read in (is_facts_file, lambda path: list(read_facts(path))):
        with pytest.raises(DataError, match="no such file"):
            read(tmp_path / "absent.jsonl")
        with pytest.raises(DataError, match="holds no held-out text"):
            read(write(tmp_path / "empty.jsonl", "", " "))


def test_the_first_line_says_what_a_file_holds(tmp_path: Path) -> None:
    pair = '{"prompt": "p", "chosen": "c", "rejected": "r"}'
    assert is_facts_file(write(tmp_path / "facts.jsonl", "", GOOD_LINE, pair))
    assert not is_facts_file(write(tmp_path / "pairs.jsonl", pair, GOOD_LINE))
