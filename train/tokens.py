# pyright: basic, reportMissingImports=false
"""Preference pairs as token ids, cut as they will be trained on, with a report of what is in them.

The cut is that of TRL's collator with `truncation_mode="keep_start"`, so that nothing is cut later.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from train.config import Method, ModelRef, noun
from train.cores import in_order, pool
from train.data_report import LINES_NAMED, DataReport, LeftOut, LengthBias, Lengths, Reason, TokenLengths, TrainedTokens
from train.encoding import Encoder
from train.errors import InputError
from train.pairs import Pair, read_pairs
from train.rows import Row
from train.seen_pair import SeenPair, plain, see
from train.stage_a import tokenizer_source, vocabulary_size
from train.tokenizer_match import check_belongs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 256
BATCH_CHARACTERS = 4_000_000
"""Pairs that are tokenized at once, and their text: enough for the tokenizer's own threads, little memory."""


class CutPair(NamedTuple):
    """Tokens of a pair's prompt and completions, as cut."""

    prompt: int
    chosen: int
    rejected: int

    @property
    def length(self) -> int:
        """Of the prompt and the longer completion."""
        return self.prompt + max(self.chosen, self.rejected)


@dataclass(frozen=True)
class Prepared:
    """Usable pairs in the order of the file, the line and the lengths of each, and digests of their prompts."""

    rows: list[Row]
    lines: list[int]
    lengths: list[CutPair]
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
    method: Method = "dpo",
    weights: tuple[float, float] = (1.0, 1.0),
    limit: int | None = None,
    train_prompts: frozenset[bytes] | None = None,
    keep: bool = True,
    on_pairs: Callable[[int], None] = lambda _: None,
    processes: int = 1,
) -> Prepared:
    """The usable pairs (or examples, by the method) among the first `limit` of a file.

    They are cut to `max_length` tokens of prompt + completion.

    Left out: an empty prompt or completion, chosen equal to rejected (before or after the cut), a prompt of
    `max_length` tokens or more. `train_prompts` are the `prompts` of the training data, for a validation file.
    `weights` are KTO's, of wanted and unwanted examples. Without `keep`, `rows` stays empty: a report needs memory for
    a few numbers a pair only. `on_pairs` hears after each batch how many pairs were looked at since it was last called.
    More than one of `processes` share the batches.

    Raises:
        DataError: a line is no preference pair, or the chat template refuses its messages.
    """
    tally = _Tally(max_length, method)
    look = _Look(path, tokenizer, max_length, keep)
    for batch in _looked_at(_batches(islice(read_pairs(path, method), limit)), look, processes):
        for pair in batch:
            tally.add(pair)
        on_pairs(len(batch))
    whole = Lengths.of(tally.lengths["pair"])
    kinds = tally.kinds if method == "kto" else (None, None)
    report = DataReport(
        noun=noun(method),
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
        desirable=kinds[0],
        undesirable=kinds[1],
        weights=weights,
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


@dataclass(frozen=True)
class _Look:
    """What is done with each batch of pairs, in whatever process."""

    path: Path | str
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    keep: bool

    def begin(self) -> Callable[[list[Pair]], list[SeenPair]]:
        encoder = Encoder(self.tokenizer)
        return lambda pairs: see(self.path, pairs, encoder, self.max_length, keep=self.keep)


def _looked_at(batches: Iterator[list[Pair]], look: _Look, processes: int) -> Iterator[list[SeenPair]]:
    if processes == 1:
        yield from map(look.begin(), batches)
        return
    with pool(processes, _begin, look) as executor:
        yield from in_order(executor, processes, _see_batch, batches)


_see: Callable[[list[Pair]], list[SeenPair]]
"""Of a process of the pool: its encoder keeps the words that it has seen."""


def _begin(look: _Look) -> None:
    global _see  # noqa: PLW0603  # a process of the pool has one look
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process a core
    _see = look.begin()


def _see_batch(pairs: list[Pair]) -> list[SeenPair]:
    return _see(pairs)


@dataclass
class _Tally:
    """The counts of a file while it is read."""

    max_length: int
    method: Method
    pairs: int = 0
    usable: int = 0
    lose_part: int = 0
    lose_all: int = 0
    shared_tokens: int = 0
    prompt_tokens: int = 0
    differences: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    cut_lengths: list[CutPair] = field(default_factory=list[CutPair])
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

    def add(self, pair: SeenPair) -> None:
        self.pairs += 1
        if pair.tokens is not None:
            self._count(*pair.tokens)
        if pair.reason is not None:
            self.left_out[pair.reason].append(pair.line)
            return
        assert pair.tokens is not None
        assert pair.digests is not None
        prompt, chosen, rejected = pair.tokens
        room = self.max_length - prompt
        self.truncated_pairs += max(chosen, rejected) > room
        self.truncated_chosen += chosen > room
        self.truncated_rejected += rejected > room
        self.duplicates += pair.digests.pair in self.seen
        self.contradictions += pair.digests.mirror in self.seen
        self.seen.add(pair.digests.pair)
        self.prompts.append(pair.digests.prompt)
        self.usable += 1
        self.lines.append(pair.line)
        chosen, rejected = min(chosen, room), min(rejected, room)
        self.cut_lengths.append(CutPair(prompt, chosen, rejected))
        self.differences.append(chosen - rejected)
        self.prompt_tokens += prompt
        self.shared_tokens += prompt + chosen + rejected
        if pair.row is not None:
            row = pair.row
            self.rows.append(
                Row(
                    prompt_ids=self._shared(row["prompt_ids"]),
                    chosen_ids=self._shared(row["chosen_ids"]),
                    rejected_ids=self._shared(row["rejected_ids"]),
                )
            )

    @property
    def of_pairs(self) -> bool:
        return noun(self.method) == "pairs"

    @property
    def kinds(self) -> tuple[int, int]:
        """Usable examples that are wanted, and that are not."""
        wanted = sum(cut.chosen > 0 for cut in self.cut_lengths)
        return wanted, len(self.cut_lengths) - wanted

    def _count(self, prompt: int, chosen: int, rejected: int) -> None:
        longer = max(chosen, rejected)
        for values, size in zip(self.lengths.values(), (prompt, chosen, rejected, prompt + longer), strict=True):
            if size or self.of_pairs:  # an example has one completion alone
                values.append(size)
        room = self.max_length - prompt
        self.lose_all += room <= 0
        self.lose_part += 0 < room < longer

    def length_bias(self) -> LengthBias | None:
        if not self.usable or not self.of_pairs:
            return None
        return LengthBias.of(self.differences, (self.shared_tokens - self.prompt_tokens) / (2 * self.usable))

    def trained(self) -> TrainedTokens | None:
        if not self.usable:
            return None
        shared = self.shared_tokens / self.usable
        again = self.prompt_tokens / self.usable if self.of_pairs else 0.0
        return TrainedTokens(separate=shared + again, shared=shared)

    def _shared(self, ids: list[int]) -> list[int]:
        """The same ids with one `int` object a token: 8 bytes a token in place of 36."""
        return [self.ids.setdefault(token, token) for token in ids]


def _batches(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    batch: list[Pair] = []
    characters = 0
    for pair in pairs:
        batch.append(pair)
        characters += sum(len(plain(text)) for text in (pair.prompt, pair.chosen, pair.rejected))
        if len(batch) >= BATCH or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
