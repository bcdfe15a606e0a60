from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.bill import charge

START = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "unit_s", "billed_s"),
    [(0, 60, 0), (0.1, 60, 60), (60, 60, 60), (60.1, 60, 120), (5, 1, 5), (-9, 1, 0)],
)
def test_a_begun_unit_is_charged_whole(seconds, unit_s, billed_s):
    assert charge(START, START + timedelta(seconds=seconds), unit_s, 3.6) == (billed_s, pytest.approx(billed_s / 1000))


@given(st.floats(0, 1e7), st.integers(1, 3600), st.floats(0, 100))
def test_never_less_than_the_time_and_never_a_whole_unit_more(seconds, unit_s, price):
    ended = START + timedelta(seconds=seconds)
    billed_s, cost_usd = charge(START, ended, unit_s, price)
    elapsed_s = (ended - START).total_seconds()
    assert elapsed_s <= billed_s + 1e-6
    assert billed_s < elapsed_s + unit_s
    assert cost_usd == pytest.approx(billed_s * price / 3600)


@pytest.mark.parametrize(("unit_s", "price"), [(0, 1), (1, -1), (1, float("nan")), (1, float("inf"))])
def test_nonsense_is_refused(unit_s, price):
    with pytest.raises(ValueError):
        charge(START, START, unit_s, price)
