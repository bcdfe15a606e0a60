"""Preference pairs in a JSONL file, read one line at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

from train.jsonl import MAX_LINE_BYTES, bad_line, read_objects

Message = Mapping[str, Any]
Text = str | tuple[Message, ...]

# The first key that a line has is taken. `instruction` may have an `input` beside it, and any of them a `system`.
PROMPT_KEYS = ("prompt", "question", "instruction", "input")
CHOSEN_KEYS = ("chosen", "chosen_response", "accepted", "preferred")
REJECTED_KEYS = ("rejected", "rejected_response", "dispreferred")

GOOD_LINE = '{"prompt": "What is 2 + 2?", "chosen": "4", "rejected": "5"}'
GOOD_CHAT = (
    '{"prompt": [{"role": "user", "content": "What is 2 + 2?"}], '
    '"chosen": [{"role": "assistant", "content": "4"}], "rejected": [{"role": "assistant", "content": "5"}]}'
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt with the completion that people preferred and the one that they did not.

    All three are strings, or all three are tuples of chat messages (`role` and `content`, both strings). A completion
    never repeats the prompt. `line` counts from 1.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    line: int


def read_pairs(path: Path | str, *, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Pair]:
    """The pairs of a JSONL file in UTF-8, in order; blank lines are skipped.

    At most one line is in memory, and never more than `max_line_bytes` of it.

    Raises:
        DataError: the file cannot be read or holds no pair, or a line is not a preference pair.
    """
    path = Path(path)
    lines = read_objects(path, noun="preference pair", good=GOOD_LINE, max_line_bytes=max_line_bytes)
    return (_pair(path, number, record) for number, record in lines)


def count_pairs(path: Path | str) -> int:
    """How many pairs a file holds. Every line is checked as `read_pairs` does."""
    return sum(1 for _ in read_pairs(path))


def _bad(path: Path, number: int, reason: str, good: str = GOOD_LINE) -> NoReturn:
    bad_line(path, number, reason, good)


def _pair(path: Path, number: int, record: dict[str, Any]) -> Pair:
    chosen = _text(path, number, *_field(path, number, record, CHOSEN_KEYS))
    rejected = _text(path, number, *_field(path, number, record, REJECTED_KEYS))
    if isinstance(chosen, str) != isinstance(rejected, str):
        _bad(path, number, "one completion is a string and the other a list of messages")
    prompt = _prompt(path, number, record)
    if isinstance(chosen, tuple) and isinstance(rejected, tuple):
        return Pair(*_chat(path, number, prompt, chosen, rejected), number)
    if prompt is None:
        _bad(path, number, f"no prompt: none of the keys {', '.join(PROMPT_KEYS)}")
    if isinstance(prompt, tuple) and isinstance(chosen, str) and isinstance(rejected, str):
        return Pair(prompt, _spoken("assistant", chosen), _spoken("assistant", rejected), number)
    return Pair(prompt, chosen, rejected, number)


def _field(path: Path, number: int, record: dict[str, Any], keys: tuple[str, ...]) -> tuple[str, object]:
    key = next((key for key in keys if key in record), None)
    if key is None:
        _bad(path, number, f"no {keys[0]}: none of the keys {', '.join(keys)}")
    return key, record[key]


def _text(path: Path, number: int, key: str, value: object) -> Text:
    """A string, or a list of messages (one message by itself counts as a list of one)."""
    if isinstance(value, str):
        _check_characters(path, number, key, value)
        return value
    if not isinstance(value, list | dict):
        kind = "null" if value is None else f"a {type(value).__name__}"
        _bad(path, number, f"{key} is {kind}, not a string or a list of messages")
    messages = cast("list[object]", [value] if isinstance(value, dict) else value)
    for index, message in enumerate(messages):
        where = f"{key}[{index}]"
        if not isinstance(message, dict):
            _bad(path, number, f"{where} is not a message", GOOD_CHAT)
        for name in ("role", "content"):
            part = cast("dict[str, object]", message).get(name)
            if not isinstance(part, str):
                _bad(path, number, f"{where} has no {name} that is a string", GOOD_CHAT)
            _check_characters(path, number, f"{where}.{name}", part)
    return tuple(cast("list[dict[str, Any]]", messages))


def _check_characters(path: Path, number: int, where: str, text: str) -> None:
    """No tokenizer can read half of a surrogate pair (`"\\ud83d"` by itself), which a cut in UTF-16 leaves behind."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        _bad(path, number, f"{where} has half of a surrogate pair ({half}) at character {error.start + 1}")


def _prompt(path: Path, number: int, record: dict[str, Any]) -> Text | None:
    key = next((key for key in PROMPT_KEYS if key in record), None)
    if key is None:
        return None
    prompt = _text(path, number, key, record[key])
    if isinstance(prompt, tuple):
        return prompt
    if key == "instruction" and record.get("input"):
        more = _text(path, number, "input", record["input"])
        if not isinstance(more, str):
            _bad(path, number, "input is a list of messages beside an instruction")
        prompt = f"{prompt}\n{more}"
    system = _text(path, number, "system", record["system"]) if record.get("system") else ""
    if not isinstance(system, str):
        _bad(path, number, "system is not a string")
    return f"{system}\n\n{prompt}" if system else prompt


def _spoken(role: str, content: str) -> tuple[Message, ...]:
    return ({"role": role, "content": content},)


def _chat(
    path: Path, number: int, prompt: Text | None, chosen: tuple[Message, ...], rejected: tuple[Message, ...]
) -> tuple[Text, Text, Text]:
    """Prompt and completions as messages; a prompt that both completions begin with is taken out of them.

    A prompt of messages is what it is. A prompt string beside completions that share their first messages is the last
    of these (as in UltraFeedback): the shared messages are the prompt, at most all but the last one.
    """
    if isinstance(prompt, tuple) and prompt:
        size = len(prompt)
        inside = chosen[:size] == prompt and rejected[:size] == prompt
        return (prompt, chosen[size:], rejected[size:]) if inside else (prompt, chosen, rejected)
    shared = 0
    for one, other in zip(chosen[:-1], rejected[:-1], strict=False):
        if one != other:
            break
        shared += 1
    if shared:
        return chosen[:shared], chosen[shared:], rejected[shared:]
    if isinstance(prompt, str):
        return _spoken("user", prompt), chosen, rejected
    if prompt is None:
        _bad(path, number, "no prompt, and the messages of chosen and rejected share no beginning", GOOD_CHAT)
    return prompt, chosen, rejected
