"""The end of a rented machine: asked for by id, and looked for until the provider's list agrees."""

from __future__ import annotations

from datetime import datetime

from artifacts.errors import LaunchError
from jobs.backends.machine_record import MachineRecord
from jobs.backends.provider import LISTED_WITHIN_S, LOOK_S, Provider, gone, is_its_owner
from jobs.clock import Clock
from jobs.job import PhaseProgress
from jobs.meter import Meter

END_WITHIN_S = 300.0
"""A terminate that has not shown in the list by then is said to a person; the next driver goes on trying."""


def end(provider: Provider, record: MachineRecord, clock: Clock, meter: Meter, *, job_id: str) -> datetime:
    """Ends whatever has the record's name. When it was gone, as far as anybody knows.

    Raises:
        LaunchError: it could not be seen to end.
    """
    assert record.create_called_at is not None
    began, problem, by_us = clock.monotonic(), "", False
    seen = record.active_at is not None
    while True:
        try:
            found = {one.id for one in provider.named(record.instance_name)}
            seen, by_us = seen or bool(found), by_us or bool(found)
            # A list may lag behind a create: what was never seen may still come, and an id is worth a try.
            late = (clock.now() - record.create_called_at).total_seconds() > LISTED_WITHIN_S
            if not found and (seen or late):
                gone_at = clock.now()
                # Another key of the same account has listed it before, and may say so.
                if gone(provider, record.model_copy(update={"owner": None}) if by_us else record, clock):
                    # Nobody saw when: its own deadline was the last moment.
                    return gone_at if by_us else min(gone_at, record.at(record.charged_s))
                if not by_us and not is_its_owner(provider, record):
                    problem = "It was rented with other credentials than these, which do not show it."
            else:
                if record.instance_id:
                    found.add(record.instance_id)
                if found:
                    provider.terminate(sorted(found))
                problem = f"{len(found)} still listed"
        except LaunchError as error:
            problem = str(error)
        waited_s = clock.monotonic() - began
        if waited_s > END_WITHIN_S:
            raise LaunchError(
                f"The machine {record.instance_name} could not be seen to end.",
                why=problem,
                costing=f"It may go on costing ${record.price_per_hour:.2f} an hour.",
                next_step=f"launch status {job_id} tries again; by hand: {provider.console()}",
            )
        meter(PhaseProgress(name="until the provider lists it no more", done=round(waited_s), unit="s"))
        clock.sleep(LOOK_S)
