"""What a report of preference pairs says of lengths, and when it warns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data_report import DataCheck, DataReport, LengthBias, Lengths, TokenLengths, TrainedTokens

ONE = Lengths.of([1])


def report(**changed: object) -> DataReport:
    values = {
        "path": "train.jsonl", "max_length": 512, "pairs": 100, "usable": 100, "left_out": (), "truncated_pairs": 0,
        "truncated_chosen": 0, "truncated_rejected": 0, "duplicates": 0, "contradictions": 0,
        "tokens": TokenLengths(prompt=ONE, chosen=ONE, rejected=ONE, pair=ONE),
    }  # fmt: skip
    return DataReport.model_validate(values | changed)


@pytest.mark.parametrize(
    ("differences", "biased"),
    [
        ([], False),
        ([0] * 50, False),
        ([1, -1] * 50, False),
        ([5] * 3, False),  # too few to tell from chance
        ([5] * 70 + [-5] * 30, True),
        ([5] * 30 + [-5] * 70, True),
        ([5] * 55_000 + [-5] * 45_000, False),  # certain, and small
        ([0] * 100 + [300] * 20, True),  # ties say nothing
        ([0] * 1000 + [3] * 20, False),  # always longer, and by nothing
        ([-1] * 60, True),
    ],
)
def test_length_is_a_bias_where_it_tells_the_completions_apart(differences: list[int], biased: bool) -> None:
    assert LengthBias.of(differences, 40).biased is biased
    warnings = report(length_bias=LengthBias.of(differences, 40)).judged().warnings
    assert [("learn length" in warning) for warning in warnings] == [True] * biased


def test_the_warning_says_which_way_the_model_will_go() -> None:
    longer, shorter = LengthBias.of([8] * 80 + [-1] * 20, 40), LengthBias.of([-8] * 80 + [1] * 20, 40)
    assert "80% of the pairs" in report(length_bias=longer).judged().warnings[0]
    assert "will write longer answers" in report(length_bias=longer).judged().warnings[0]
    assert "20% of the pairs" in report(length_bias=shorter).judged().warnings[0]
    assert "will write shorter answers" in report(length_bias=shorter).judged().warnings[0]


@given(st.lists(st.integers(-50, 50), min_size=1))
def test_bias_turns_with_chosen_and_rejected(differences: list[int]) -> None:
    one, other = LengthBias.of(differences, 40), LengthBias.of([-value for value in differences], 40)
    assert (one.median, one.chosen_longer, one.biased) == (-other.median, other.rejected_longer, other.biased)
    if one.share is not None and other.share is not None:
        assert one.share == pytest.approx(1 - other.share)


@pytest.mark.parametrize(
    ("wanted", "unwanted", "said"),
    [
        (100, 100, None),
        (133, 100, None),
        (200, 100, "undesirable_weight = 2.00"),
        (50, 100, "desirable_weight = 2.00"),
        (70, 0, "Every example is wanted"),
        (0, 70, "Every example is not wanted"),
    ],
)
def test_kto_is_told_how_its_two_kinds_of_example_weigh_the_same(wanted: int, unwanted: int, said: str | None) -> None:
    warnings = report(noun="examples", desirable=wanted, undesirable=unwanted).judged().warnings
    assert [said in warning for warning in warnings if said] == [True] * (said is not None)
    assert len(warnings) == (said is not None)
    if wanted and unwanted:
        mended = (1.0, 2.0) if wanted > unwanted else (2.0, 1.0)
        balanced = report(noun="examples", desirable=wanted, undesirable=unwanted, weights=mended).judged()
        assert bool(balanced.warnings) is (said is None)  # the advice, taken, is not given again


def test_a_step_costs_its_pairs() -> None:
    train = report(trained=TrainedTokens(separate=500, shared=300))
    step = DataCheck.of(train, None, 4).step
    assert step is not None
    assert (step.batch_size, step.separate, step.shared) == (4, 2000, 1200)
    assert DataCheck.of(report(), None, 4).step is None


def test_a_report_of_an_older_release_is_read() -> None:
    document = report().model_dump(mode="json", by_alias=True)
    new = ("lose_part", "lose_all", "whole_95", "whole_99", "length_bias", "trained")
    old = {key: value for key, value in document.items() if key not in new}
    assert DataCheck.model_validate({"schema": "datacheck/1", "train": old, "val": None}).train.usable == 100
