# pyright: basic, reportMissingImports=false
"""Batches of single completions, for methods whose examples are no pairs: one sequence an example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from train import step
from train.reference import pair_key
from train.rows import Row
from train.shared_row import SharedRow
from train.step import Inputs, tokens_of
from train.tally import Both


class Step(step.Step):
    """`label` (examples,) of a batch says which completions are chosen; the others are rejected."""

    def collator(self, pad: int) -> Callable[[list[Any]], Inputs]:
        collate = DataCollatorForUnpairedPreference(pad_token_id=pad)  # rows are cut already
        return lambda rows: collate([self.example(row) for row in rows])

    def example(self, row: Row) -> dict[str, Any]:
        """A row as TRL's collator takes it."""
        return {
            "prompt_ids": row["prompt_ids"],
            "completion_ids": row["chosen_ids"] or row["rejected_ids"],
            "label": bool(row["chosen_ids"]),
        }

    def examples(self, inputs: Inputs) -> int:
        return inputs["input_ids"].size(0)

    def row(self, inputs: Inputs) -> SharedRow:
        return SharedRow.of(inputs["attention_mask"], inputs["completion_mask"], pairs=False)

    def both(self, inputs: Inputs, sums: torch.Tensor) -> list[Both]:
        values, wanted = sums.float().tolist(), inputs["label"].tolist()
        return [(value, None) if is_wanted else (None, value) for value, is_wanted in zip(values, wanted, strict=True)]

    def keys(self, inputs: Inputs) -> list[bytes]:
        ids, lengths = tokens_of(inputs)
        return [pair_key(one[:length], one[length:], []) for one, length in zip(ids, lengths, strict=True)]

    def part(self, inputs: Inputs, examples: list[int]) -> Inputs:
        return {name: value[examples] for name, value in inputs.items() if isinstance(value, torch.Tensor)}
