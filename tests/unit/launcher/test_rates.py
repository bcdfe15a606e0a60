"""What a requirement file says that a machine was measured at: it counts on that machine, until something is known."""

from __future__ import annotations

import pytest

from launcher.machine import host_name
from launcher.planning import plan
from launcher.rates import stated_rates
from tests.unit.launcher.test_planning import CASE, CPU, RATE
from train.requirement import Measured, Requirement


def measured_on(machine: str) -> Requirement:
    row = Measured(machine=machine, device="cpu", name="a CPU", precision="bf16", flop_per_s=2e12,
                   measured_at="2026-11-24T10:00:00Z")  # fmt: skip
    return CASE.model_copy(update={"measured": (row,)})


def test_hours_here_follow_from_the_files_figure_where_nothing_is_known() -> None:
    case = measured_on(host_name())
    (rate,) = stated_rates(case, [])
    choice = plan(case, [CPU], [rate]).choice
    assert choice is not None
    assert choice.hours_expected == pytest.approx(848 * 33e12 / 2e12 / 3600)
    assert choice.basis == "a bare LoRA step on this CPU, measured 2026-11-24 (requirement file)"


def test_another_machines_figure_and_one_beside_a_known_one_are_not_used() -> None:
    assert stated_rates(measured_on("another-box"), []) == []
    assert stated_rates(measured_on(host_name()), [RATE]) == []
