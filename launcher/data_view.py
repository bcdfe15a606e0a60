"""The data check as a person reads it: one screen, 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.data_report import DataCheck, DataReport, Lengths

WIDTH = 80


def lines(check: Mapping[str, Any]) -> list[str]:
    """A `datacheck/1` document in at most 14 lines of 80 columns, figures first, what they mean after them."""
    found = DataCheck.model_validate(check)
    train, noun = found.train, found.train.noun
    said = [
        f"{train.usable:,} of {train.pairs:,} training {noun} can be used at max_length {train.max_length:,}",
        f"{'tokens':<14}{'median':>9}{'95%':>9}{'99%':>9}{'max':>9}",
        *(f"  {name:<12}{row.median:>9,}{row.p95:>9,}{row.p99:>9,}{row.max:>9,}" for name, row in _rows(train)),
        f"{noun} cut: {train.lose_part:,} lose the end of a completion, {train.lose_all:,} lose all of it",
        f"max_length {train.whole_95:,} keeps 95% of the {noun} whole, {train.whole_99:,} keeps 99%",
    ]
    if train.length_bias and train.length_bias.share is not None:
        bias = train.length_bias
        said.append(
            f"length: chosen is longer in {100 * train.length_bias.share:.0f}% of unequal pairs "
            f"({bias.median:+,.0f} tokens at the median)"
        )
    if found.step:
        step = found.step
        shared = f"; {step.shared:,.0f} if completions share their prompt" if noun == "pairs" else ""
        said.append(f"a step of {step.batch_size}: {step.separate:,.0f} tokens{shared}")
    said.append(_faults(train))
    if found.val:
        shared = f", {found.val.prompts_in_train:,} with a prompt of training" if found.val.prompts_in_train else ""
        said.append(f"{found.val.usable:,} of {found.val.pairs:,} validation {noun} can be used{shared}")
    if train.refused:
        said.append(f"refused: most {noun} would teach nothing (--force trains on the rest)")
    elif train.length_bias and train.length_bias.biased:
        said.append("the model will learn length from these pairs: balance them")
    return [line if len(line) <= WIDTH else line[: WIDTH - 3] + "..." for line in said]


def _rows(report: DataReport) -> list[tuple[str, Lengths]]:
    tokens, rows = report.tokens, ("chosen", "rejected", "pair")
    if report.desirable is not None:
        rows = ("wanted", "unwanted", "example")
    elif report.noun == "examples":
        return [("prompt", tokens.prompt), ("completion", tokens.chosen), ("example", tokens.pair)]
    return list(zip(("prompt", *rows), (tokens.prompt, tokens.chosen, tokens.rejected, tokens.pair), strict=True))


def _faults(report: DataReport) -> str:
    if report.desirable is not None:
        kinds = f"{report.desirable:,} wanted, {report.undesirable or 0:,} not"
        return f"{report.duplicates:,} repeated, {report.contradictions:,} contradict another; {kinds}"
    if report.noun == "examples":
        return f"{report.duplicates:,} repeated"
    equal = sum(group.pairs for group in report.left_out if group.reason in ("identical", "equal_after_cut"))
    return f"{report.duplicates:,} repeated, {report.contradictions:,} contradict another, {equal:,} chosen = rejected"
