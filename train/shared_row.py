# pyright: basic, reportMissingImports=false
"""Where the tokens of a batch's pairs lie in one row without padding: each prompt once, between its two completions.

A prompt's last token predicts the first token of both completions, so that it opens each of them, and what the two
share is the prompt without it. The last token of a completion predicts nothing and is left out. So a pair of a prompt
of p tokens with completions of c and r tokens has p - 1 + c + r places in the row, and each place of a completion
has one label, as each of the prompt has where a method asks for it. An example of one completion is a pair without
rejected. The order is chosen, shared, rejected: what a completion attends to lies in one piece, and is never
copied. (Prefix sharing and its packing: arXiv 2410.20305.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch


@dataclass(frozen=True)
class Span:
    """A pair's places in the row: `chosen` from `start` on, then `shared` of its prompt, then `rejected`."""

    start: int
    chosen: int
    shared: int
    rejected: int

    @property
    def prompt(self) -> int:
        """Where the shared part of the prompt begins."""
        return self.start + self.chosen

    @property
    def second(self) -> int:
        """Where the rejected completion begins."""
        return self.prompt + self.shared

    @property
    def end(self) -> int:
        return self.second + self.rejected


class SharedRow:
    """The row of a batch that is padded as TRL pads it: chosen in its first half, rejected in its second."""

    def __init__(
        self,
        pairs: Sequence[tuple[int, int, int | None]],
        width: int,
        device: torch.device | str = "cpu",
        *,
        prompts_labelled: bool = False,
    ) -> None:
        """`pairs`: tokens of each prompt, chosen and rejected (None: there is one completion); `width`: tokens of a
        padded sequence. `prompts_labelled`: what the two share of the prompt has labels too.

        Raises:
            ValueError: a prompt or a completion has no token.
        """
        if any(tokens is not None and tokens < 1 for lengths in pairs for tokens in lengths):
            raise ValueError(f"a prompt or a completion has no token: {pairs}")
        self.width = width
        self.device = torch.device(device)
        self.prompts_labelled = prompts_labelled
        spans: list[Span] = []
        for prompt, chosen, rejected in pairs:
            spans.append(Span(spans[-1].end if spans else 0, chosen, prompt - 1, rejected or 0))
        self.spans = tuple(spans)
        self._masks: dict[tuple[int, int, torch.dtype, bool], torch.Tensor] = {}

    @classmethod
    def of(
        cls,
        attention_mask: torch.Tensor,
        completion_mask: torch.Tensor,
        *,
        pairs: bool = True,
        prompts_labelled: bool = False,
    ) -> SharedRow:
        """Of the masks (sequences, width) of a batch, whose padding is on the right.

        Of `pairs`, its first half is chosen and its second rejected; else each sequence has a prompt of its own.
        """
        totals, completions = attention_mask.sum(dim=1).tolist(), completion_mask.sum(dim=1).tolist()
        count = len(totals) // 2 if pairs else len(totals)
        seconds = completions[count:] or [None] * count
        lengths = [(totals[i] - completions[i], completions[i], seconds[i]) for i in range(count)]
        return cls(lengths, attention_mask.size(1), attention_mask.device, prompts_labelled=prompts_labelled)

    @property
    def has_unread(self) -> bool:
        """Whether there are places without a label."""
        return not self.prompts_labelled and any(span.shared for span in self.spans)

    def _pieces(self) -> Iterator[tuple[int, int, int, bool]]:
        """(sequence of the batch, first position in it, places, whether they have labels) of each piece, in order."""
        for i, span in enumerate(self.spans):
            yield i, span.shared, span.chosen, True
            yield i, 0, span.shared, self.prompts_labelled
            if span.rejected:
                yield len(self.spans) + i, span.shared, span.rejected, True

    @cached_property
    def positions(self) -> torch.Tensor:
        """(1, places): a place's position in its sequence."""
        pieces = [torch.arange(first, first + places) for _, first, places, _ in self._pieces()]
        return torch.cat(pieces).unsqueeze(0).to(self.device)

    @cached_property
    def source(self) -> torch.Tensor:
        """(places,): a place's token in the flattened batch (2 x pairs x width)."""
        rows = [torch.full((places,), sequence * self.width) for sequence, _, places, _ in self._pieces()]
        return torch.cat(rows).to(self.device) + self.positions[0]

    @cached_property
    def labelled(self) -> torch.Tensor:
        """(labels,): the places that have one, in the row's order."""
        ends = accumulate(places for _, _, places, _ in self._pieces())
        pieces = [
            torch.arange(end - places, end)
            for end, (_, _, places, has_labels) in zip(ends, self._pieces(), strict=True)
            if has_labels
        ]
        return torch.cat(pieces).to(self.device)

    @cached_property
    def predictions(self) -> torch.Tensor:
        """(labels,): where the prediction of each stands in TRL's flattened (2 x pairs, width - 1)."""
        pieces = [
            torch.arange(first, first + places) + sequence * (self.width - 1)
            for sequence, first, places, has_labels in self._pieces()
            if has_labels
        ]
        return torch.cat(pieces).to(self.device)

    def mask_of_chosen(self, span: Span, dtype: torch.dtype) -> torch.Tensor:
        """(chosen, chosen + shared), added to scores: what the chosen completion sees of itself and of the prompt."""
        return self._mask(span.chosen, span.shared, dtype, own_first=True)

    def mask_of_rejected(self, span: Span, dtype: torch.dtype) -> torch.Tensor:
        """(rejected, shared + rejected): the same of the rejected completion, which lies behind the prompt."""
        return self._mask(span.rejected, span.shared, dtype, own_first=False)

    def _mask(self, own: int, shared: int, dtype: torch.dtype, *, own_first: bool) -> torch.Tensor:
        which = own, shared, dtype, own_first
        if which not in self._masks:
            mask = torch.zeros((own, own + shared), dtype=dtype, device=self.device)
            itself = slice(own) if own_first else slice(shared, None)
            mask[:, itself] = torch.full_like(mask[:, itself], float("-inf")).triu(1)
            self._masks[which] = mask
        return self._masks[which]
