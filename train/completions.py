# pyright: basic, reportMissingImports=false
"""Batches of single completions, for methods whose examples are no pairs: one sequence an example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from train import step
from train.reference import pair_key
from train.rows import Row
from train.shared_row import SharedRow
from train.step import Inputs, tokens_of
from train.tally import Both


class Step(step.Step):
    """`wanted` (examples,) of a batch says which completions are chosen; the others are rejected."""

    def collator(self, pad: int) -> Callable[[list[Any]], Inputs]:
        return partial(self.collate, pad)

    def collate(self, pad: int, rows: list[Row]) -> Inputs:
        texts = [(row["prompt_ids"], row["chosen_ids"] or row["rejected_ids"]) for row in rows]
        return padded(texts, pad) | {"wanted": torch.tensor([bool(row["chosen_ids"]) for row in rows])}

    def examples(self, inputs: Inputs) -> int:
        return inputs["input_ids"].size(0)

    def row(self, inputs: Inputs) -> SharedRow:
        return SharedRow.of(inputs["attention_mask"], inputs["completion_mask"], pairs=False)

    def both(self, inputs: Inputs, sums: torch.Tensor) -> list[Both]:
        values, wanted = sums.float().tolist(), inputs["wanted"].tolist()
        return [(value, None) if is_wanted else (None, value) for value, is_wanted in zip(values, wanted, strict=True)]

    def keys(self, inputs: Inputs) -> list[bytes]:
        ids, lengths = tokens_of(inputs)
        return [pair_key(one[:length], one[length:], []) for one, length in zip(ids, lengths, strict=True)]

    def part(self, inputs: Inputs, examples: list[int]) -> Inputs:
        return {name: value[examples] for name, value in inputs.items() if isinstance(value, torch.Tensor)}


def padded(texts: Sequence[tuple[list[int], list[int]]], pad: int) -> Inputs:
    """Prompts and completions as a batch, padded on the right."""
    width = max(len(prompt) + len(completion) for prompt, completion in texts)
    ids = torch.full((len(texts), width), pad)
    attention, completions = torch.zeros_like(ids), torch.zeros_like(ids)
    for at, (prompt, completion) in enumerate(texts):
        end = len(prompt) + len(completion)
        ids[at, :end] = torch.tensor(prompt + completion)
        attention[at, :end] = 1
        completions[at, len(prompt) : end] = 1
    return {"input_ids": ids, "attention_mask": attention, "completion_mask": completions}
