"""The driver: a detached process, one a job, that walks it from the first attempt to its outcome.

python -m jobs.driver JOB [--detach]        what `spawn` starts
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import traceback
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import jobs
from artifacts.errors import LaunchError, LeaseLost, StoreFailed
from jobs.driver_lock import alive, take
from jobs.home import Home
from jobs.job import Attention, Job, State
from jobs.store import Store

__all__ = ["alive", "drive", "reconcile", "spawn"]

_START_LIMIT_S = 60
_ASKED_LATELY_S = 900
"""Within which a job that has rented nothing yet still does so without being asked again."""


def spawn(home: Home, job_id: str) -> int:
    """Starts a driver that outlives this process and its terminal; returns its pid once it holds lock and lease.

    Raises:
        LaunchError: it could not start, or another driver runs; the message is the driver's own.
    """
    environ = dict(os.environ) | {"LAUNCH_HOME": str(home.root), "PYTHONSAFEPATH": "1"}
    if home.database:
        environ["LAUNCH_DATABASE_URL"] = home.database
    packages = str(_packages())
    if packages != sysconfig.get_path("purelib"):
        # From a checkout. Installed packages are found anyway, and would come before the standard library here.
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, (packages, environ.get("PYTHONPATH"))))
    home.job(job_id).mkdir(parents=True, exist_ok=True)
    try:
        started = subprocess.run(
            [sys.executable, "-m", "jobs.driver", "--detach", "--", job_id],
            cwd=home.job(job_id),
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_START_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _not_started(home, job_id, str(error)) from error
    if started.returncode:
        raise _not_started(home, job_id, started.stderr.strip()[-2000:])
    return int(started.stdout)


def reconcile(home: Home, store: Store) -> list[Job]:
    """Looks for jobs of this host that are not done and have no driver. Returns these jobs.

    One on a rented machine gets a driver, which takes it over where it stands; one on this machine waits for
    `launch resume`, and `driver_lost` says so. Cheap enough for every `launch status`: one query, and one lock tried
    for each unfinished job.
    """
    lost = [job_id for job_id in store.unfinished() if not alive(home, job_id)]
    for job_id in lost:
        job = store.job(job_id)
        attention = Attention(code="driver_lost", costing=job.rented, command=f"launch resume {job_id}")
        if job.rented and (_under_way(job) or _START_LIMIT_S < _age_s(job) < _ASKED_LATELY_S):
            try:
                spawn(home, job_id)
            except LaunchError as error:
                if not alive(home, job_id):  # somebody else looked at the same moment
                    store.set_attention(job_id, attention.model_copy(update={"message": error.why}))
        elif not job.rented or _age_s(job) > _START_LIMIT_S:
            store.set_attention(job_id, attention)
    return [store.job(job_id) for job_id in lost]


def _under_way(job: Job) -> bool:
    """There may be a machine."""
    return any(attempt.state is not State.ENDED for attempt in job.attempts)


def _age_s(job: Job) -> float:
    return (datetime.now(UTC) - job.created_at).total_seconds()


def _not_started(home: Home, job_id: str, why: str) -> LaunchError:
    return LaunchError(
        f"The driver of {job_id} did not start",
        why=f"{why}\n(its log: {home.logs(job_id) / 'driver.log'})",
        next_step=f"launch resume {job_id}",
    )


def _packages() -> Path:
    assert jobs.__file__ is not None
    return Path(jobs.__file__).parents[1]


class Stopped(BaseException):
    """SIGTERM: the driver ends its trainer well and leaves the job to `launch resume`."""


def _on_sigterm(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped


def drive(home: Home, job_id: str, ready: int | None = None) -> int:
    """Holds lock and lease, writes its pid to the descriptor `ready`, and walks the job. The exit status."""
    from jobs.walk import Walk

    lock = take(home, job_id)
    if lock is None:
        print(f"{job_id} has a driver already", file=sys.stderr, flush=True)
        return 1
    with lock, Store.open(home) as store:
        job = store.job(job_id)
        if job.state is State.DONE:
            print(f"{job_id} is done ({job.outcome})", file=sys.stderr, flush=True)
            return 1
        write = store.as_driver(job_id, store.take_lease(job_id))
        write.clear_attention("driver_lost")
        signal.signal(signal.SIGTERM, _on_sigterm)
        if ready is not None:
            _become_quiet(home.logs(job_id) / "driver.log")
            os.write(ready, b"%d\n" % os.getpid())
            os.close(ready)
        try:
            Walk(home, store, store.job(job_id), write).run()
        except Stopped:
            print("stopped by SIGTERM; launch resume goes on", flush=True)
            return 1
        except LeaseLost as error:
            print(error, flush=True)
            return 1
        except StoreFailed as error:
            with contextlib.suppress(OSError):  # the log may lie on the same full disk
                ended = "The machine goes on" if job.rented else "The trainer was ended"
                print(f"{error.what}\n{error.why}\n{ended}; launch resume {job_id} takes it up.", flush=True)
            return 1
        except Exception as error:  # noqa: BLE001 - whatever ends a driver is said where people look
            print(error, flush=True) if isinstance(error, LaunchError) else traceback.print_exc()
            _say_lost(store, job_id, error)
            return 1
    return 0


def _say_lost(store: Store, job_id: str, error: Exception) -> None:
    job = store.job(job_id)
    if any(one.code == "teardown_unconfirmed" for one in job.attention):
        return  # said already, with more
    costing = job.rented and any(attempt.state is not State.ENDED for attempt in job.attempts)
    what = error.what if isinstance(error, LaunchError) else f"{type(error).__name__}: {error}"
    command = f"launch status {job_id}" if costing else f"launch resume {job_id}"
    store.set_attention(job_id, Attention(code="driver_lost", costing=costing, command=command, message=what))


def _become_quiet(log: Path) -> None:
    """Lets go of the starter's descriptors: it waits for their end."""
    log.parent.mkdir(parents=True, exist_ok=True)
    null = os.open(os.devnull, os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(null)
    os.close(out)


def _detach(home: Home, job_id: str) -> int:
    """Forks the driver off into a session of its own; returns when it said its pid, or ended without."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        os.setsid()
        try:
            status = drive(home, job_id, ready=write)
        except LaunchError as error:
            print(error, file=sys.stderr, flush=True)
            status = 1
        except Exception:  # noqa: BLE001 - _exit skips the interpreter's own report
            traceback.print_exc()
            status = 1
        os._exit(status)  # the parent's clean-up is not this process's to do
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    if said:
        print(said, end="", flush=True)
        return 0
    os.waitpid(pid, 0)
    return 1


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.driver")
    parser.add_argument("job")
    parser.add_argument("--detach", action="store_true")
    given = parser.parse_args(argv)
    home = Home.from_environment(os.environ)
    if given.detach:
        return _detach(home, given.job)
    try:
        return drive(home, given.job)
    except LaunchError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
