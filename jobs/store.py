"""The one store: jobs, their attempts, the ledger and rates. What a driver writes goes through `jobs.lease`."""

from __future__ import annotations

import difflib
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import IntegrityError

from artifacts.bill import LedgerRow
from artifacts.errors import UsageProblem
from jobs import tables
from jobs.database import Database, open_database
from jobs.home import Home
from jobs.job import Attention, Job, JobSpec, Outcome, State
from jobs.lease import DriverWrites
from jobs.offer import Rate
from jobs.rows import ATTENTION, jobs_of, ledger_row
from train.config import Method

Cancel = Literal["pull_first", "now"]

# A method's counter begins with its first job. SQLite and PostgreSQL both make or raise it in this one statement.
_COUNT = text(
    "INSERT INTO counters (name, value) VALUES (:name, 1) "
    "ON CONFLICT (name) DO UPDATE SET value = counters.value + 1 RETURNING value"
)


def this_host() -> str:
    """The name under which this machine's jobs and rates are kept."""
    return socket.gethostname()


class Store:
    """What is known of all jobs. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.store_id = database.store_id
        """This store's own id, [a-z0-9]{6}, made once."""

    @classmethod
    def open(cls, home: Home) -> Store:
        """Raises StoreTooNew (untouched) or UsageProblem (damaged, not ours, not reachable)."""
        return cls(open_database(home))

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def next_job_id(self, method: Method = "dpo") -> str:
        """ "dpo-1", "dpo-2", ...: reserved, never given twice, whether a job comes of it or not."""
        with self._database.writing() as connection:
            number = connection.execute(_COUNT, {"name": method}).scalar_one()
        return f"{method}-{number}"

    def create(self, spec: JobSpec, *, now: datetime) -> Job:
        """Records a queued job of this host."""
        row = {
            "id": spec.id,
            "name": spec.name,
            "spec": spec.model_dump_json(by_alias=True),
            "home_host": this_host(),
            "state": State.QUEUED.value,
            "cancel_requested": "no",
            "lease": 0,
            "attention": "[]",
            "created_at": now,
        }
        try:
            with self._database.writing() as connection:
                connection.execute(insert(tables.jobs), row)
        except IntegrityError as error:
            raise UsageProblem(f"A job {spec.id} is recorded already", next_step=f"launch status {spec.id}") from error
        return self.job(spec.id)

    def jobs(self, limit: int | None = None) -> list[Job]:
        """Newest first, in two queries."""
        columns = tables.jobs.c
        query = (
            select(tables.jobs)
            .where(columns.removed_at.is_(None))
            .order_by(columns.created_at.desc(), columns.id.desc())
        )
        with self._database.reading() as connection:
            rows = connection.execute(query.limit(limit)).all()
            return jobs_of(connection, rows)

    def unfinished(self, host: str | None = None) -> list[str]:
        """The ids of jobs of `host` (this one) that are not done."""
        columns = tables.jobs.c
        query = select(columns.id).where(columns.state != State.DONE.value, columns.home_host == (host or this_host()))
        with self._database.reading() as connection:
            return list(connection.execute(query.where(columns.removed_at.is_(None))).scalars())

    def job(self, ref: str) -> Job:
        """The job of that id, name, or beginning of an id or name, in this order.

        Raises:
            UsageProblem: none, or more than one; names the nearest.
        """
        columns = tables.jobs.c
        with self._database.reading() as connection:
            names = connection.execute(select(columns.id, columns.name).where(columns.removed_at.is_(None))).all()
            job_id = _resolve(ref, [(row.id, row.name) for row in names])
            rows = connection.execute(select(tables.jobs).where(columns.id == job_id)).all()
            return jobs_of(connection, rows)[0]

    def request_cancel(self, job_id: str, mode: Cancel) -> Job:
        """Asks the driver to cancel; safe to repeat. `now` is never taken back to `pull_first`, done stays done."""
        columns = tables.jobs.c
        step = update(tables.jobs).where(columns.id == job_id, columns.state != State.DONE.value)
        if mode == "pull_first":
            step = step.where(columns.cancel_requested == "no")
        with self._database.writing() as connection:
            connection.execute(step.values(cancel_requested=mode))
        return self.job(job_id)

    def reopen(self, job_id: str, now: datetime) -> Job:
        """Makes a job due again for `launch resume`: queued, with no outcome, error, cancellation or attention.

        The caller has made sure that no driver lives. An attempt that a lost driver left open is ended by the next one.
        """
        fresh = {"state": State.QUEUED.value, "outcome": None, "error": None, "ended_at": None}
        fresh |= {"cancel_requested": "no", "attention": "[]", "phase": None}
        with self._database.writing() as connection:
            connection.execute(update(tables.jobs).where(tables.jobs.c.id == job_id).values(fresh))
        return self.job(job_id)

    def settle(self, job_id: str, outcome: Outcome) -> None:
        """Gives a job that had failed the outcome that it earned; its attempts keep what went wrong with them.

        Only a job that is done and failed is changed, so that a `launch resume` at the same moment is not undone.
        """
        columns = tables.jobs.c
        failed = (columns.state == State.DONE.value) & (columns.outcome == Outcome.FAILED.value)
        step = update(tables.jobs).where(columns.id == job_id, failed).values(outcome=outcome.value, error=None)
        with self._database.writing() as connection:
            connection.execute(step)

    def remove(self, job_id: str) -> None:
        """Hides the job. Its attempts stay in the ledger: what was charged was charged."""
        hidden = update(tables.jobs).where(tables.jobs.c.id == job_id).values(removed_at=datetime.now(UTC))
        with self._database.writing() as connection:
            connection.execute(hidden)

    def ledger(self, job_id: str | None = None, *, now: datetime | None = None) -> list[LedgerRow]:
        """A row an attempt, oldest first, removed jobs included. An open attempt is charged up to `now`, unsettled."""
        columns = tables.attempts.c
        query = select(tables.attempts).order_by(columns.started_at, columns.job, columns.number)
        if job_id is not None:
            query = query.where(columns.job == job_id)
        with self._database.reading() as connection:
            return [ledger_row(row, now or datetime.now(UTC)) for row in connection.execute(query)]

    def moves(self, job_id: str) -> list[tuple[int, State, datetime]]:
        """When each attempt entered each of its states, in order."""
        columns = tables.moves.c
        query = select(tables.moves).where(columns.job == job_id).order_by(columns.attempt, columns.at)
        with self._database.reading() as connection:
            return [(row.attempt, State(row.state), row.at) for row in connection.execute(query)]

    def rates(self, host: str | None = None) -> list[Rate]:
        """What devices of `host` (this one) were measured at, newest first."""
        columns = tables.rates.c
        query = select(columns.rate).where(columns.host == (host or this_host()))
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(columns.measured_at.desc(), columns.id.desc())).scalars()
            return [Rate.model_validate_json(row) for row in rows]

    def add_rate(self, rate: Rate, *, host: str | None = None) -> None:
        row = {"host": host or this_host(), "rate": rate.model_dump_json(), "measured_at": rate.measured_at}
        with self._database.writing() as connection:
            connection.execute(insert(tables.rates), row)

    def take_lease(self, job_id: str) -> int:
        """Makes the caller the job's only driver: every write under an older lease raises LeaseLost from now on."""
        columns = tables.jobs.c
        step = update(tables.jobs).where(columns.id == job_id).values(lease=columns.lease + 1)
        with self._database.writing() as connection:
            lease = connection.execute(step.returning(columns.lease)).scalar_one_or_none()
        if lease is None:
            raise UsageProblem(f"There is no job {job_id}", next_step="launch status")
        return int(lease)

    def as_driver(self, job_id: str, lease: int) -> DriverWrites:
        """The writes that only the holder of the current lease may make."""
        return DriverWrites(self._database, job_id, lease)

    def set_attention(self, job_id: str, attention: Attention) -> None:
        """For the one who finds that a job has no driver; a driver itself writes through its lease."""
        columns = tables.jobs.c
        with self._database.writing() as connection:
            query = select(columns.attention).where(columns.id == job_id, columns.state != State.DONE.value)
            stored = connection.execute(query.with_for_update()).scalar_one_or_none()
            if stored is None:
                return
            kept = [one for one in ATTENTION.validate_json(stored) if one.code != attention.code]
            document = ATTENTION.dump_json((*kept, attention)).decode()
            connection.execute(update(tables.jobs).where(columns.id == job_id).values(attention=document))

    def clear_attention(self, job_id: str, code: str) -> None:
        """For the one who put right, without a driver, what a job that is done still warned of."""
        columns = tables.jobs.c
        with self._database.writing() as connection:
            query = select(columns.attention).where(columns.id == job_id, columns.state == State.DONE.value)
            stored = connection.execute(query.with_for_update()).scalar_one_or_none()
            if stored is None:
                return
            kept = tuple(one for one in ATTENTION.validate_json(stored) if one.code != code)
            document = ATTENTION.dump_json(kept).decode()
            connection.execute(update(tables.jobs).where(columns.id == job_id).values(attention=document))


def _resolve(ref: str, known: Sequence[tuple[str, str]]) -> str:
    """The id that `ref` means among (id, name) pairs."""
    for matches in (
        [job_id for job_id, _ in known if job_id == ref],
        [job_id for job_id, name in known if name == ref],
        [job_id for job_id, name in known if ref and (job_id.startswith(ref) or name.startswith(ref))],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UsageProblem(
                f"{ref!r} is more than one job: {', '.join(sorted(matches))}", next_step=f"launch status {matches[0]}"
            )
    near = difflib.get_close_matches(ref, [word for pair in known for word in pair], n=1, cutoff=0.4)
    why = f"the nearest is {near[0]}" if near else "" if known else "no job was recorded yet"
    raise UsageProblem(f"There is no job {ref!r}", why=why, next_step="launch status")
