"""kill -9 of the driver on both sides of every record that it writes: the next one ends in the same results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import driver, pull
from jobs.job import Outcome, State

# A driver that kills itself: just after it recorded that it entered a state, or just before it records the next one,
# when the state's work is done and nobody knows.
MORTAL = """
import os, signal, sys
from jobs import driver
from jobs.lease import DriverWrites

state, side = sys.argv[2:4]
del sys.argv[2:]
at = [None]


def mortal(write, enters):
    def recorded(self, *given, **named):
        if at[0] == state and side == "done":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = write(self, *given, **named)
        at[0] = enters(*given)
        if at[0] == state and side == "entered":
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
    return recorded


DriverWrites.open_attempt = mortal(DriverWrites.open_attempt, lambda *given: "provisioning")
DriverWrites.move = mortal(DriverWrites.move, lambda number, to, *rest: str(to))
DriverWrites.finish = mortal(DriverWrites.finish, lambda *given: "ended")
sys.exit(driver.main())
"""


def run_mortal(bench, job, state: str, side: str) -> None:
    """Runs a driver in the foreground until it kills itself there."""
    root = Path(driver.__file__).parents[1]
    environ = os.environ | {"LAUNCH_HOME": str(bench.home.root), "PYTHONPATH": str(root), "PYTHONSAFEPATH": "1"}
    argv = [sys.executable, "-c", MORTAL, job.id, state, side]
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


STATES = ("provisioning", "syncing", "training", "evaluating", "pulling", "tearing_down")


@pytest.mark.parametrize("side", ["entered", "done"])
@pytest.mark.parametrize("state", STATES)
def test_a_driver_killed_in_any_state_is_followed_by_one_that_ends_the_job_well(bench, state, side):
    reference = bench.weights(bench.run(bench.job({})))
    job = bench.job({}, test=bench.folder / "train.jsonl")
    run_mortal(bench, job, state, side)
    lost = bench.store.job(job.id)
    assert (lost.state, lost.outcome) == (state, None)
    assert [one.id for one in driver.reconcile(bench.home, bench.store)] == [job.id]

    done = bench.run(lost)
    assert (done.state, done.outcome, done.error) == (State.DONE, Outcome.SUCCEEDED, None), bench.log(job)
    assert done.attention == ()
    assert [(one.number, one.state, one.failure) for one in done.attempts] == [
        (1, State.ENDED, "its driver was lost"),
        (2, State.ENDED, None),
    ]
    assert bench.weights(done) == reference
    assert pull.results_are_whole(job.spec.results)
    assert {"eval.json", "cost.json", "report.html"} <= {path.name for path in job.spec.results.iterdir()}
    steps = [json.loads(line)["step"] for line in (job.spec.results / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4], "what was trained already was trained again"


def test_a_driver_killed_before_the_account_leaves_a_job_that_is_done_and_pull_writes_it(bench):
    job = bench.job({})
    run_mortal(bench, job, "ended", "entered")
    done = bench.store.job(job.id)
    assert (done.state, done.outcome) == (State.DONE, Outcome.SUCCEEDED)
    assert not (job.spec.results / "report.html").exists()
    pull.pull(bench.home, bench.store, done)
    assert json.loads((job.spec.results / "cost.json").read_text())["rows"][0]["settled"]
    assert (job.spec.results / "report.html").exists()
