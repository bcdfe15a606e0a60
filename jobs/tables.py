"""The store's tables, for SQLite and PostgreSQL alike.

Documents (a job's specification, its attention) are JSON text of the models in `jobs.job`: a newer field never needs
a change of schema. What is asked for or ordered by is a column.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

SCHEMA_VERSION = 1
"""Raised by a change that an older program would misread. `meta` holds the version that wrote the database."""


class Utc(TypeDecorator[datetime]):
    """An aware moment. SQLite drops the zone, so that UTC goes in and comes out on both."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a moment without a time zone: {value}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
)

counters = Table(
    "counters",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", Integer, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, index=True),
    Column("spec", Text, nullable=False),
    Column("home_host", String, nullable=False),
    Column("state", String, nullable=False),
    Column("outcome", String),
    Column("cancel_requested", String, nullable=False),
    Column("lease", Integer, nullable=False),
    Column("attention", Text, nullable=False),
    Column("phase", Text),
    Column("progress", Text),
    Column("error", Text),
    Column("created_at", Utc, nullable=False, index=True),
    Column("ended_at", Utc),
    # `rm` hides a job; its attempts stay in the ledger.
    Column("removed_at", Utc),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job", String, ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("state", String, nullable=False),
    Column("cloud", String, nullable=False),
    Column("instance_type", String, nullable=False),
    Column("gpu", String),
    Column("region", String),
    Column("instance_id", String),
    Column("price_per_hour", Double, nullable=False),
    Column("billing_unit_s", Integer, nullable=False),
    Column("started_at", Utc, nullable=False),
    Column("ended_at", Utc),
    Column("failure", Text),
)

moves = Table(
    "moves",
    metadata,
    Column("job", String, ForeignKey("jobs.id"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("state", String, primary_key=True),
    Column("at", Utc, nullable=False),
)
"""When an attempt entered each state: the report's time by phase."""

rates = Table(
    "rates",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("host", String, nullable=False, index=True),
    Column("rate", Text, nullable=False),
    Column("measured_at", Utc, nullable=False),
)
