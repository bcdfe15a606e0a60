"""What only a job's driver writes. Every write carries the lease; a driver that was replaced writes nothing."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from artifacts.errors import LeaseLost
from jobs import tables
from jobs.database import Database
from jobs.job import TRANSITIONS, Attempt, Attention, Outcome, PhaseProgress, Progress, State
from jobs.offer import Offer
from jobs.rows import ATTENTION

Billed = tuple[datetime, datetime] | None
"""From when to when a provider charges for a machine; None: as long as the attempt was open."""


class DriverWrites:
    """The writes of the driver that holds `lease` on `job_id`.

    Each is one transaction that first locks the job's row and compares the lease: LeaseLost when another took it.
    """

    def __init__(self, database: Database, job_id: str, lease: int) -> None:
        self._database, self.job_id, self.lease = database, job_id, lease

    @contextmanager
    def _held(self) -> Generator[Connection]:
        columns = tables.jobs.c
        with self._database.writing() as connection:
            query = select(columns.lease).where(columns.id == self.job_id).with_for_update()
            current = connection.execute(query).scalar_one_or_none()
            if current != self.lease:
                raise LeaseLost(
                    f"Another driver has taken over job {self.job_id}",
                    why=f"this one holds lease {self.lease}, the job is at {current}; nothing was written",
                    next_step=f"launch status {self.job_id}",
                )
            yield connection

    def _set(self, connection: Connection, **values: Any) -> None:
        connection.execute(update(tables.jobs).where(tables.jobs.c.id == self.job_id).values(**values))

    def open_attempt(
        self, offer: Offer, *, now: datetime, instance_id: str | None = None, billing_unit_s: int = 1
    ) -> Attempt:
        """The next attempt, in `provisioning`, at the price of `offer` from now on.

        Raises:
            ValueError: the attempt before it has not ended.
        """
        columns = tables.attempts.c
        with self._held() as connection:
            before = select(func.max(columns.number), func.count().filter(columns.state != State.ENDED.value))
            last, still_open = connection.execute(before.where(columns.job == self.job_id)).one()
            if still_open:
                raise ValueError(f"attempt {last} of {self.job_id} has not ended")
            attempt = Attempt(
                job=self.job_id,
                number=(last or 0) + 1,
                state=State.PROVISIONING,
                cloud=offer.cloud,
                instance_type=offer.instance_type,
                gpu=offer.gpu,
                region=offer.region,
                instance_id=instance_id,
                price_per_hour=offer.price_per_hour,
                billing_unit_s=billing_unit_s,
                started_at=now,
            )
            connection.execute(insert(tables.attempts), attempt.model_dump())
            self._entered(connection, attempt.number, State.PROVISIONING, now)
            self._set(connection, state=State.PROVISIONING.value, phase=None)
        return attempt

    def price(self, number: int, usd_per_hour: float) -> None:
        """The attempt's price, frozen from before its create call on."""
        columns = tables.attempts.c
        with self._held() as connection:
            this = (columns.job == self.job_id) & (columns.number == number)
            connection.execute(update(tables.attempts).where(this).values(price_per_hour=usd_per_hour))

    def has_machine(self, number: int, instance_id: str, billed_from: datetime | None) -> None:
        """The attempt has it, and is charged for it from `billed_from` on (None: as it was)."""
        columns = tables.attempts.c
        values: dict[str, Any] = {"instance_id": instance_id}
        if billed_from is not None:
            values["started_at"] = billed_from
        with self._held() as connection:
            this = (columns.job == self.job_id) & (columns.number == number)
            connection.execute(update(tables.attempts).where(this).values(values))

    def move(self, number: int, to: State, now: datetime, *, failure: str | None = None) -> None:
        """Moves attempt `number`; the job mirrors it, and is `queued` again when the attempt ended.

        Raises:
            ValueError: a change that `jobs.job.TRANSITIONS` does not name.
        """
        with self._held() as connection:
            self._move(connection, number, to, now, failure)

    def end_attempt(self, number: int, now: datetime, *, failure: str | None, billed: Billed = None) -> None:
        """Ends attempt `number` (from `tearing_down`); another is due."""
        with self._held() as connection:
            self._move(connection, number, State.ENDED, now, failure, billed)

    def _move(
        self,
        connection: Connection,
        number: int,
        to: State,
        now: datetime,
        failure: str | None,
        billed: Billed = None,
    ) -> None:
        columns = tables.attempts.c
        this = (columns.job == self.job_id) & (columns.number == number)
        stored = connection.execute(select(columns.state).where(this)).scalar_one_or_none()
        if stored is None:
            raise ValueError(f"{self.job_id} has no attempt {number}")
        if to not in TRANSITIONS[State(stored)]:
            raise ValueError(f"attempt {number} of {self.job_id} cannot go from {stored} to {to}")
        values: dict[str, Any] = {"state": to.value}
        if to is State.ENDED:
            values["ended_at"] = now
            if billed is not None:
                values["started_at"], values["ended_at"] = billed
        if failure is not None:
            values["failure"] = failure
        connection.execute(update(tables.attempts).where(this).values(values))
        self._entered(connection, number, to, now)
        self._set(connection, state=(State.QUEUED if to is State.ENDED else to).value, phase=None)

    def _entered(self, connection: Connection, number: int, state: State, now: datetime) -> None:
        row = {"job": self.job_id, "attempt": number, "state": state.value, "at": now}
        connection.execute(insert(tables.moves), row)

    def progress(self, progress: Progress) -> None:
        with self._held() as connection:
            self._set(connection, progress=progress.model_dump_json())

    def phase(self, phase: PhaseProgress | None) -> None:
        with self._held() as connection:
            self._set(connection, phase=phase and phase.model_dump_json())

    def cancel_requested(self) -> str:
        """ "no", "pull_first" or "now": what `launch cancel` asked for."""
        with self._held() as connection:
            query = select(tables.jobs.c.cancel_requested).where(tables.jobs.c.id == self.job_id)
            return str(connection.execute(query).scalar_one())

    def set_attention(self, attention: Attention) -> None:
        """Adds it, in the place of one with the same code."""
        self._change_attention(attention.code, attention)

    def clear_attention(self, code: str) -> None:
        self._change_attention(code, None)

    def _change_attention(self, code: str, new: Attention | None) -> None:
        with self._held() as connection:
            query = select(tables.jobs.c.attention).where(tables.jobs.c.id == self.job_id)
            stored = ATTENTION.validate_json(connection.execute(query).scalar_one())
            kept = [one for one in stored if one.code != code]
            self._set(connection, attention=ATTENTION.dump_json((*kept, *([new] if new else []))).decode())

    def finish(
        self, number: int | None, outcome: Outcome, error: str | None, now: datetime, *, billed: Billed = None
    ) -> None:
        """Ends attempt `number` (from `tearing_down`; None: none was opened) and the job with it, in one write."""
        with self._held() as connection:
            if number is not None:
                self._move(connection, number, State.ENDED, now, error, billed)
            self._set(connection, state=State.DONE.value, outcome=outcome.value, error=error, ended_at=now)
