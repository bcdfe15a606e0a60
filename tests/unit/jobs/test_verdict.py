from __future__ import annotations

import signal
from typing import Any

import pytest

from jobs.job import Outcome
from jobs.verdict import judge
from train.config import End

OK, STOPPED, FAILED, CANCELLED = Outcome.SUCCEEDED, Outcome.BUDGET_STOPPED, Outcome.FAILED, Outcome.CANCELLED


def end(reason: Any, message: str | None = None) -> End:
    return End(reason=reason, step=7, max_steps=9, seconds=1, message=message)


@pytest.mark.parametrize(
    ("reason", "status", "cancelled", "kept", "outcome"),
    [
        ("finished", 0, False, True, OK),
        ("max_steps", 0, False, True, OK),
        ("finished", 0, True, True, OK),
        ("deadline", 0, False, True, STOPPED),
        ("deadline", 0, False, False, FAILED),
        ("signal", 0, True, True, CANCELLED),
        ("signal", 0, False, True, FAILED),
        (None, 0, False, True, FAILED),
        (None, 1, False, False, FAILED),
        (None, -signal.SIGKILL, False, True, FAILED),
        (None, -signal.SIGKILL, True, True, CANCELLED),
        ("finished", 1, False, True, FAILED),
    ],
)
def test_what_a_trainers_end_means(reason, status, cancelled, kept, outcome):
    verdict = judge("dpo-1", end(reason) if reason else None, status, cancelled=cancelled, kept=kept)
    assert verdict.outcome is outcome
    assert (verdict.error is None) == (outcome is not FAILED)


def test_a_failure_names_its_reason_and_what_to_type():
    said = judge("dpo-1", None, 1, cancelled=False, kept=True, last_lines="ValueError: x").error
    assert said == "The trainer failed (exit 1).\nValueError: x\nNext: launch resume dpo-1"
    assert "the gate" in (judge("dpo-1", end("error", "the gate"), 1, cancelled=False, kept=False).error or "")
    assert "launch logs dpo-1" in (judge("dpo-1", None, 1, cancelled=False, kept=False).error or "")


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(("reason", "status"), [(None, -signal.SIGKILL), (None, -signal.SIGTERM), ("signal", 0)])
def test_what_was_ended_from_outside_goes_on_with_resume_also_before_its_first_checkpoint(reason, status, kept):
    said = judge("dpo-1", end(reason) if reason else None, status, cancelled=False, kept=kept).error or ""
    assert "launch resume dpo-1" in said
    assert ("out of memory" in said) == (status == -signal.SIGKILL)
