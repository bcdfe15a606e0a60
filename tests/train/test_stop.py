"""When a run stops: in simulated time, without a trainer."""

from __future__ import annotations

import os
import signal

from train.stop import Stop


def test_without_a_deadline_there_is_always_room() -> None:
    stop = Stop(started=0.0)
    stop.stepped(1e9)
    assert stop.reason(now=1e12) is None


def test_a_step_that_would_not_end_in_time_is_not_begun_and_the_save_has_room() -> None:
    stop = Stop(started=100.0, max_seconds=60.0)
    stop.stepped(4.0)
    stop.stepped(10.0)
    stop.saved(3.0)
    assert stop.reason(now=160 - 10 - 2 * 3) is None
    assert stop.reason(now=160 - 10 - 2 * 3 + 0.01) == "deadline"


def test_only_the_last_ten_steps_are_looked_at() -> None:
    stop = Stop(started=0.0, max_seconds=100.0)
    stop.stepped(90.0)  # the first, with everything to warm up
    for _ in range(10):
        stop.stepped(1.0)
    assert stop.reason(now=50.0) is None


def test_a_signal_is_a_reason_and_comes_first() -> None:
    stop = Stop(started=0.0, max_seconds=1.0)
    stop.install()
    assert stop.reason(now=0.0) is None
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.reason(now=5.0) == "signal"


def test_the_end_of_standard_input_is_a_reason_and_ends_a_hanging_step(monkeypatch) -> None:
    read, write = os.pipe()
    exits: list[tuple] = []
    stop = Stop(started=0.0)
    monkeypatch.setattr("train.stop.GRACE_SECONDS", 0.01)
    monkeypatch.setattr("train.stop.os._exit", lambda *code: exits.append(code))
    with os.fdopen(read) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        stop.watch_stdin()
        os.write(write, b"a driver that talks does not matter")
        os.close(write)
        assert stop.requested.wait(10)
        assert stop.hard_exit is not None
        stop.hard_exit.join(10)
    assert exits == [(1,)]
