"""What the preference pairs of a file are worth for training, before any time is spent (`datareport/1`)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from train.intervals import wilson

Reason = Literal["empty_prompt", "empty_completion", "identical", "prompt_too_long", "equal_after_cut"]

NOTABLE_BIAS = 0.1
"""How far the share of pairs with the longer chosen may be from one half before it is worth a warning."""
NOTABLE_DIFFERENCE = 0.02
"""The mean difference, as a part of the mean completion, below which it is no matter how often chosen is longer."""

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


class LengthBias(BaseModel):
    """Tokens of chosen less tokens of rejected, over usable pairs as they are trained on (cut).

    `share` is how often chosen is the longer one among the pairs that differ in length (a sign test), with its 95%
    Wilson interval; None where no pair differs.
    """

    model_config = ConfigDict(frozen=True)

    median: float
    mean: float
    relative: float = Field(default=0, description="mean difference as a part of the mean completion")
    chosen_longer: int
    rejected_longer: int
    share: float | None = None
    share_low: float | None = None
    share_high: float | None = None

    @classmethod
    def of(cls, differences: Sequence[int], mean_completion: float) -> LengthBias:
        """`differences` chosen - rejected, a usable pair each; `mean_completion` tokens over both kinds."""
        mean = statistics.fmean(differences) if differences else 0.0
        longer, shorter = sum(value > 0 for value in differences), sum(value < 0 for value in differences)
        low, high = wilson(longer, longer + shorter) if longer + shorter else (None, None)
        return cls(
            median=statistics.median(differences) if differences else 0,
            mean=mean,
            relative=mean / mean_completion if mean_completion else 0,
            chosen_longer=longer,
            rejected_longer=shorter,
            share=longer / (longer + shorter) if longer + shorter else None,
            share_low=low,
            share_high=high,
        )

    @property
    def biased(self) -> bool:
        """Whether length tells the completions apart: by more than 2% of it, in a split that is not even by chance."""
        if self.share is None or self.share_low is None or self.share_high is None:
            return False
        notable = abs(self.share - 0.5) > NOTABLE_BIAS and abs(self.relative) > NOTABLE_DIFFERENCE
        return notable and not self.share_low <= 0.5 <= self.share_high


class TrainedTokens(BaseModel):
    """Mean tokens that a usable pair costs, as it is trained on (cut, without padding).

    `separate` has the prompt in front of each completion (2 x prompt + chosen + rejected), as TRL trains; `shared`
    has it once (prompt + chosen + rejected), which is what sharing the prompt could save.
    """

    model_config = ConfigDict(frozen=True)

    separate: float
    shared: float


class StepTokens(BaseModel):
    """Mean tokens an optimizer step of `batch_size` pairs, as in TrainedTokens."""

    model_config = ConfigDict(frozen=True)

    batch_size: int
    separate: float
    shared: float


class DataReport(BaseModel):
    """`datareport/1`. `duplicates` (a pair that stood on an earlier line) and cut pairs are kept: they still teach."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    schema_: Literal["datareport/1"] = Field(default="datareport/1", alias="schema")
    noun: Literal["pairs", "examples"] = "pairs"
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
    lose_part: int = Field(default=0, description="pairs of which max_length cuts the end of a completion off")
    lose_all: int = Field(default=0, description="pairs whose prompt leaves nothing of a completion")
    whole_95: int = Field(default=0, description="smallest max_length that keeps 95% of the pairs whole")
    whole_99: int = Field(default=0, description="smallest max_length that keeps 99% of the pairs whole")
    desirable: int | None = Field(default=None, description="usable examples that are wanted; None where all are")
    undesirable: int | None = Field(default=None, description="usable examples that are not wanted")
    weights: tuple[float, float] = Field(default=(1.0, 1.0), description="of the two kinds, in KTO")
    length_bias: LengthBias | None = None
    trained: TrainedTokens | None = Field(default=None, description="None where no pair is usable")
    warnings: tuple[str, ...] = ()
    refused: str | None = None

    def judged(self) -> DataReport:
        """With `warnings`, and `refused` where more than half of the pairs would teach nothing."""
        return self.model_copy(update={"warnings": tuple(self._warnings()), "refused": self._refusal()})

    def _warnings(self) -> list[str]:
        said = [
            f"{group.pairs:,} of {self.pairs:,} {self.noun} {WHY[group.reason]}: they are left out and teach nothing "
            f"(line{'s' if len(group.lines) > 1 else ''} {', '.join(map(str, group.lines))}"
            f"{', ...' if group.pairs > len(group.lines) else ''})."
            for group in self.left_out
        ]
        if self.truncated_pairs:
            said.append(
                f"{self.truncated_pairs:,} of {self.usable:,} usable {self.noun} lose the end of a completion at "
                f"max_length {self.max_length}: the model never sees how those end. {self._remedy()}"
            )
        if self.duplicates:
            said.append(
                f"{self.duplicates:,} {self.noun} repeat an earlier one: they are kept, and each repeat adds to "
                "their weight in the training."
            )
        if self.contradictions and self.noun == "examples":
            said.append(
                f"{self.contradictions:,} completions are wanted on one line and not on another: they teach noise."
            )
        elif self.contradictions:
            said.append(
                f"{self.contradictions:,} pairs prefer what an earlier pair rejects for the same prompt: they pull in "
                "opposite directions, and teach noise."
            )
        if self.prompts_in_train:
            said.append(
                f"{self.prompts_in_train:,} of {self.usable:,} validation pairs have a prompt that is in the training "
                "data too: validation looks better than it is, and the choice of the best adapter leans on it."
            )
        if self.desirable is not None and self.undesirable is not None:
            said += _balance(self.desirable, self.undesirable, self.weights)
        if self.length_bias and self.length_bias.biased:
            said.append(_bias_warning(self.length_bias))
        return said

    def _refusal(self) -> str | None:
        lost = self.pairs - self.usable
        if self.pairs and lost * 2 <= self.pairs:
            return None
        main = max(self.left_out, key=lambda group: group.pairs)
        remedy = self._remedy() if main.reason in ("prompt_too_long", "equal_after_cut") else "Mend the data."
        return (
            f"{lost:,} of {self.pairs:,} {self.noun} would teach nothing: most of these ({main.pairs:,}) "
            f"{WHY[main.reason]}. {remedy}"
        )

    def _remedy(self) -> str:
        whole = self.tokens.pair
        return f"--max-length {whole.p95} holds 95% of the {self.noun} whole, --max-length {whole.max} all of them."


def _balance(wanted: int, unwanted: int, weights: tuple[float, float]) -> list[str]:
    """The weights of KTO's two kinds should make them as many, or the wanted a third more (its paper, equation 8)."""
    if not wanted or not unwanted:
        kind = "not wanted" if unwanted else "wanted"
        return [f"Every example is {kind}: KTO learns from the difference of the two kinds, and there is none."]
    gains, losses = weights[0] * wanted, weights[1] * unwanted
    if losses <= gains <= losses * 4 / 3:
        return []
    name, weight = "undesirable_weight", gains / unwanted
    if gains < losses:
        name, weight = "desirable_weight", losses / wanted
    said = (
        f"{wanted:,} examples are wanted and {unwanted:,} are not: the weights of the two should make up for it "
        f"(about {name} = {weight:.2f} in launch.toml)."
    )
    return [said]


def _bias_warning(bias: LengthBias) -> str:
    share, low, high = (100 * (value or 0) for value in (bias.share, bias.share_low, bias.share_high))
    longer = bias.chosen_longer > bias.rejected_longer
    return (
        f"Chosen is the longer one in {share:.0f}% of the pairs that differ in length (95% interval {low:.0f} to "
        f"{high:.0f}%), by {bias.mean:+.1f} tokens ({bias.relative:+.0%}) in the mean: models learn length from that, "
        f"and will write {'longer' if longer else 'shorter'} answers whatever they say. Balance the "
        "lengths, or compare the lengths of answers before and after."
    )


class DataCheck(BaseModel):
    """`datacheck/1`: a report for each file of the run, and what a step of the training file costs."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    schema_: Literal["datacheck/1"] = Field(default="datacheck/1", alias="schema")
    train: DataReport
    val: DataReport | None = None
    step: StepTokens | None = None

    @classmethod
    def of(cls, train: DataReport, val: DataReport | None, batch_size: int) -> DataCheck:
        """The check of a run with `batch_size` pairs a step."""
        mean = train.trained
        step = mean and StepTokens(
            batch_size=batch_size, separate=batch_size * mean.separate, shared=batch_size * mean.shared
        )
        return cls(train=train, val=val, step=step)
