"""What the preference pairs of a file are worth for training, before any time is spent (`datareport/1`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Reason = Literal["empty_prompt", "empty_completion", "identical", "prompt_too_long", "equal_after_cut"]

LINES_NAMED = 5
"""How many line numbers a report names for each reason."""

WHY: dict[Reason, str] = {
    "empty_prompt": "have an empty prompt",
    "empty_completion": "have an empty completion",
    "identical": "have the same text as chosen and rejected",
    "prompt_too_long": "have a prompt that fills max_length by itself, so that nothing of the completion is left",
    "equal_after_cut": "are equal once they are cut to max_length, so that there is nothing to prefer",
}


class LeftOut(BaseModel):
    """Pairs that never reach the optimizer: how many, and the first lines that hold one."""

    model_config = ConfigDict(frozen=True)

    reason: Reason
    pairs: int
    lines: tuple[int, ...]


class Lengths(BaseModel):
    """Tokens before the cut, over all pairs that have a prompt and completions (nearest-rank percentiles)."""

    model_config = ConfigDict(frozen=True)

    median: int
    p95: int
    p99: int
    max: int

    @classmethod
    def of(cls, values: Sequence[int]) -> Lengths:
        ranked = sorted(values) or [0]
        median, p95, p99 = (ranked[math.ceil(len(ranked) * share) - 1] for share in (0.5, 0.95, 0.99))
        return cls(median=median, p95=p95, p99=p99, max=ranked[-1])


class TokenLengths(BaseModel):
    """`pair` is prompt + the longer completion: what max_length must hold for nothing to be cut."""

    model_config = ConfigDict(frozen=True)

    prompt: Lengths
    chosen: Lengths
    rejected: Lengths
    pair: Lengths


class DataReport(BaseModel):
    """`datareport/1`. `duplicates` (a pair that stood on an earlier line) and cut pairs are kept: they still teach."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    schema_: Literal["datareport/1"] = Field(default="datareport/1", alias="schema")
    path: str
    max_length: int
    pairs: int
    usable: int
    left_out: tuple[LeftOut, ...]
    truncated_pairs: int
    truncated_chosen: int
    truncated_rejected: int
    duplicates: int
    contradictions: int = Field(description="usable pairs whose mirror image (chosen and rejected swapped) came before")
    prompts_in_train: int | None = Field(default=None, description="usable pairs whose prompt training has too")
    tokens: TokenLengths
    warnings: tuple[str, ...] = ()
    refused: str | None = None

    def judged(self) -> DataReport:
        """With `warnings`, and `refused` where more than half of the pairs would teach nothing."""
        return self.model_copy(update={"warnings": tuple(self._warnings()), "refused": self._refusal()})

    def _warnings(self) -> list[str]:
        said = [
            f"{group.pairs:,} of {self.pairs:,} pairs {WHY[group.reason]}: they are left out "
            f"(line{'s' if len(group.lines) > 1 else ''} {', '.join(map(str, group.lines))}"
            f"{', ...' if group.pairs > len(group.lines) else ''})."
            for group in self.left_out
        ]
        if self.truncated_pairs:
            said.append(
                f"{self.truncated_pairs:,} of {self.usable:,} usable pairs lose the end of a completion at max_length "
                f"{self.max_length}: the model never sees how those end. {self._remedy()}"
            )
        if self.duplicates:
            said.append(
                f"{self.duplicates:,} pairs repeat an earlier one: they are kept, and weigh as often as they stand."
            )
        if self.contradictions:
            said.append(
                f"{self.contradictions:,} pairs prefer what an earlier pair rejects for the same prompt: they pull in "
                "opposite directions."
            )
        if self.prompts_in_train:
            said.append(
                f"{self.prompts_in_train:,} of {self.usable:,} validation pairs have a prompt that is in the training "
                "data too: validation looks better than it is, and the choice of the best adapter leans on it."
            )
        return said

    def _refusal(self) -> str | None:
        lost = self.pairs - self.usable
        if self.pairs and lost * 2 <= self.pairs:
            return None
        main = max(self.left_out, key=lambda group: group.pairs)
        remedy = self._remedy() if main.reason in ("prompt_too_long", "equal_after_cut") else "Mend the data."
        return (
            f"{lost:,} of {self.pairs:,} pairs would teach nothing: most of these ({main.pairs:,}) {WHY[main.reason]}. "
            f"{remedy}"
        )

    def _remedy(self) -> str:
        whole = self.tokens.pair
        return f"--max-length {whole.p95} holds 95% of the pairs whole, --max-length {whole.max} all of them."
