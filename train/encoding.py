# pyright: basic, reportMissingImports=false
"""A prompt, and the prompt with each of its completions, as token ids: each word is tokenized once.

The ids are those of `tokenizer(text)`. Where a tokenizer is known to treat words by themselves, the ids of words are
kept, and what the three texts have in common is put together once: 8,484 pairs of 14.6 KB take a sixth of the time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[list[int], list[int], list[int]]

WORDS_KEPT = 1 << 18
"""Words whose ids are kept, at some 200 bytes each: 50 MB at most."""

_WORDS = re.compile(r" *[A-Za-z]+(?=[ ,.;:]|\Z)| *[^ ]+(?:(?<![!-~]) +[^ ]*)*| +")
"""A text as words with the spaces before them.

Cut before each space that follows a printable ASCII character, and between a plain word and the mark that ends it.
"""
_LAST_GAP = re.compile(r".*[!-~](?= )", re.DOTALL)

_END = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
SPLITS_AT_GAPS = frozenset({rf"{_WORD}|\p{{N}}{{1,3}}{_END}", rf"{_WORD}|\p{{N}}{_END}"})
"""The patterns of Llama 3 and of Qwen 2.

Whatever they match holds a space at its beginning or among white space only, so that a gap (a space after a character
that is none) always begins a match, and a run of letters ends where a comma, a full stop or a colon follows. None looks
back, and none that ends at such a place looks ahead: the two sides do not depend on each other.
"""


def cuts_at_gaps(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the ids of a text that is cut at a gap are those of the left part, then those of the right part.

    True of byte-level BPE without dropout that splits text as GPT-2, Llama 3 or Qwen 2 do, where no added token can
    be cut and special tokens are only put in front.
    """
    from tokenizers.models import BPE
    from transformers import TokenizersBackend

    # A class with an encoding of its own may do anything.
    if getattr(type(tokenizer), "_encode_plus", None) is not TokenizersBackend._encode_plus:  # noqa: SLF001
        return False
    backend = tokenizer.backend_tokenizer
    model, normalizer = backend.model, backend.normalizer
    added = backend.get_added_tokens_decoder().values()
    return (
        isinstance(model, BPE)
        and not model.dropout
        and (normalizer is None or json.loads(normalizer.__getstate__())["type"] == "NFC")
        and _splits_at_gaps(backend.pre_tokenizer)
        and not any(token.rstrip or set(token.content) & set(" ,.;:") for token in added)
        and _special_in_front(tokenizer)
    )


def _splits_at_gaps(pre_tokenizer: object) -> bool:
    if pre_tokenizer is None:
        return False
    state = json.loads(pre_tokenizer.__getstate__())  # type: ignore[attr-defined]
    steps = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    match steps:
        case [{"type": "ByteLevel", "use_regex": True, "add_prefix_space": False}]:  # GPT-2
            return True
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False},
        ]:
            return pattern in SPLITS_AT_GAPS
    return False


def _special_in_front(tokenizer: PreTrainedTokenizerBase) -> bool:
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    return bool(bare) and tokenizer("a")["input_ids"][-len(bare) :] == bare


class Encoder:
    """Texts to ids by one tokenizer. `cut=False` has every text tokenized as a whole."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, cut: bool | None = None) -> None:
        self.tokenizer = tokenizer
        self.cut = cuts_at_gaps(tokenizer) if cut is None else cut
        self._known: dict[str, list[int]] = {}

    def ids(self, texts: Sequence[tuple[str, str, str]], *, special: bool) -> Iterator[Ids]:
        """For each prompt, prompt + chosen and prompt + rejected their ids; `special` as `add_special_tokens`."""
        if not self.cut:
            flat = list(chain.from_iterable(texts))
            ids = iter(self.tokenizer(text=flat, verbose=False, add_special_tokens=special)["input_ids"])
            return zip(ids, ids, ids, strict=True)
        return self._from_words(texts, self._in_front() if special else [])

    def _from_words(self, texts: Sequence[tuple[str, str, str]], in_front: list[int]) -> Iterator[Ids]:
        parts: list[list[str]] = []
        for three in texts:
            head = _common_head(*three)
            parts.append(_WORDS.findall(head))
            parts += (_WORDS.findall(text, len(head)) for text in three)
        known = self._with(set(chain.from_iterable(parts)))
        ids = (list(chain.from_iterable(map(known.__getitem__, words))) for words in parts)
        for head, *tails in zip(ids, ids, ids, ids, strict=True):
            one, two, three = (in_front + head + tail for tail in tails)
            yield one, two, three

    def _in_front(self) -> list[int]:
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        return self.tokenizer("a")["input_ids"][: -len(bare)]

    def _with(self, words: set[str]) -> dict[str, list[int]]:
        """The ids of at least these words."""
        new = sorted(words.difference(self._known))
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()  # as a call of the tokenizer itself does
        backend.no_padding()
        backend.encode_special_tokens = self.tokenizer.split_special_tokens
        found = {
            word: encoding.ids
            for word, encoding in zip(new, backend.encode_batch_fast(new, add_special_tokens=False), strict=True)
        }
        if len(self._known) + len(found) > WORDS_KEPT:
            return self._known | found
        self._known |= found
        return self._known


def _common_head(prompt: str, with_chosen: str, with_rejected: str) -> str:
    """What all three begin with, up to a gap: mostly all but the last word of the prompt."""
    found = _LAST_GAP.match(prompt)
    head = found[0] if found else ""
    return head if with_chosen.startswith(head) and with_rejected.startswith(head) else ""
