# pyright: basic, reportMissingImports=false
"""Preference pairs as TRL tokenizes them.

The ids are those of its `DPOTrainer._prepare_dataset` (1.16): EOS closes a completion that is a string, chats go
through the tokenizer's template, the prompt is what the tokens of prompt, prompt + chosen and prompt + rejected have
in common.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from jinja2 import TemplateError

from train.errors import DataError, InputError
from train.pairs import Pair, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Row(TypedDict):
    """A pair as `DPOTrainer` reads it: token ids, at most max_length of prompt + completion."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


def tokenize(path: Path | str, pairs: list[Pair], tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """The rows of pairs, uncut, in order.

    Raises:
        InputError: a pair is a chat, and the tokenizer has no chat template.
        DataError: the chat template refuses a pair's messages.
    """
    rows: dict[int, Row] = {}
    strings = [(at, pair) for at, pair in enumerate(pairs) if isinstance(pair.prompt, str)]
    chats = [(at, pair) for at, pair in enumerate(pairs) if not isinstance(pair.prompt, str)]
    if strings:
        rows |= zip((at for at, _ in strings), _string_rows([pair for _, pair in strings], tokenizer), strict=True)
    if chats:
        rows |= zip((at for at, _ in chats), _chat_rows(path, [pair for _, pair in chats], tokenizer), strict=True)
    return [rows[at] for at in range(len(pairs))]


def _string_rows(pairs: list[Pair], tokenizer: PreTrainedTokenizerBase) -> Iterator[Row]:
    eos = tokenizer.eos_token

    def closed(completion: str) -> str:
        return completion if completion.endswith(eos) else completion + eos

    def ids(texts: list[str]) -> list[list[int]]:
        return tokenizer(text=texts, verbose=False)["input_ids"]

    return map(
        _row,
        ids([str(pair.prompt) for pair in pairs]),
        ids([str(pair.prompt) + closed(str(pair.chosen)) for pair in pairs]),
        ids([str(pair.prompt) + closed(str(pair.rejected)) for pair in pairs]),
    )


def _chat_rows(path: Path | str, pairs: list[Pair], tokenizer: PreTrainedTokenizerBase) -> Iterator[Row]:
    if tokenizer.chat_template is None:
        raise InputError(
            f"{path}, line {pairs[0].line}: the pair is a chat, and the model's tokenizer has no chat template.",
            "Without one nobody knows how the model marks who speaks.",
            "save Stage A's tokenizer with its `chat_template`, or give prompt, chosen and rejected as strings.",
        )

    def ids(pair: Pair, *parts: Text, generate: bool = False) -> list[int]:
        messages = [dict(message) for part in parts for message in part if not isinstance(message, str)]
        try:
            return tokenizer.apply_chat_template(
                messages, tokenize=True, return_dict=True, add_generation_prompt=generate, tools=None
            )["input_ids"]
        except TemplateError as error:
            raise DataError(
                f"{path}, line {pair.line}: the model's chat template refuses these messages.",
                str(error),
                "mend the order and the roles of the messages.",
            ) from error

    return (
        _row(
            ids(pair, pair.prompt, generate=True),
            ids(pair, pair.prompt, pair.chosen),
            ids(pair, pair.prompt, pair.rejected),
        )
        for pair in pairs
    )


def _row(prompt: list[int], with_chosen: list[int], with_rejected: list[int]) -> Row:
    start = min(_common(prompt, with_chosen), _common(prompt, with_rejected))
    return Row(prompt_ids=prompt[:start], chosen_ids=with_chosen[start:], rejected_ids=with_rejected[start:])


def _common(one: list[int], other: list[int]) -> int:
    """How many leading tokens are the same. Mostly the whole of `one`, which a slice finds at once."""
    if other[: len(one)] == one:
        return len(one)
    return next(at for at, (a, b) in enumerate(zip(one, [*other, None], strict=False)) if a != b)
