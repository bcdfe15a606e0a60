"""What the loss does not show."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from train.metrics import NoticeLine, PhaseSeconds, TrainLine
from train.watch import WINDOW, Watch, log_sigmoid, score

PHASES = PhaseSeconds(reference=0, forward=0, backward=0, optimizer=0)


def line(step: int, chosen: float, margin: float) -> TrainLine:
    return TrainLine(
        at="", step=step, max_steps=1000, epoch=0, loss=0, rewards_chosen=chosen, rewards_rejected=chosen - margin,
        margin=margin, accuracy=1, logps_chosen=0, logps_rejected=0, learning_rate=0, grad_norm=1, tokens=1, seconds=1,
        phases=PHASES, memory_mib=0,
    )  # fmt: skip


def notices(points: list[tuple[float, float]]) -> list[NoticeLine]:
    watch = Watch()
    said = [watch.feed(line(step, *point)) for step, point in enumerate(points, 1)]
    return [notice for notice in said if notice is not None]


def test_a_chosen_that_falls_for_long_while_the_margin_grows_is_said_once() -> None:
    said = notices([(-0.02 * i, 0.05 * i) for i in range(10 * WINDOW)])
    assert [notice.code for notice in said] == ["displaced"]
    assert said[0].step == 2 * WINDOW


def test_a_chosen_that_rises_is_not() -> None:
    assert notices([(0.02 * i, 0.05 * i) for i in range(10 * WINDOW)]) == []


def test_a_chosen_that_falls_from_above_but_stays_above_stage_a_is_not() -> None:
    assert notices([(10 - 0.02 * i, 0.05 * i) for i in range(10 * WINDOW)]) == []


def test_one_bad_batch_is_not() -> None:
    points = [(0.0, 0.01 * i) for i in range(10 * WINDOW)]
    points[50] = (-0.9, 0.5)
    assert notices(points) == []


def test_it_is_said_again_when_it_begins_again() -> None:
    down = [(-0.05 * i, 0.1 * i) for i in range(3 * WINDOW)]
    up = [(down[-1][0] + 0.05 * i, 6.0) for i in range(3 * WINDOW)]
    again = [(-0.05 * i, 6 + 0.1 * i) for i in range(3 * WINDOW)]
    assert len(notices(down + up + again)) == 2


def test_the_score_prefers_a_margin_that_chosen_paid_nothing_for() -> None:
    improved, displaced = [(0.5, -2.0)] * 4, [(-6.0, -16.0)] * 4
    assert score(improved) > score([(0.0, 0.0)] * 4) > score(displaced)


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=1, max_size=8))
def test_the_score_falls_with_chosen_at_the_same_margin(rewards: list[tuple[float, float]]) -> None:
    lower = [(chosen - 1, rejected - 1) for chosen, rejected in rewards]
    assert score(lower) < score(rewards)


@given(st.floats(-700, 700))
def test_log_sigmoid_neither_overflows_nor_loses_its_symmetry(x: float) -> None:
    assert math.isclose(log_sigmoid(x) - log_sigmoid(-x), x, rel_tol=1e-9, abs_tol=1e-9)
