"""The bill: what a machine's time costs. Pure: times x billing unit x price."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

USD_DIGITS = 4
"""Of an amount in a document: a hundredth of a cent, below which no provider charges."""


class LedgerRow(BaseModel):
    """One attempt's charge, with the fields of `cost/1`. A row of this machine costs 0 and carries its hours.

    `source` says what the times rest on: this program's own clock (`launcher`) or the provider's record. `settled` is
    False while the figure can still change.
    """

    model_config = ConfigDict(frozen=True)

    job: str
    attempt: int
    cloud: str
    instance_type: str
    instance_id: str | None
    region: str | None
    started_at: AwareDatetime
    ended_at: AwareDatetime | None
    billed_s: float
    billing_unit_s: int
    price_per_hour: float
    cost_usd: float
    source: Literal["launcher", "provider"] = "launcher"
    settled: bool


def charge(started: datetime, ended: datetime, unit_s: int, price: float) -> tuple[float, float]:
    """Billed seconds and USD of a machine that ran from `started` to `ended` (both aware) at `price` USD an hour.

    A begun unit of `unit_s` seconds is charged whole. Times that a clock change put in the wrong order count as 0 s.

    Raises:
        ValueError: a unit below one second, a negative or non-finite price.
    """
    if unit_s < 1:
        raise ValueError(f"a billing unit of {unit_s} s")
    if not (math.isfinite(price) and price >= 0):
        raise ValueError(f"a price of {price} USD an hour")
    elapsed_s = max(0.0, (ended - started).total_seconds())
    # Microseconds are whole numbers: floats would charge one more unit for 3600.0000000001 s.
    units = -(-round(elapsed_s * 1_000_000) // (unit_s * 1_000_000))
    billed_s = float(units * unit_s)
    return billed_s, billed_s * price / 3600


def cost_document(rows: Sequence[LedgerRow]) -> dict[str, Any]:
    """The document `cost/1`, as `cost.json` and `launch cost --json` both have it.

    Amounts are in USD to a hundredth of a cent, and the total is the sum of the rows as they are printed. Times are
    in UTC, to the second.
    """
    lines = [cost_row(row) for row in rows]
    total_usd = round(sum(line["cost_usd"] for line in lines), USD_DIGITS)
    return {"schema": "cost/1", "rows": lines, "total_usd": total_usd}


def cost_row(row: LedgerRow) -> dict[str, Any]:
    """One row of `cost/1`."""
    return row.model_dump(mode="json") | {
        "started_at": _utc(row.started_at),
        "ended_at": _utc(row.ended_at) if row.ended_at else None,
        "cost_usd": round(row.cost_usd, USD_DIGITS),
    }


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
