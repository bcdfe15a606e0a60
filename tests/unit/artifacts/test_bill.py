from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.bill import LedgerRow, charge, cost_document

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


def row(attempt: int, cost_usd: float) -> LedgerRow:
    return LedgerRow(
        job="dpo-1", attempt=attempt, cloud="lambda", instance_type="a10", instance_id=None, region=None,
        started_at=START + timedelta(microseconds=123456, hours=1), ended_at=None, billed_s=1.0, billing_unit_s=1,
        price_per_hour=1.29, cost_usd=cost_usd, settled=False,
    )  # fmt: skip


def test_the_document_has_times_to_the_second_and_amounts_that_add_up_as_printed():
    document = cost_document([row(1, 0.00036), row(2, 0.00036), row(3, 1.29000001)])
    assert [line["cost_usd"] for line in document["rows"]] == [0.0004, 0.0004, 1.29]
    assert document["total_usd"] == 1.2908
    assert document["rows"][0]["started_at"] == "2026-11-23T01:00:00Z"
    assert document["rows"][0]["ended_at"] is None
    assert cost_document([]) == {"schema": "cost/1", "rows": [], "total_usd": 0}
