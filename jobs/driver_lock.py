"""The lock that says whether a job has a driver: it ends with the driver's process."""

from __future__ import annotations

from jobs.home import Home
from jobs.lock import FileLock, is_held

# An asker holds the lock, shared, for some microseconds: that is not another driver.
_ASKERS_S = 1.0


def alive(home: Home, job_id: str) -> bool:
    """Whether a driver runs for this job on this machine."""
    return is_held(home.job(job_id) / "driver.lock")


def take(home: Home, job_id: str) -> FileLock | None:
    """The lock, or None where another driver holds it."""
    lock = FileLock(home.job(job_id) / "driver.lock")
    return lock if lock.acquire(wait_s=_ASKERS_S) else None
