# pyright: basic, reportMissingImports=false
"""What a method of training adds to the trainer (train/trainer.py): its batches, its loss and the numbers of a line.

A method is a module of this package with a class `Step`; `step_of` finds it. Log-probabilities come from a model, or
from what stands for it (train/shared_prompt.py), with the labels that the step asks for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, ClassVar

import torch

from train.config import Method, Training
from train.reference import pair_key
from train.rows import Row
from train.shared_row import SharedRow
from train.tally import Both, Tally
from train.watch import score

Inputs = dict[str, Any]
"""A collated batch: `input_ids`, `attention_mask` and `completion_mask` of (sequences, width), and a method's own."""


def step_of(method: Method, training: Training) -> Step:
    return import_module(f"train.{method}").Step(training)


def log_probs_of(model: Any, inputs: Inputs, labels: torch.Tensor) -> torch.Tensor:
    """(sequences, width - 1) in fp32: of the label behind each place, 0 where there is none (-100)."""
    found = model(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels, use_cache=False,
        fused_lm_head=True,
    ).log_probs  # fmt: skip
    return found[:, 1 - labels.size(1) :]


class Step(ABC):
    """Of preference pairs: the sequences of a batch are all chosen, then all rejected, as TRL's collator has them."""

    has_reference: ClassVar[bool] = False
    """Whether the loss compares with Stage A, so that it is there beside the policy."""
    forwards: ClassVar[int] = 1
    """Of the policy in a step: the one that is learned from, and those without a gradient."""
    reference_passes: ClassVar[int] = 0
    """Forwards of the reference that a step makes, where nothing is known yet."""
    counts_tokens: ClassVar[bool] = False
    """Whether a step's loss is a mean over its tokens, and not over its pairs."""

    watched: ClassVar[bool] = False
    """Whether the likelihood of chosen is watched (train/watch.py), and chooses the best adapter with the margin."""

    def __init__(self, training: Training) -> None:
        self.training = training

    def score(self, tally: Tally) -> float:
        """What the best adapter is chosen by, of a validation pass: higher is better."""
        return score(tally.rewards) if self.watched else -tally.loss

    def rows(self, rows: list[Row]) -> list[Row]:
        """The rows of a file, in its order, with what the method adds to each."""
        return rows

    def before(self, trainer: Any, batches: Iterable[Inputs]) -> None:  # noqa: B027  # most need nothing
        """Hears of the micro-batches of a step, or of a validation pass, that this process is about to take."""

    def after(self) -> None:  # noqa: B027
        """The step, or the pass, is over."""

    def collator(self, pad: int) -> Callable[[list[Any]], Inputs] | None:
        """Makes a batch of rows; None: TRL's own for preference pairs."""
        return None

    def examples(self, inputs: Inputs) -> int:
        """Pairs of a batch, or whatever `batch_size` counts."""
        return inputs["input_ids"].size(0) // 2

    def weight(self, inputs: Inputs) -> int:
        """How much of its step a batch is."""
        return int(inputs["completion_mask"].sum()) if self.counts_tokens else self.examples(inputs)

    def labels(self, inputs: Inputs) -> torch.Tensor:
        """(sequences, width): a token that is to be predicted, else -100."""
        return inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)

    def row(self, inputs: Inputs) -> SharedRow:
        return SharedRow.of(inputs["attention_mask"], inputs["completion_mask"])

    @abstractmethod
    def loss(self, trainer: Any, model: Any, inputs: Inputs) -> torch.Tensor:
        """The mean over the batch. `trainer` is one of train/trainer.py, or what a trace has in its place."""

    @abstractmethod
    def rewards(self, inputs: Inputs, sums: torch.Tensor) -> list[Both]:
        """Of each example, from the (sequences,) sums of its completions' log-probabilities."""

    def both(self, inputs: Inputs, sums: torch.Tensor) -> list[Both]:
        """One number a sequence as (chosen, rejected) an example."""
        chosen, rejected = sums.float().chunk(2)
        return list(zip(chosen.tolist(), rejected.tolist(), strict=True))

    # ---- the reference ----

    def keys(self, inputs: Inputs) -> list[bytes]:
        """The content keys of a batch's examples."""
        ids, lengths = tokens_of(inputs)
        pairs = len(ids) // 2
        return [
            pair_key(ids[i][: lengths[i]], ids[i][lengths[i] :], ids[pairs + i][lengths[i] :]) for i in range(pairs)
        ]

    def part(self, inputs: Inputs, examples: list[int]) -> Inputs:
        """The batch of these examples alone."""
        select = examples + [self.examples(inputs) + i for i in examples]
        return {name: value[select] for name, value in inputs.items() if isinstance(value, torch.Tensor)}

    def reference(self, trainer: Any, inputs: Inputs) -> list[tuple[float, float]]:
        """Stage A's sums, (chosen, rejected) an example; 0 where an example has none."""
        raise NotImplementedError

    def with_reference(self, inputs: Inputs, table: torch.Tensor) -> None:
        """Puts the (examples, 2) sums in the batch, as its loss reads them."""
        raise NotImplementedError


def tokens_of(inputs: Inputs) -> tuple[list[list[int]], list[int]]:
    """The ids of each sequence without padding, and how many of them are its prompt's."""
    ids, attention, completion = (inputs[name].cpu() for name in ("input_ids", "attention_mask", "completion_mask"))
    lengths = (attention * (1 - completion)).sum(dim=1).tolist()
    return [one[mask.bool()].tolist() for one, mask in zip(ids, attention, strict=True)], lengths
