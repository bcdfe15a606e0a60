"""What a driver makes of measured steps where a budget sets an end, in simulated time."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.home import Home
from jobs.job import Job
from jobs.lease import DriverWrites
from jobs.store import Store
from jobs.tail import MetricsTail
from jobs.task_watch import OVERTIME_S, TaskWatch
from tests.integration.jobs.conftest import make_spec

START = datetime(2026, 11, 26, tzinfo=UTC)
STEPS = 100


@dataclass
class Paid:
    """A backend and a clock: a step of `step_s` seconds after the other, in a machine that is paid for `left_s`."""

    metrics: Path
    step_s: float
    left_s: float
    ends_by_itself: bool = True
    at_s: float = 0.0
    stopped: list[float] = field(default_factory=list)
    written: int = 0
    after_step: dict[int, float] = field(default_factory=dict)
    """From this step on, steps take that long."""

    def poll(self, timeout_s: float) -> int | None:
        self.at_s += self.step_s
        if self.stopped:
            return 0
        if self.time_left_s() <= 0 and self.ends_by_itself:
            return 0
        if self.written < STEPS and self.time_left_s() > 0:
            self.written += 1
            self.step_s = self.after_step.get(self.written, self.step_s)
            with self.metrics.open("a") as out:
                out.write(_line(self.written, self.step_s))
        return 0 if self.written == STEPS else None

    def time_left_s(self) -> float:
        return self.left_s - self.at_s

    def stop(self, grace_s: float) -> None:
        self.stopped.append(self.at_s)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.at_s)

    def monotonic(self) -> float:
        return self.at_s

    def sleep(self, seconds: float) -> None:
        self.at_s += seconds


def _line(step: int, seconds: float) -> str:
    values = dict.fromkeys(
        ("epoch", "loss", "rewards_chosen", "rewards_rejected", "margin", "accuracy", "logps_chosen", "logps_rejected",
         "learning_rate", "grad_norm", "memory_mib"), 0.5,
    )  # fmt: skip
    phases = {"reference": 0, "forward": 0, "backward": 0, "optimizer": 0}
    whole = {"kind": "train", "at": "x", "step": step, "max_steps": STEPS, "tokens": 1, "phases": phases}
    return json.dumps(values | whole | {"seconds": seconds}) + "\n"


@pytest.fixture
def job(tmp_path: Path) -> tuple[Store, Job, DriverWrites]:
    home = Home(tmp_path / "state")
    home.root.mkdir()
    store = Store.open(home)
    made = store.create(make_spec(home, store.next_job_id(), tmp_path / "project"), now=START)
    return store, made, store.as_driver(made.id, store.take_lease(made.id))


def watched(job: tuple[Store, Job, DriverWrites], paid: Paid) -> list[tuple[int, str]]:
    """Runs the watch; what it had said of the budget at each step that was shown."""
    store, made, write = job
    said: list[tuple[int, str]] = []

    class Noting(TaskWatch):
        def _show(self, tail: MetricsTail) -> None:
            super()._show(tail)
            found = [one.message or "" for one in store.job(made.id).attention if one.code == "budget_short"]
            assert tail.last is not None
            said.append((tail.last.step, "".join(found)))

    Noting(paid, write, paid, made.id, MetricsTail(paid.metrics)).wait()  # type: ignore[arg-type]
    return said


def test_after_ten_steps_it_is_said_how_far_the_budget_reaches(
    job: tuple[Store, Job, DriverWrites], tmp_path: Path
) -> None:
    said = watched(job, Paid(tmp_path / "m", step_s=60.0, left_s=40.5 * 60))
    assert {words for step, words in said if step < 10} == {""}
    at_ten = dict(said)[10]
    assert at_ten == "about 40 of 100 steps are reached when the budget ends it"


def test_a_job_that_fits_is_not_spoken_of_and_one_that_fits_again_no_longer(
    job: tuple[Store, Job, DriverWrites], tmp_path: Path
) -> None:
    said = dict(watched(job, Paid(tmp_path / "m", step_s=60.0, left_s=80 * 60, after_step={20: 10.0})))
    assert "are reached" in said[15]
    assert said[60] == ""
    assert watched(job, Paid(tmp_path / "n", step_s=60.0, left_s=200 * 60))[-1] == (100, "")


def test_a_command_that_its_own_limit_does_not_end_is_ended_at_the_line(
    job: tuple[Store, Job, DriverWrites], tmp_path: Path
) -> None:
    paid = Paid(tmp_path / "m", step_s=10.0, left_s=300.0, ends_by_itself=False)
    watched(job, paid)
    (at_s,) = paid.stopped
    assert 300 + OVERTIME_S < at_s <= 300 + OVERTIME_S + 20
