# pyright: basic, reportMissingImports=false
"""Which pairs of each step a process trains on: as one process would take them, dealt out to all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized

from torch.utils.data import BatchSampler, Sampler


class Shares(BatchSampler):
    """The micro-batches of one process. Step by step, all processes together have the pairs of one alone.

    Every process has the same number of micro-batches, since all take part in a step; in the last step of an epoch,
    which may be smaller, the micro-batch of a process that has no pair left is empty. (Accelerate would repeat pairs
    from the epoch's start there.)
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, micro_batch_size: int, rank: int, size: int) -> None:
        """`batch_size` is pairs a step over all processes; `sampler` gives the same order in each process."""
        super().__init__(sampler, micro_batch_size, drop_last=False)
        self.step_size, self.micro, self.rank, self.size = batch_size, micro_batch_size, rank, size

    def __iter__(self) -> Iterator[list[int]]:
        step: list[int] = []
        for index in self.sampler:
            step.append(index)
            if len(step) == self.step_size:
                yield from self._of_step(step)
                step = []
        if step:
            yield from self._of_step(step)

    def __len__(self) -> int:
        assert isinstance(self.sampler, Sized)
        whole, rest = divmod(len(self.sampler), self.step_size)
        return whole * self._rounds(self.step_size) + self._rounds(rest)

    def _of_step(self, step: list[int]) -> Iterator[list[int]]:
        mine = step[self.rank :: self.size]
        for at in range(self._rounds(len(step))):
            yield mine[at * self.micro : (at + 1) * self.micro]

    def _rounds(self, pairs: int) -> int:
        return math.ceil(math.ceil(pairs / self.size) / self.micro)
