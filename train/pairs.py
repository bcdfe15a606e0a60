"""What a method trains on, in a JSONL file that is read one line at a time: preference pairs, or completions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

from train.config import Method
from train.jsonl import MAX_LINE_BYTES, bad_line, read_objects

Message = Mapping[str, Any]
Text = str | tuple[Message, ...]

# The first key that a line has is taken. `instruction` may have an `input` beside it, and any of them a `system`.
PROMPT_KEYS = ("prompt", "question", "instruction", "input")
CHOSEN_KEYS = ("chosen", "chosen_response", "accepted", "preferred")
REJECTED_KEYS = ("rejected", "rejected_response", "dispreferred")

COMPLETION_KEYS = ("completion", "response", "answer", "output", "summary")

GOOD_LINE = '{"prompt": "What is 2 + 2?", "chosen": "4", "rejected": "5"}'
GOOD_CHAT = (
    '{"prompt": [{"role": "user", "content": "What is 2 + 2?"}], '
    '"chosen": [{"role": "assistant", "content": "4"}], "rejected": [{"role": "assistant", "content": "5"}]}'
)


GOOD_COMPLETION = '{"prompt": "What is 2 + 2?", "completion": "4"}'
GOOD_LABELLED = '{"prompt": "What is 2 + 2?", "completion": "4", "label": true}'

GOOD_MESSAGES = '{"messages": [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"}]}'


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt with the completion that people preferred and the one that they did not.

    All are strings, or all are tuples of chat messages (`role` and `content`, both strings). A completion never repeats
    the prompt. `line` counts from 1. An example of SFT has no rejected; one of KTO has one of the two: it is wanted, or
    it is not.
    """

    prompt: Text
    chosen: Text | None
    rejected: Text | None
    line: int


def read_pairs(path: Path | str, method: Method = "dpo", *, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Pair]:
    """The examples of a JSONL file in UTF-8, in order; blank lines are skipped.

    DPO and ORPO train on preference pairs. SFT takes a completion (`prompt` and `completion`, or `messages` of which
    the last is the completion), KTO one with a `label`. Of a preference pair SFT takes chosen, and KTO makes two.
    At most one line is in memory, and never more than `max_line_bytes` of it.

    Raises:
        DataError: the file cannot be read or holds no example, or a line is none.
    """
    path = Path(path)
    noun, good, read = _READERS[method]
    for number, record in read_objects(path, noun=noun, good=good, max_line_bytes=max_line_bytes):
        yield from read(path, number, record)


def count_pairs(path: Path | str, method: Method = "dpo") -> int:
    """How many examples a file holds. Every line is checked as `read_pairs` does."""
    return sum(1 for _ in read_pairs(path, method))


def _preference(path: Path, number: int, record: dict[str, Any]) -> Iterator[Pair]:
    yield _pair(path, number, record)


def _completion(path: Path, number: int, record: dict[str, Any]) -> Iterator[Pair]:
    if _is_pair(record):
        pair = _pair(path, number, record)
        yield Pair(pair.prompt, pair.chosen, None, number)
    else:
        yield Pair(*_single(path, number, record, GOOD_COMPLETION), None, number)


def _labelled(path: Path, number: int, record: dict[str, Any]) -> Iterator[Pair]:
    if _is_pair(record):
        pair = _pair(path, number, record)
        yield Pair(pair.prompt, pair.chosen, None, number)
        yield Pair(pair.prompt, None, pair.rejected, number)
        return
    label = record.get("label")
    if not isinstance(label, bool):
        said = "no label" if "label" not in record else f"label is {json.dumps(label)[:40]}"
        _bad(path, number, f"{said}: it is true where the completion is wanted, else false", GOOD_LABELLED)
    prompt, completion = _single(path, number, record, GOOD_LABELLED)
    yield Pair(prompt, completion, None, number) if label else Pair(prompt, None, completion, number)


def _is_pair(record: Mapping[str, Any]) -> bool:
    return all(any(key in record for key in keys) for keys in (CHOSEN_KEYS, REJECTED_KEYS))


def _single(path: Path, number: int, record: dict[str, Any], good: str) -> tuple[Text, Text]:
    """The prompt and the one completion of a line."""
    if "messages" in record:
        messages = _text(path, number, "messages", record["messages"])
        if isinstance(messages, str) or len(messages) < 2 or messages[-1]["role"] != "assistant":
            _bad(path, number, "messages do not end with an answer of the assistant", GOOD_MESSAGES)
        return messages[:-1], messages[-1:]
    key = next((key for key in (*COMPLETION_KEYS, *CHOSEN_KEYS) if key in record), None)
    if key is None:
        _bad(path, number, f"no completion: none of the keys {', '.join((*COMPLETION_KEYS, 'messages'))}", good)
    completion, prompt = _text(path, number, key, record[key]), _prompt(path, number, record)
    if prompt is None:
        _bad(path, number, f"no prompt: none of the keys {', '.join(PROMPT_KEYS)}", good)
    if isinstance(completion, tuple) and not isinstance(prompt, tuple):
        said_before = completion[:-1]  # where a conversation stands in the place of its last answer
        return said_before or _spoken("user", prompt), completion[-1:]
    if isinstance(completion, tuple) and completion[: len(prompt)] == prompt:
        return prompt, completion[len(prompt) :]
    if isinstance(prompt, tuple) and isinstance(completion, str):
        return prompt, _spoken("assistant", completion)
    return prompt, completion


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


_Reader = Callable[[Path, int, dict[str, Any]], Iterator[Pair]]
_READERS: dict[Method, tuple[str, str, _Reader]] = {
    "dpo": ("preference pair", GOOD_LINE, _preference),
    "orpo": ("preference pair", GOOD_LINE, _preference),
    "kto": ("completion with a label", GOOD_LABELLED, _labelled),
    "sft": ("completion", GOOD_COMPLETION, _completion),
}
"""What a line is, one that is right, and what makes examples of one."""
