"""Intervals of a share and of a mean."""

import math
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.intervals import mean_interval, wilson

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
