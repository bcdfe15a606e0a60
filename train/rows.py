# pyright: basic, reportMissingImports=false
"""Preference pairs as TRL tokenizes them.

The ids are those of its `DPOTrainer._prepare_dataset` (1.16): EOS closes a completion that is a string, chats go
through the tokenizer's template, the prompt is what the tokens of prompt, prompt + chosen and prompt + rejected have
in common.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from jinja2 import TemplateError

from train.encoding import Encoder
from train.errors import DataError, InputError
from train.pairs import Pair, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Row(TypedDict):
    """A pair as `DPOTrainer` reads it: token ids, at most max_length of prompt + completion.

    Where an example is one completion alone, the other side is empty; `other_ids` is KTO's (train/kto.py).
    """

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    other_ids: NotRequired[list[int]]


def tokenize(path: Path | str, pairs: list[Pair], encoder: Encoder) -> list[Row]:
    """The rows of pairs, uncut, in order.

    Raises:
        InputError: a pair is a chat, and the tokenizer has no chat template.
        DataError: the chat template refuses a pair's messages.
    """
    rows: dict[int, Row] = {}
    strings = [(at, pair) for at, pair in enumerate(pairs) if isinstance(pair.prompt, str)]
    chats = [(at, pair) for at, pair in enumerate(pairs) if not isinstance(pair.prompt, str)]
    if strings:
        texts = [_string_texts(pair, encoder.tokenizer.eos_token) for _, pair in strings]
        found = encoder.ids(texts, special=True)
        rows |= {at: _row(pair, *ids) for (at, pair), ids in zip(strings, found, strict=True)}
    if chats:
        texts = _chat_texts(path, [pair for _, pair in chats], encoder.tokenizer)
        found = encoder.ids(texts, special=False)
        rows |= {at: _row(pair, *ids) for (at, pair), ids in zip(chats, found, strict=True)}
    return [rows[at] for at in range(len(pairs))]


def _sides(pair: Pair) -> tuple[Text, Text]:
    """Both completions; where there is one alone, it stands for both."""
    one = pair.rejected if pair.chosen is None else pair.chosen
    assert one is not None
    return one, one if pair.rejected is None else pair.rejected


def _string_texts(pair: Pair, eos: str) -> tuple[str, str, str]:
    prompt, (chosen, rejected) = str(pair.prompt), map(str, _sides(pair))
    closed = (text if text.endswith(eos) else text + eos for text in (chosen, rejected))
    return prompt, prompt + next(closed), prompt + next(closed)


def _chat_texts(path: Path | str, pairs: list[Pair], tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, str, str]]:
    if tokenizer.chat_template is None:
        raise InputError(
            f"{path}, line {pairs[0].line}: the pair is a chat, and the model's tokenizer has no chat template.",
            "Without one nobody knows how the model marks who speaks.",
            "save Stage A's tokenizer with its `chat_template`, or give prompt, chosen and rejected as strings.",
        )

    def text(pair: Pair, *parts: Text, generate: bool = False) -> str:
        messages = [dict(message) for part in parts for message in part if not isinstance(message, str)]
        try:
            return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate, tools=None)
        except TemplateError as error:
            raise DataError(
                f"{path}, line {pair.line}: the model's chat template refuses these messages.",
                str(error),
                "mend the order and the roles of the messages.",
            ) from error

    found: list[tuple[str, str, str]] = []
    for pair in pairs:
        chosen, rejected = (text(pair, pair.prompt, side) for side in _sides(pair))
        found.append((text(pair, pair.prompt, generate=True), chosen, rejected))
    return found


def _row(pair: Pair, prompt: list[int], with_chosen: list[int], with_rejected: list[int]) -> Row:
    start = min(_common(prompt, with_chosen), _common(prompt, with_rejected))
    return Row(
        prompt_ids=prompt[:start],
        chosen_ids=[] if pair.chosen is None else with_chosen[start:],
        rejected_ids=[] if pair.rejected is None else with_rejected[start:],
    )


def _common(one: list[int], other: list[int]) -> int:
    """How many leading tokens are the same. Mostly the whole of `one`, which a slice finds at once."""
    if other[: len(one)] == one:
        return len(one)
    return next(at for at, (a, b) in enumerate(zip(one, [*other, None], strict=False)) if a != b)
