"""What the rows of the store's tables become: jobs with their attempts, and lines of the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, Row, select

from artifacts.bill import LedgerRow, charge
from jobs import tables
from jobs.job import Attempt, Attention, Job, JobSpec, Outcome, PhaseProgress, Progress, State

ATTENTION = TypeAdapter(tuple[Attention, ...])
"""Reads and writes the column `attention`."""


def jobs_of(connection: Connection, rows: Sequence[Row[Any]]) -> list[Job]:
    """The jobs of these rows, with their attempts from one more query."""
    columns = tables.attempts.c
    query = select(tables.attempts).order_by(columns.job, columns.number)
    if len(rows) <= 100:
        query = query.where(columns.job.in_([row.id for row in rows]))
    attempts: dict[str, list[Attempt]] = {}
    for values in connection.execute(query).mappings():
        attempts.setdefault(values["job"], []).append(Attempt.model_validate(dict(values)))
    return [_job(row, attempts.get(row.id, ())) for row in rows]


def _job(row: Row[Any], attempts: Iterable[Attempt]) -> Job:
    return Job(
        spec=JobSpec.model_validate_json(row.spec),
        home_host=row.home_host,
        state=State(row.state),
        outcome=Outcome(row.outcome) if row.outcome else None,
        cancel_requested=row.cancel_requested,
        lease=row.lease,
        attention=ATTENTION.validate_json(row.attention),
        phase=PhaseProgress.model_validate_json(row.phase) if row.phase else None,
        progress=Progress.model_validate_json(row.progress) if row.progress else None,
        error=row.error,
        created_at=row.created_at,
        ended_at=row.ended_at,
        attempts=tuple(attempts),
    )


def ledger_row(row: Row[Any], now: datetime) -> LedgerRow:
    """The bill of an attempt's row; one that is still open is charged up to `now`."""
    billed_s, cost_usd = charge(row.started_at, row.ended_at or now, row.billing_unit_s, row.price_per_hour)
    return LedgerRow(
        job=row.job,
        attempt=row.number,
        cloud=row.cloud,
        instance_type=row.instance_type,
        instance_id=row.instance_id,
        region=row.region,
        started_at=row.started_at,
        ended_at=row.ended_at,
        billed_s=billed_s,
        billing_unit_s=row.billing_unit_s,
        price_per_hour=row.price_per_hour,
        cost_usd=cost_usd,
        settled=row.ended_at is not None,
    )
