"""What is read as a preference pair, and how a line that is none is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from train.config import Method
from train.errors import DataError
from train.pairs import Pair, count_pairs, read_pairs

USER = {"role": "user", "content": "Q"}
GOOD = {"role": "assistant", "content": "yes"}
BAD = {"role": "assistant", "content": "no"}


def one(tmp_path: Path, record: object) -> Pair:
    path = tmp_path / "-odd 'name'\n.jsonl"
    path.write_text(json.dumps(record), encoding="utf-8")
    (pair,) = read_pairs(path)
    return pair


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"prompt": "Q"}, "Q"),
        ({"question": "Q"}, "Q"),
        ({"input": "Q"}, "Q"),
        ({"instruction": "I", "input": "Q"}, "I\nQ"),
        ({"system": "S", "question": "Q"}, "S\n\nQ"),
    ],
)
def test_common_spellings_of_a_prompt(tmp_path: Path, record: dict[str, str], prompt: str) -> None:
    assert one(tmp_path, record | {"chosen": "yes", "rejected": "no"}) == Pair(prompt, "yes", "no", 1)


@pytest.mark.parametrize(
    "record",
    [
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": "Q", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "Q", "chosen": GOOD, "rejected": BAD},
        {"prompt": [USER], "chosen": "yes", "rejected": "no"},
    ],
)
def test_chats_in_all_forms_are_the_same_pair(tmp_path: Path, record: object) -> None:
    assert one(tmp_path, record) == Pair((USER,), (GOOD,), (BAD,), 1)


def test_equal_chats_keep_a_completion(tmp_path: Path) -> None:
    assert one(tmp_path, {"chosen": [USER, GOOD], "rejected": [USER, GOOD]}) == Pair((USER,), (GOOD,), (GOOD,), 1)


def test_bom_crlf_blank_lines_and_line_separators_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    line = '{"prompt": "a\u2028b", "chosen": "\\u0000é", "rejected": "n"}'
    path.write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n\r\n  \n{line}".encode())
    assert [(pair.prompt, pair.line) for pair in read_pairs(path)] == [("a\u2028b", 1), ("a\u2028b", 4)]
    assert count_pairs(path) == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "an array"),
        (b"7", "int"),
        (b'{"prompt": "\xff"}', "not UTF-8"),
        (b'{"prompt": "p", "chosen": "c"}', "no rejected"),
        (b'{"chosen": "c", "rejected": "r"}', "no prompt"),
        (b'{"prompt": null, "chosen": "c", "rejected": "r"}', "prompt is null"),
        (b'{"prompt": 3, "chosen": "c", "rejected": "r"}', "prompt is a int"),
        (b'{"prompt": "p", "chosen": "c", "rejected": ["r"]}', r"rejected\[0\] is not a message"),
        (b'{"prompt": "p", "chosen": "c", "rejected": [{"role": "user"}]}', "has no content"),
        (b'{"prompt": "p", "chosen": "c", "rejected": [{"role": "assistant", "content": "r"}]}', "one completion"),
        (b'{"prompt": "p", "chosen": "c", "rejected": "r", "score": NaN}', "NaN"),
        (b'{"prompt": "p", "chosen": "c", "rejected": "r", "score": -Infinity}', "Infinity"),
        (b'{"prompt": "\\ud83d", "chosen": "c", "rejected": "r"}', "surrogate"),
        (b"[" * 200_000, "nested too deeply|not valid JSON"),
    ],
)
def test_a_bad_line_is_named_by_file_number_and_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"prompt": "p", "chosen": "c", "rejected": "r"}\n' + line + b"\n")
    with pytest.raises(DataError, match=reason) as caught:
        list(read_pairs(path))
    assert f"{path}, line 2" in str(caught.value)
    assert '{"prompt":' in caught.value.next_step


def test_a_line_of_a_gigabyte_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"prompt": "p", "chosen": "c", "rejected": "r"}\n')
    with path.open("r+b") as file:
        file.truncate(2**30)  # a hole: one line of zeros, with nothing on the disk
    with pytest.raises(DataError, match="line 2: the line is longer than 33,554,432 bytes"):
        list(read_pairs(path))


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_a_file_without_pairs_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match="holds no preference pair"):
        count_pairs(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        count_pairs(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="a folder"):
        count_pairs(tmp_path)


COMPLETIONS = [
    ({"prompt": "Q", "completion": "yes"}, Pair("Q", "yes", None, 1)),
    ({"instruction": "I", "input": "Q", "output": "yes"}, Pair("I\nQ", "yes", None, 1)),
    ({"prompt": [USER], "completion": "yes"}, Pair((USER,), (GOOD,), None, 1)),
    ({"prompt": "Q", "completion": [GOOD]}, Pair((USER,), (GOOD,), None, 1)),
    ({"messages": [USER, GOOD]}, Pair((USER,), (GOOD,), None, 1)),
    ({"prompt": [USER], "completion": [USER, GOOD]}, Pair((USER,), (GOOD,), None, 1)),
    ({"prompt": "Q", "completion": [USER, GOOD]}, Pair((USER,), (GOOD,), None, 1)),
    ({"prompt": "Q", "chosen": "yes", "rejected": "no"}, Pair("Q", "yes", None, 1)),
]


def read_one(tmp_path: Path, record: object, method: Method) -> list[Pair]:
    path = tmp_path / "examples.jsonl"
    path.write_text(json.dumps(record), encoding="utf-8")
    return list(read_pairs(path, method))


@pytest.mark.parametrize(("record", "expected"), COMPLETIONS)
def test_a_completion_in_all_forms_is_an_example_of_sft(tmp_path: Path, record: object, expected: Pair) -> None:
    assert read_one(tmp_path, record, "sft") == [expected]


@pytest.mark.parametrize(("record", "expected"), COMPLETIONS[:7])
def test_an_example_of_kto_is_wanted_or_not(tmp_path: Path, record: dict[str, object], expected: Pair) -> None:
    assert read_one(tmp_path, record | {"label": True}, "kto") == [expected]
    unwanted = Pair(expected.prompt, None, expected.chosen, 1)
    assert read_one(tmp_path, record | {"label": False}, "kto") == [unwanted]


def test_a_preference_pair_is_a_wanted_and_an_unwanted_example(tmp_path: Path) -> None:
    both = read_one(tmp_path, {"prompt": "Q", "chosen": "yes", "rejected": "no"}, "kto")
    assert both == [Pair("Q", "yes", None, 1), Pair("Q", None, "no", 1)]
    assert count_pairs(tmp_path / "examples.jsonl", "kto") == 2


@pytest.mark.parametrize(
    ("method", "record", "reason"),
    [
        ("sft", {"prompt": "Q"}, "no completion: none of the keys completion"),
        ("sft", {"completion": "yes"}, "no prompt"),
        ("sft", {"messages": [USER]}, "messages do not end with an answer"),
        ("sft", {"messages": [GOOD, USER]}, "messages do not end with an answer"),
        ("kto", {"prompt": "Q", "completion": "yes"}, "no label: it is true where the completion is wanted"),
        ("kto", {"prompt": "Q", "completion": "yes", "label": 1}, "label is 1: it is true"),
        ("orpo", {"prompt": "Q", "completion": "yes"}, "no chosen"),
    ],
)
def test_a_line_that_is_no_example_of_the_method_is_named(
    tmp_path: Path, method: Method, record: object, reason: str
) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        read_one(tmp_path, record, method)
    assert "examples.jsonl, line 1" in str(caught.value)
    assert '{"prompt":' in caught.value.next_step or '{"messages":' in caught.value.next_step
