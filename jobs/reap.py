"""Whose the machines of an account are. Only those of one's own store that no live job owns may be ended."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from jobs.job import Job, State

_NAME = re.compile(r"launch-([a-z0-9]{6})-([a-z]+-[0-9]+)-([0-9]+)-[0-9a-f]{8}-head")
"""`launch-STORE-JOB-ATTEMPT`, and what SkyPilot puts behind it."""


@dataclass(frozen=True)
class Machine:
    """One that costs money, or may again, as its provider lists it."""

    cloud: str
    id: str
    name: str
    status: str
    instance_type: str
    region: str
    price_per_hour: float | None = None
    """USD; None where the provider's list does not say."""


class Claim(StrEnum):
    STRANGER = "stranger"
    """Of another store, or of no store: never touched."""
    OWNED = "owned"
    """A job of this store is not done, or has results on it."""
    OVER = "over"


@dataclass(frozen=True)
class Claimed:
    instance: Machine
    claim: Claim
    why: str
    job: str | None = None


def claimed(instances: Iterable[Machine], store_id: str, jobs: Iterable[Job]) -> list[Claimed]:
    """What is still there, by whose it is. The jobs must have been read after the list of machines: a job is recorded
    before its machine is made, so that none is taken for a machine without a job."""
    known = {job.id: job for job in jobs}
    return [_claim(instance, store_id, known) for instance in instances]


def _claim(instance: Machine, store_id: str, known: dict[str, Job]) -> Claimed:
    match = _NAME.fullmatch(instance.name)
    if match is None:
        return Claimed(instance, Claim.STRANGER, "not made by launch")
    store, job_id, attempt = match.group(1), match.group(2), int(match.group(3))
    if store != store_id:
        return Claimed(instance, Claim.STRANGER, f"of another store, {store}")
    job = known.get(job_id)
    if job is None:
        return Claimed(instance, Claim.OVER, f"{job_id} is not known here (any more)", job_id)
    if job.state is not State.DONE:
        # Its driver may be between two attempts: what it does with the machine of the last one is its business.
        return Claimed(instance, Claim.OWNED, f"{job_id}, attempt {attempt}, is {job.state.value}", job_id)
    if any(attention.code == "results_held" for attention in job.attention):
        return Claimed(instance, Claim.OWNED, f"results of {job_id} are on it: launch pull {job_id}", job_id)
    return Claimed(instance, Claim.OVER, f"{job_id} is done", job_id)
