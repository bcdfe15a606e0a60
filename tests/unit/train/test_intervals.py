"""Intervals of a share and of a mean."""

import math
import random
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.intervals import clustered_wilson, mean_interval, wilson

SHARES = st.integers(min_value=1, max_value=100_000).flatmap(
    lambda n: st.tuples(st.integers(min_value=0, max_value=n), st.just(n))
)


def test_six_of_ten() -> None:
    assert wilson(6, 10) == pytest.approx((0.3127, 0.8318), abs=5e-5)


@pytest.mark.parametrize("n", [1, 10, 300])
def test_none_and_all_still_have_an_interval(n: int) -> None:
    z2 = 1.959963984540054**2
    assert wilson(0, n) == (0.0, pytest.approx(z2 / (n + z2)))
    assert wilson(n, n) == (pytest.approx(n / (n + z2)), 1.0)


@given(SHARES)
def test_the_interval_is_of_shares_and_contains_the_one_observed(share: tuple[int, int]) -> None:
    successes, n = share
    low, high = wilson(successes, n)
    assert 0.0 <= low <= successes / n <= high <= 1.0
    assert low < high


@given(SHARES, st.integers(min_value=2, max_value=100))
def test_the_same_share_of_more_is_narrower(share: tuple[int, int], times: int) -> None:
    successes, n = share
    low, high = wilson(successes, n)
    narrow_low, narrow_high = wilson(successes * times, n * times)
    assert narrow_high - narrow_low < high - low


@given(SHARES)
def test_failures_mirror_successes(share: tuple[int, int]) -> None:
    successes, n = share
    low, high = wilson(successes, n)
    assert wilson(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (1, 0), (2, 1), (-1, 5)])
def test_what_is_no_share_is_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="is not a share"):
        wilson(successes, n)


def test_the_mean_of_a_single_value_has_no_spread() -> None:
    assert mean_interval([0.3]) == (0.3, 0.3, 0.3)


def test_the_mean_of_some_values() -> None:
    values = [0.1, 0.4, 0.4, 1.1]
    half = 1.959963984540054 * stdev(values) / math.sqrt(4)
    assert mean_interval(values) == pytest.approx((fmean(values), fmean(values) - half, fmean(values) + half))


CLUSTERS = st.lists(
    st.integers(min_value=1, max_value=9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=1
)


@given(CLUSTERS)
def test_a_pooled_share_lies_in_its_interval_which_is_never_narrower_than_that_of_single_facts(
    counts: list[tuple[int, int]],
) -> None:
    hits, n = (sum(column) for column in zip(*counts, strict=True))
    low, high = clustered_wilson(counts)
    plain_low, plain_high = wilson(hits, n)
    assert 0 <= low <= hits / n + 1e-12
    assert hits / n - 1e-12 <= high <= 1
    assert high - low >= plain_high - plain_low - 1e-9


@given(st.lists(st.integers(0, 1), min_size=2).filter(lambda ones: 0 < sum(ones) < len(ones)))
def test_notes_of_one_fact_are_single_facts_and_notes_of_one_kind_count_once(ones: list[int]) -> None:
    n = len(ones)
    alone = clustered_wilson([(one, 1) for one in ones])
    alike = clustered_wilson([(7 * one, 7) for one in ones])
    # n - 1 where n is known: the variance between clusters is estimated from them.
    assert alone == pytest.approx(alike)
    assert alone == pytest.approx(wilson(sum(ones) * (n - 1) / n, n - 1))


def test_it_holds_the_truth_as_often_as_it_says_where_single_facts_do_not() -> None:
    draw, truth = random.Random(3), 0.1
    held = plain = 0
    for _ in range(400):
        rates = [draw.betavariate(0.2, 1.8) for _ in range(120)]  # notes differ: some lose much, most lose nothing
        counts = [(sum(draw.random() < rate for _ in range(8)), 8) for rate in rates]
        low, high = clustered_wilson(counts)
        held += low <= truth <= high
        low, high = wilson(sum(hits for hits, _ in counts), 8 * 120)
        plain += low <= truth <= high
    assert held / 400 > 0.92
    assert plain / 400 < 0.85


@pytest.mark.parametrize("counts", [[], [(0, 0)], [(3, 2)]])
def test_what_is_no_pooled_share_is_refused(counts: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="is not a share"):
        clustered_wilson(counts)
