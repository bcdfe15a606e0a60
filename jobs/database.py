"""The database under the store: found whole and of this version, or refused untouched."""

from __future__ import annotations

import secrets
import sqlite3
import string
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, select, text
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    NotSupportedError,
    ProgrammingError,
    SQLAlchemyError,
)

from artifacts.errors import StoreTooNew, UsageProblem
from jobs import tables
from jobs.database_problem import damaged, when_opened, while_used
from jobs.home import Home
from jobs.tables import SCHEMA_VERSION

BUSY_TIMEOUT_S = 20
_CREATE_LOCK = 0x6C61756E  # PostgreSQL advisory lock: "laun"


class Database:
    """Transactions on one engine. `reading` sees one state of the database; `writing` waits for other writers.

    Both raise StoreFailed where the database cannot be used any more.
    """

    def __init__(self, engine: Engine, store_id: str, home: Home) -> None:
        self.engine, self.store_id, self._home = engine, store_id, home

    @contextmanager
    def reading(self) -> Generator[Connection]:
        with self._explained(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Generator[Connection]:
        # SQLite cannot turn a reader into a writer while another writes: who will write says so at the start.
        with (
            self._explained(),
            self.engine.connect().execution_options(launch_writes=True) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def _explained(self) -> Generator[None]:
        """StoreFailed where the world is the reason: a full disk, a lock, a server that went away."""
        try:
            yield
        except (DataError, IntegrityError, NotSupportedError, ProgrammingError):
            raise  # about what was asked, which is the caller's
        except DBAPIError as error:
            raise while_used(self._home, error) from error

    def close(self) -> None:
        self.engine.dispose()


def open_database(home: Home) -> Database:
    """Opens, and on first use makes, the database of `home`.

    Raises:
        StoreTooNew: a newer version wrote it; not a byte of it was changed.
        UsageProblem: it is damaged, is not ours, cannot be reached, or its disk is full.
    """
    if home.database is None:
        version = _sqlite_version(home)
        _refuse_newer(version, str(home.database_file))
        engine = _sqlite_engine(home.database_file)
    else:
        engine = _team_engine(home.database)
        version = None
    try:
        with engine.connect().execution_options(launch_writes=version is None) as connection, connection.begin():
            if version is None:
                _create(connection)
            store_id = _meta(connection, "store_id")
    except SQLAlchemyError as error:
        engine.dispose()
        raise when_opened(home, error) from error
    except UsageProblem:
        engine.dispose()
        raise
    return Database(engine, store_id, home)


def _sqlite_version(home: Home) -> int | None:
    """The schema version of the file, read without a write; None where there is no database yet."""
    file = home.database_file
    if not file.exists() or not file.stat().st_size:
        return None
    try:
        connection = sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)
        try:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if "meta" not in names:
                if names:
                    raise damaged(file, "it is a database, but not one of this program")
                return None
            row = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise when_opened(home, error) from error
    if row is None:
        raise damaged(file, "its meta table names no version")
    return int(row[0])


def _refuse_newer(version: int | None, place: str) -> None:
    if version is not None and version > SCHEMA_VERSION:
        raise StoreTooNew(
            f"The job database {place} was written by a newer version of launch",
            why=f"its schema is version {version}, this program knows up to {SCHEMA_VERSION}; nothing was changed",
            next_step="upgrade launch, or set LAUNCH_HOME to another folder",
        )


def _sqlite_engine(file: Path) -> Engine:
    url = URL.create("sqlite", database=str(file))  # written as text, a path with ? or % would name another file
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

    def connected(connection: Any, record: Any) -> None:  # noqa: ARG001
        # Off: the driver would begin transactions late, and DDL outside of them. `begun` does it instead.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")

    def begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get("launch_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    return engine


def _team_engine(url: str) -> Engine:
    try:
        return create_engine(url, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise UsageProblem(
            "LAUNCH_DATABASE_URL cannot be used",
            why=str(error),
            next_step="write it as postgresql+psycopg://USER@HOST/DATABASE; the driver comes with the extra `postgres`",
        ) from error


def _create(connection: Connection) -> None:
    """Makes what is missing, in one transaction: two programs that start at once make one store."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CREATE_LOCK})
    if connection.dialect.has_table(connection, "meta"):
        _refuse_newer(int(_meta(connection, "schema_version")), connection.engine.url.render_as_string())
        return
    tables.metadata.create_all(connection)
    alphabet = string.ascii_lowercase + string.digits
    store_id = "".join(secrets.choice(alphabet) for _ in range(6))
    rows = [{"key": "schema_version", "value": str(SCHEMA_VERSION)}, {"key": "store_id", "value": store_id}]
    connection.execute(insert(tables.meta), rows)
    connection.execute(insert(tables.counters), {"name": "dpo", "value": 0})


def _meta(connection: Connection, key: str) -> str:
    return str(connection.execute(select(tables.meta.c.value).where(tables.meta.c.key == key)).scalar_one())
