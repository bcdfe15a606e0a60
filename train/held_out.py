"""Held-out data: read, and refused where it is not held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from train.config import EvalConfig, Method
from train.errors import DataError
from train.facts import Fact, is_facts_file, read_facts
from train.pairs import Pair, Text, read_pairs


@dataclass(frozen=True)
class Case:
    """One held-out source: its facts, or a preference pair on it."""

    prompt: Text
    facts: tuple[Fact, ...] = ()
    pair: Pair | None = None


def read_cases(config: EvalConfig) -> list[Case]:
    """The first `max_examples` cases of the test file; raises as `held_out`."""
    return held_out(
        config.test, method=config.method, train=config.train, val=config.val, limit=config.max_examples
    )  # fmt: skip


def held_out(
    test: Path, *, train: Path | None, val: Path | None, method: Method = "dpo", limit: int | None = None
) -> list[Case]:
    """The first `limit` cases of `test`, which neither is `train` or `val` nor shares a prompt with one.

    Raises:
        DataError: a bad line, no line at all, or data on which the adapter is trained or chosen.
    """
    fitted = [(path, use) for path, use in ((train, "trained"), (val, "chosen")) if path is not None and path.exists()]
    for path, use in fitted:
        if test.exists() and path.samefile(test):
            raise DataError(
                f"{test} is the data on which the adapter is {use}.",
                "It cannot judge what is fitted to it.",
                "name held-out data with --test FILE.",
            )
    cases = list(islice(_cases(test), limit))
    seen = {_digest(case.prompt) for case in cases}
    for path, use in fitted:
        shared = sum(_digest(pair.prompt) in seen for pair in read_pairs(path, method))
        if shared:
            raise DataError(
                f"{test} is not held out: {shared:,} lines of {path} have a prompt that stands in it too.",
                f"On {path.name} the adapter is {use}, so that it cannot judge it.",
                "take these lines out, or name other data with --test FILE.",
            )
    return cases


def _cases(path: Path) -> Iterator[Case]:
    if is_facts_file(path):
        for line in read_facts(path):
            yield Case(line.prompt, facts=line.facts)
    else:
        for pair in read_pairs(path):
            yield Case(pair.prompt, pair=pair)


def _digest(prompt: Text) -> bytes:
    text = prompt if isinstance(prompt, str) else json.dumps([dict(m) for m in prompt], sort_keys=True)
    return hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).digest()


def plain(prompt: Text) -> str:
    """The words of a prompt, for a search in them."""
    return prompt if isinstance(prompt, str) else "\n".join(_content(message) for message in prompt)


def _content(message: Mapping[str, object]) -> str:
    return str(message.get("content", ""))
