# pyright: basic, reportMissingImports=false
"""Preference pairs as token ids, cut as they will be trained on, with a report of what is in them.

The cut is that of TRL's collator with `truncation_mode="keep_start"`, so that nothing is cut later.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from train.config import ModelRef
from train.data_report import LINES_NAMED, DataReport, LeftOut, LengthBias, Lengths, Reason, TokenLengths, TrainedTokens
from train.encoding import Encoder
from train.errors import InputError
from train.pairs import Pair, Text, read_pairs
from train.rows import Row, tokenize
from train.stage_a import tokenizer_source, vocabulary_size
from train.tokenizer_match import check_belongs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 256
BATCH_CHARACTERS = 4_000_000
"""Pairs that are tokenized at once, and their text: enough for the tokenizer's own threads, little memory."""


@dataclass(frozen=True)
class Prepared:
    """Usable pairs in the order of the file, the line of each, and digests of their prompts.

    `lengths` are tokens of prompt and longer completion of each, as cut.
    """

    rows: list[Row]
    lines: list[int]
    lengths: list[int]
    prompts: frozenset[bytes]
    report: DataReport


def load_tokenizer(model: ModelRef) -> PreTrainedTokenizerBase:
    """Stage A's tokenizer, with a pad token (EOS where it has none, as TRL does).

    Raises:
        InputError: it cannot be loaded, has no EOS, or does not belong to the model (`train.tokenizer_match`).
    """
    from transformers import AutoConfig, AutoTokenizer

    source, revision = tokenizer_source(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        config = AutoConfig.from_pretrained(model.base, revision=model.base_revision).get_text_config()
        rows = vocabulary_size(model) or config.vocab_size
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        raise InputError(
            f"The tokenizer of {source} cannot be loaded.",
            str(error).strip(),
            "save it again with `tokenizer.save_pretrained(FOLDER)`, or download the model before training.",
        ) from error
    check_belongs(tokenizer, source, model, rows, config)
    if tokenizer.eos_token is None:
        raise InputError(
            f"The tokenizer in {source} has no EOS token, so that no completion could be seen to end.",
            next_step="set `eos_token` in its tokenizer_config.json.",
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def prepare(
    path: Path | str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    limit: int | None = None,
    train_prompts: frozenset[bytes] | None = None,
    keep: bool = True,
    on_pairs: Callable[[int], None] = lambda _: None,
) -> Prepared:
    """The usable pairs among the first `limit` of a file, cut to `max_length` tokens of prompt + completion.

    Left out: an empty prompt or completion, chosen equal to rejected (before or after the cut), a prompt of
    `max_length` tokens or more. `train_prompts` are the `prompts` of the training data, for a validation file.
    Without `keep`, `rows` stays empty: a report needs memory for a few numbers a pair only. `on_pairs` hears after
    each batch how many pairs were looked at since it was last called.

    Raises:
        DataError: a line is no preference pair, or the chat template refuses its messages.
    """
    tally = _Tally(keep)
    encoder = Encoder(tokenizer)
    for pairs in _batches(islice(read_pairs(path), limit)):
        whole = [pair for pair in pairs if not tally.without_text(pair)]
        for pair, row in zip(whole, tokenize(path, whole, encoder), strict=True):
            tally.add(pair, row, max_length)
        on_pairs(len(pairs))
    whole = Lengths.of(tally.lengths["pair"])
    report = DataReport(
        path=str(path),
        max_length=max_length,
        pairs=tally.pairs,
        usable=tally.usable,
        left_out=tuple(
            LeftOut(reason=reason, pairs=len(lines), lines=tuple(lines[:LINES_NAMED]))
            for reason, lines in tally.left_out.items()
        ),
        truncated_pairs=tally.truncated_pairs,
        truncated_chosen=tally.truncated_chosen,
        truncated_rejected=tally.truncated_rejected,
        duplicates=tally.duplicates,
        contradictions=tally.contradictions,
        prompts_in_train=None if train_prompts is None else sum(prompt in train_prompts for prompt in tally.prompts),
        tokens=TokenLengths(**{name: Lengths.of(values) for name, values in tally.lengths.items()}),
        lose_part=tally.lose_part,
        lose_all=tally.lose_all,
        whole_95=whole.p95,
        whole_99=whole.p99,
        length_bias=tally.length_bias(),
        trained=tally.trained(),
    )
    return Prepared(
        rows=tally.rows,
        lines=tally.lines,
        lengths=tally.cut_lengths,
        prompts=frozenset(tally.prompts),
        report=report.judged(),
    )


@dataclass
class _Tally:
    """The counts of a file while it is read."""

    keep: bool
    pairs: int = 0
    usable: int = 0
    lose_part: int = 0
    lose_all: int = 0
    shared_tokens: int = 0
    prompt_tokens: int = 0
    differences: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    cut_lengths: list[int] = field(default_factory=list)
    prompts: list[bytes] = field(default_factory=list)
    left_out: dict[Reason, list[int]] = field(default_factory=lambda: defaultdict(list))
    truncated_pairs: int = 0
    truncated_chosen: int = 0
    truncated_rejected: int = 0
    duplicates: int = 0
    contradictions: int = 0
    lengths: dict[str, list[int]] = field(
        default_factory=lambda: {name: [] for name in ("prompt", "chosen", "rejected", "pair")}
    )
    seen: set[bytes] = field(default_factory=set)
    ids: dict[int, int] = field(default_factory=dict)

    def without_text(self, pair: Pair) -> bool:
        """Whether a part of the pair is empty: there is nothing to tokenize then, and some templates would fail."""
        self.pairs += 1
        if _is_empty(pair.prompt):
            self.left_out["empty_prompt"].append(pair.line)
        elif _is_empty(pair.chosen) or _is_empty(pair.rejected):
            self.left_out["empty_completion"].append(pair.line)
        else:
            return False
        return True

    def add(self, pair: Pair, row: Row, max_length: int) -> None:
        prompt, chosen, rejected = row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]
        sizes = (len(prompt), len(chosen), len(rejected), len(prompt) + max(len(chosen), len(rejected)))
        for values, size in zip(self.lengths.values(), sizes, strict=True):
            values.append(size)
        room = max_length - len(prompt)
        self.lose_all += room <= 0
        self.lose_part += 0 < room < max(len(chosen), len(rejected))
        reason: Reason | None = None
        if not prompt:  # its tokens all merged into the completion's
            reason = "empty_prompt"
        elif not chosen or not rejected:
            reason = "empty_completion"
        elif chosen == rejected:
            reason = "identical"
        elif room <= 0:
            reason = "prompt_too_long"
        elif chosen[:room] == rejected[:room]:
            reason = "equal_after_cut"
        if reason:
            self.left_out[reason].append(pair.line)
            return
        self.truncated_pairs += max(len(chosen), len(rejected)) > room
        self.truncated_chosen += len(chosen) > room
        self.truncated_rejected += len(rejected) > room
        self._compare(pair)
        self.usable += 1
        self.lines.append(pair.line)
        self.cut_lengths.append(min(sizes[3], max_length))
        chosen, rejected = chosen[:room], rejected[:room]
        self.differences.append(len(chosen) - len(rejected))
        self.prompt_tokens += len(prompt)
        self.shared_tokens += len(prompt) + len(chosen) + len(rejected)
        if self.keep:
            prompt, chosen, rejected = map(self._shared, (prompt, chosen, rejected))
            self.rows.append(Row(prompt_ids=prompt, chosen_ids=chosen, rejected_ids=rejected))

    def length_bias(self) -> LengthBias | None:
        if not self.usable:
            return None
        return LengthBias.of(self.differences, (self.shared_tokens - self.prompt_tokens) / (2 * self.usable))

    def trained(self) -> TrainedTokens | None:
        if not self.usable:
            return None
        shared = self.shared_tokens / self.usable
        return TrainedTokens(separate=shared + self.prompt_tokens / self.usable, shared=shared)

    def _compare(self, pair: Pair) -> None:
        digest = _digest(pair.prompt, pair.chosen, pair.rejected)
        self.duplicates += digest in self.seen
        self.contradictions += _digest(pair.prompt, pair.rejected, pair.chosen) in self.seen
        self.seen.add(digest)
        self.prompts.append(_digest(pair.prompt))

    def _shared(self, ids: list[int]) -> list[int]:
        """The same ids with one `int` object a token: 8 bytes a token in place of 36."""
        return [self.ids.setdefault(token, token) for token in ids]


def _batches(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    batch: list[Pair] = []
    characters = 0
    for pair in pairs:
        batch.append(pair)
        characters += sum(len(_plain(text)) for text in (pair.prompt, pair.chosen, pair.rejected))
        if len(batch) >= BATCH or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _plain(text: Text) -> str:
    return text if isinstance(text, str) else "".join(message["content"] for message in text)


def _is_empty(text: Text) -> bool:
    return not _plain(text).strip()


def _digest(*texts: Text) -> bytes:
    return blake2b(json.dumps(texts, sort_keys=True).encode(), digest_size=16).digest()
