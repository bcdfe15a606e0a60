"""Watches a job until it is done. The job does not depend on it: Ctrl-C ends the watching, never the job."""

from __future__ import annotations

import os
import sys
import time

from artifacts.errors import LaunchError, NothingFits
from jobs import driver
from jobs.evaluation import missing_evaluation
from jobs.home import Home
from jobs.job import EXIT_CODE, Job, Outcome, State
from jobs.store import Store
from jobs.walk import NO_MACHINE
from jobs.work import last_lines
from launcher.console import duration, money, print_document, say
from launcher.documents import status_document
from launcher.ledger_view import costs_by_job
from launcher.machine import free_disk_gib
from launcher.status_view import attention_lines

POLL_S = 0.5
PLAIN_EVERY_S = 10.0

INTERRUPTED = 130

FULL_GIB = 0.01
"""Less free space than the store and the logs need to be written."""


def watch_to_exit_code(home: Home, store: Store, job_id: str, *, detach: bool = False, as_json: bool = False) -> int:
    """Watch (unless `detach`), say how it ended, and return the exit code that mirrors the outcome."""
    if not detach:
        try:
            _watch(home, store, job_id)
        except KeyboardInterrupt:
            _say_stopped(job_id)
            return INTERRUPTED
    job = store.job(job_id)
    if as_json:
        print_document(status_document([job], costs_by_job(store)))
    if detach:
        return 0
    _say_end(job, costs_by_job(store).get(job.id, 0.0), home)
    if job.outcome is None and job.rented:
        raise LaunchError(
            f"The driver of {job_id} ended before the job did.",
            why=last_lines(home.logs(job_id) / "driver.log"),
            costing="Its machine may be costing money, at most until the budget's deadline.",
            next_step=f"launch status {job_id}: it starts a driver that takes over",
        )
    if job.outcome is None:
        log = home.logs(job_id) / "driver.log"
        full = free_disk_gib(home.root) < FULL_GIB  # then the log could not be written either
        raise LaunchError(
            f"{job_id} lost its driver before it was done.",
            why=f"The disk of {home.root} is full." if full else f"{last_lines(log)}\n(all of it: {log})",
            costing="Nothing is costing money.",
            next_step=f"launch resume {job_id}",
        )
    if job.outcome is Outcome.FAILED and (job.error or "").startswith(NO_MACHINE):
        return NothingFits.exit_code if job.rented else EXIT_CODE[job.outcome]
    return EXIT_CODE[job.outcome]


def watch_only(home: Home, store: Store, jobs: list[Job]) -> int:
    """Follow the newest job that is not done. `status` never mirrors an outcome: 0 whatever it is."""
    open_jobs = [job for job in jobs if job.state is not State.DONE]
    if not open_jobs:
        say("Nothing is running.")
        return 0
    try:
        _watch(home, store, open_jobs[0].id)
    except KeyboardInterrupt:
        _say_stopped(open_jobs[0].id)
        return INTERRUPTED
    _say_end(store.job(open_jobs[0].id), costs_by_job(store).get(open_jobs[0].id, 0.0), home)
    return 0


def _say_stopped(job_id: str) -> None:
    say(f"\nStopped watching; {job_id} goes on. `launch status {job_id} --watch` comes back to it,")
    say(f"`launch cancel {job_id}` ends it.")


def _watch(home: Home, store: Store, job_id: str) -> None:
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":  # which cannot draw over what it drew
        _watch_live(home, store, job_id)
    else:
        _watch_plain(home, store, job_id)


def _over(home: Home, job: Job) -> bool:
    """Done is not yet over: the driver still writes the report, and lets go of its lock last."""
    return not driver.alive(home, job.id)


def wait_for_end(home: Home, job_id: str) -> None:
    """For a job that is done, and whose driver is still writing its report."""
    while driver.alive(home, job_id):
        time.sleep(POLL_S / 10)


def _watch_plain(home: Home, store: Store, job_id: str) -> None:
    """A line when the phase changes, and one every ten seconds of training."""
    said, said_at = "", 0.0
    while True:
        job = store.job(job_id)
        line = progress_line(job)
        phase = str(job.state)
        if phase != said or (line != phase and time.monotonic() - said_at >= PLAIN_EVERY_S):
            paid = money_line(job, costs_by_job(store).get(job_id, 0.0))
            say(f"{job_id} {line}{paid and f'; {paid}'}")
            said, said_at = phase, time.monotonic()
        if _over(home, job):
            return
        time.sleep(POLL_S)  # the refresh rate of a view, nothing waits on it


def _watch_live(home: Home, store: Store, job_id: str) -> None:
    from rich.console import Console
    from rich.live import Live

    from launcher.live import panel

    console = Console(stderr=True, highlight=False)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            job = store.job(job_id)
            live.update(panel(home, job, costs_by_job(store).get(job_id, 0.0)), refresh=True)
            if _over(home, job):
                return
            time.sleep(POLL_S)


def progress_line(job: Job) -> str:
    """`training: step 120 of 848, loss 0.412, margin 1.31, 4 min left`."""
    words = str(job.state).replace("_", " ")
    if job.state is State.TRAINING and job.progress:
        progress = job.progress
        parts = [f"step {progress.step:,} of {progress.max_steps:,}"]
        if progress.loss is not None:
            parts.append(f"loss {progress.loss:.3f}")
        if progress.margin is not None:
            parts.append(f"margin {progress.margin:.2f}")
        if progress.eta_s is not None:
            parts.append(f"{duration(progress.eta_s)} left")
        return f"{words}: {', '.join(parts)}"
    if job.phase and job.phase.unit == "bytes" and job.phase.total:
        speed = f", {_size(job.phase.per_s)}/s" if job.phase.per_s else ""
        return f"{words}: {job.phase.name}, {_size(job.phase.done)} of {_size(job.phase.total)}{speed}"
    if job.phase and job.phase.total:
        return f"{words}: {job.phase.done:,.0f} of {job.phase.total:,.0f} {job.phase.unit}"
    if job.phase and job.phase.unit == "s":
        return f"{words}: {job.phase.name}, {duration(job.phase.done)}"
    return words


def money_line(job: Job, spent_usd: float) -> str:
    """`$0.31 of $5.00, gpu_1x_a100 in us-east-1 at $1.99/h`; empty where nothing is paid for."""
    attempt = next((one for one in reversed(job.attempts) if one.price_per_hour), None)
    if attempt is None or job.spec.budget_usd is None:
        return ""
    where = f"{attempt.instance_type} in {attempt.region} at {money(attempt.price_per_hour)}/h"
    return f"{money(spent_usd)} of {money(job.spec.budget_usd)}, {where}"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _say_end(job: Job, cost_usd: float, home: Home) -> None:
    if job.outcome is None:
        return
    words = {
        Outcome.SUCCEEDED: "succeeded",
        Outcome.BUDGET_STOPPED: "stopped at its budget; what it had learned by then is at home",
        Outcome.FAILED: "failed",
        Outcome.CANCELLED: "was cancelled",
    }
    took = duration((job.ended_at - job.created_at).total_seconds()) if job.ended_at else "unknown"
    say(f"{job.id} {words[job.outcome]} after {took}, {money(cost_usd)}. Nothing is running, nothing is costing money.")
    for problem in (job.error, missing_evaluation(job, home)):
        if problem:
            say(problem)
    for line in attention_lines(job):
        say(f"attention: {line}")
    say(f"Results: {job.spec.results}")
    if job.outcome in (Outcome.SUCCEEDED, Outcome.BUDGET_STOPPED):
        say(f"Report: {job.spec.results / 'report.html'}")
    elif "Next:" not in (job.error or ""):
        say(f"Next: launch resume {job.id}, or launch logs {job.id}")
