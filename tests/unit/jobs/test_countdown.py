"""The arithmetic of the deadline on a rented machine: two clocks, steps of the wall clock, reboots."""

from __future__ import annotations

import ast
import json
import runpy
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import guard

ALLOWED_S = 7200.0
Countdown: Any = runpy.run_path(str(guard.script_file()))["Countdown"]


@dataclass
class Machine:
    """Its two clocks, and the seconds that it has truly run and stood still since it was armed."""

    hold_s: float | None = None
    wall: float = 1.8e9
    boot: float = 12.0
    boot_id: str = "first"
    ran_s: float = 0.0
    off_s: float = 0.0
    finished: int | None = None
    """When the phase, which says that the job is finished, was touched last."""
    state: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        self.state = Countdown.armed(self.wall, self.boot, self.boot_id)

    def run(self, seconds: float) -> None:
        self.wall += seconds
        self.boot += seconds
        self.ran_s += seconds

    def reboot(self, off_s: float) -> None:
        self.wall += off_s
        self.boot, self.boot_id = 3.0, f"after {self.boot_id}"
        self.ran_s += 3.0
        self.wall += 3.0
        self.off_s += off_s

    def left(self) -> float:
        self.state = json.loads(json.dumps(self.state))  # as a process that was started again finds it
        countdown = Countdown(ALLOWED_S, self.hold_s, self.state)
        return countdown.tick(self.wall, self.boot, self.boot_id, finished=self.finished)


def test_it_counts_from_the_first_arming() -> None:
    machine = Machine()
    assert machine.left() == ALLOWED_S
    machine.run(100)
    assert machine.left() == pytest.approx(ALLOWED_S - 100)


def test_a_reboot_goes_on_with_what_is_left_and_the_time_it_took_counts() -> None:
    machine = Machine()
    machine.run(1000)
    machine.left()
    machine.reboot(off_s=60)
    assert machine.left() == pytest.approx(ALLOWED_S - 1063)


def test_a_clock_set_back_prolongs_nothing_across_a_reboot_either() -> None:
    machine = Machine()
    machine.run(1000)
    machine.left()
    machine.wall -= 86400
    assert machine.left() == pytest.approx(ALLOWED_S - 1000)
    machine.run(1000)
    machine.left()
    machine.wall -= 86400
    machine.reboot(off_s=60)
    assert machine.left() <= ALLOWED_S - 2003
    machine.run(1000)
    assert machine.left() <= ALLOWED_S - 3003


def test_a_clock_that_is_set_right_soon_after_the_first_boot_ends_nothing() -> None:
    machine = Machine()
    machine.run(30)
    machine.left()
    machine.wall += 8 * 3600
    assert machine.left() == pytest.approx(ALLOWED_S - 30)
    machine.run(700)
    machine.left()
    machine.wall += 600
    assert machine.left() == pytest.approx(ALLOWED_S - 1330), "later, a machine that stood still looks like this"


def test_a_clock_set_back_and_right_again_ends_nothing_early() -> None:
    machine = Machine()
    machine.run(1000)
    machine.left()
    machine.wall -= 3600
    machine.left()
    machine.run(5)
    machine.wall += 3600
    assert machine.left() == pytest.approx(ALLOWED_S - 1005)


def test_finished_results_are_held_so_long_and_never_beyond_the_deadline() -> None:
    machine = Machine(hold_s=600)
    machine.run(1000)
    machine.finished = 1
    assert machine.left() == pytest.approx(600)
    machine.run(400)
    assert machine.left() == pytest.approx(200)
    machine.finished = None
    assert machine.left() == pytest.approx(ALLOWED_S - 1400), "another run began on it"
    machine.run(ALLOWED_S - 1500)
    machine.finished = 2
    assert machine.left() == pytest.approx(100)


def test_the_hold_begins_anew_when_somebody_brings_results_home() -> None:
    machine = Machine(hold_s=600, finished=1)
    machine.left()
    machine.run(500)
    assert machine.left() == pytest.approx(100)
    machine.finished = 2
    assert machine.left() == pytest.approx(600)
    machine.run(300)
    machine.reboot(50)
    assert machine.left() == pytest.approx(600 - 353), "a reboot touches nothing"


def test_without_a_hold_a_finished_job_changes_nothing() -> None:
    machine = Machine(hold_s=None, finished=1)
    machine.run(1000)
    assert machine.left() == pytest.approx(ALLOWED_S - 1000)


passes = st.tuples(st.just("run"), st.floats(0, 2000))
steps_back = st.tuples(st.just("step"), st.floats(-1e6, 0))
steps = st.tuples(st.just("step"), st.floats(-1e6, 1e6))
reboots = st.tuples(st.just("reboot"), st.floats(0, 300))


def follow(machine: Machine, events: list[tuple[str, float]]) -> None:
    for what, value in events:
        if what == "run":
            machine.run(value)
        elif what == "reboot":
            machine.reboot(value)
        else:
            machine.wall += value
        machine.left()


@settings(deadline=None)
@given(st.lists(passes | steps | reboots, max_size=30))
def test_whatever_the_clocks_do_it_never_runs_longer_than_allowed(events: list[tuple[str, float]]) -> None:
    machine = Machine()
    follow(machine, events)
    small_steps_s = 1.0 * len(events)  # each below what is told from drift
    assert machine.left() <= ALLOWED_S - machine.ran_s + small_steps_s


@settings(deadline=None)
@given(st.lists(passes | steps_back | reboots, max_size=30))
def test_a_clock_that_only_goes_back_ends_nothing_early(events: list[tuple[str, float]]) -> None:
    machine = Machine()
    follow(machine, events)
    small_steps_s = 1.0 * len(events)
    assert machine.left() >= ALLOWED_S - machine.ran_s - machine.off_s - small_steps_s


def test_the_script_is_python_3_8() -> None:
    ast.parse(guard.script_file().read_text(), feature_version=(3, 8))
