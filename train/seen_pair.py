# pyright: basic, reportMissingImports=false
"""What one pair, or one example, is worth for training: its tokens, and whether it teaches anything once it is cut."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from train.data_report import Reason
from train.encoding import Encoder
from train.pairs import Pair, Text
from train.rows import Row, tokenize


class Digests(NamedTuple):
    """Of a pair, of the pair with chosen and rejected swapped, and of its prompt."""

    pair: bytes
    mirror: bytes
    prompt: bytes


class SeenPair(NamedTuple):
    """A pair as a report counts it. `tokens` (prompt, chosen, rejected) are those before the cut; None without text.

    `reason` says why it teaches nothing; `digests`, and `row` as it is trained on where rows are kept, are those of a
    pair that teaches.
    """

    line: int
    tokens: tuple[int, int, int] | None
    reason: Reason | None
    digests: Digests | None = None
    row: Row | None = None


def see(path: Path | str, pairs: list[Pair], encoder: Encoder, max_length: int, *, keep: bool) -> list[SeenPair]:
    """The pairs in order. Raises as `tokenize`."""
    rows = iter(tokenize(path, [pair for pair in pairs if _without_text(pair) is None], encoder))
    found: list[SeenPair] = []
    for pair in pairs:
        empty = _without_text(pair)
        found.append(SeenPair(pair.line, None, empty) if empty else _seen(pair, next(rows), max_length, keep=keep))
    return found


def _seen(pair: Pair, row: Row, max_length: int, *, keep: bool) -> SeenPair:
    prompt, chosen, rejected = row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]
    room = max_length - len(prompt)
    reason: Reason | None = None
    if not prompt:  # its tokens all merged into the completion's
        reason = "empty_prompt"
    elif any(side is not None and not ids for side, ids in ((pair.chosen, chosen), (pair.rejected, rejected))):
        reason = "empty_completion"
    elif chosen == rejected:
        reason = "identical"
    elif room <= 0:
        reason = "prompt_too_long"
    elif chosen[:room] == rejected[:room]:
        reason = "equal_after_cut"
    tokens = (len(prompt), len(chosen), len(rejected))
    if reason:
        return SeenPair(pair.line, tokens, reason)
    digests = Digests(
        _digest(pair.prompt, pair.chosen, pair.rejected),
        _digest(pair.prompt, pair.rejected, pair.chosen),
        _digest(pair.prompt),
    )
    cut = Row(prompt_ids=prompt, chosen_ids=chosen[:room], rejected_ids=rejected[:room]) if keep else None
    return SeenPair(pair.line, tokens, None, digests, cut)


def _without_text(pair: Pair) -> Reason | None:
    """Whether a part of the pair is empty: there is nothing to tokenize then, and some templates would fail."""
    if _is_empty(pair.prompt):
        return "empty_prompt"
    sides = (side for side in (pair.chosen, pair.rejected) if side is not None)
    return "empty_completion" if any(map(_is_empty, sides)) else None


def plain(text: Text | None) -> str:
    if text is None:
        return ""
    return text if isinstance(text, str) else "".join(message["content"] for message in text)


def _is_empty(text: Text) -> bool:
    return not plain(text).strip()


def _digest(*texts: Text | None) -> bytes:
    return blake2b(json.dumps(texts, sort_keys=True).encode(), digest_size=16).digest()
