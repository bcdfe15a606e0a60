"""The ledger as people and programs read it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from artifacts.bill import LedgerRow
from jobs.store import Store


def costs_by_job(store: Store) -> dict[str, float]:
    """What each job has cost so far, in USD."""
    costs: dict[str, float] = defaultdict(float)
    for row in store.ledger():
        costs[row.job] += row.cost_usd
    return dict(costs)


def lines(rows: Sequence[LedgerRow], *, by: str) -> list[str]:
    """A table of attempts, or of sums by job, cloud or month; the total last."""
    if not rows:
        return ["No attempts yet; nothing was spent."]
    if by == "attempt":
        head = ("JOB", "TRY", "WHERE", "STARTED", "HOURS", "$/H", "COST", "SOURCE")
        body = [
            (
                row.job,
                str(row.attempt),
                f"{row.cloud} {row.instance_type}"[:26],
                row.started_at.astimezone().strftime("%m-%d %H:%M"),
                f"{row.billed_s / 3600:.2f}" + ("" if row.ended_at else "+"),
                f"{row.price_per_hour:.2f}",
                f"${row.cost_usd:.2f}",
                row.source if row.settled else f"{row.source}, open",
            )
            for row in rows
        ]
    else:
        sums: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
        for row in rows:
            key = {"job": row.job, "cloud": row.cloud, "month": row.started_at.strftime("%Y-%m")}[by]
            sums[key][0] += 1
            sums[key][1] += row.billed_s / 3600
            sums[key][2] += row.cost_usd
        head = (by.upper(), "ATTEMPTS", "HOURS", "COST")
        body = [(key, f"{n:.0f}", f"{hours:.2f}", f"${cost:.2f}") for key, (n, hours, cost) in sums.items()]
    text = {"JOB", "WHERE", "STARTED", "SOURCE", "CLOUD", "MONTH"}
    widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
    table = [
        "  ".join(
            cell.ljust(width) if name in text else cell.rjust(width)
            for cell, width, name in zip(row, widths, head, strict=True)
        ).rstrip()
        for row in [head, *body]
    ]
    return [*table, f"total ${sum(row.cost_usd for row in rows):.2f}"]
