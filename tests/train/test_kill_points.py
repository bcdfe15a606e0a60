# pyright: basic
"""kill -9 between two calls that change the disk: a run that is killed at that very point, and resumed, ends the same.

A fork of the test's process trains, and kills itself where the test aims; nothing else about the run is changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.train.runs import lines, start
from tests.train.test_resume import adapters, beside, numbers
from train import checkpoint


@dataclass(frozen=True)
class Point:
    """Right before or after the `nth` call of `os.CALL` whose last path ends with `name`."""

    call: str
    name: str
    after: bool
    nth: int
    left: Callable[[Path], bool]
    """What lies in the output folder then, and at no other moment."""


def checkpoints(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def best_is_told(out: Path) -> bool:
    """Whether `best.json` is about what lies in `adapter/`."""
    weights = (out / "adapter" / "adapter_model.safetensors").read_bytes()
    return json.loads((out / "best.json").read_text())["sha256"] == hashlib.sha256(weights).hexdigest()


POINTS = {
    "before the first adapter has its name": Point(
        "rename", "/adapter", False, 1,
        lambda out: not (out / "adapter").exists() and any(out.glob("adapter.tmp-*")),
    ),
    "before the adapter's weights are replaced": Point(
        "replace", "/adapter/adapter_model.safetensors", False, 2,
        lambda out: best_is_told(out) and any(out.glob("adapter_model.safetensors.tmp-*")),
    ),
    "after the adapter's weights are replaced": Point(
        "replace", "/adapter/adapter_model.safetensors", True, 2, lambda out: not best_is_told(out)
    ),
    "before a checkpoint has its name": Point(
        "rename", "/checkpoint-6", False, 1,
        lambda out: any(name.startswith("checkpoint-6.tmp-") for name in checkpoints(out)),
    ),
    "between a checkpoint's name and the rotation": Point(
        "rename", "/checkpoint-6", True, 1,
        lambda out: checkpoints(out) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"],
    ),
    "in the rotation": Point(
        "unlink", "optimizer.safetensors", True, 1,
        lambda out: len(checkpoints(out)) == 3 and not checkpoint.is_whole(out / "checkpoints" / "checkpoint-2"),
    ),
    "before the last adapter has its name": Point(
        "rename", "/adapter_last", False, 1,
        lambda out: not (out / "adapter_last").exists() and any(out.glob("adapter_last.tmp-*")),
    ),
    "before its end is told": Point(
        "replace", "/end.json", False, 1,
        lambda out: (out / "adapter_last").exists() and any(out.glob("end.json.tmp-*")),
    ),
}  # fmt: skip


def killed(document: dict, point: Point) -> None:
    """Runs in a fork until the point, and returns when that has ended by SIGKILL."""
    child = os.fork()
    if child == 0:
        signal.alarm(90)  # a fork that hangs ends by this one, which the test then names
        real, met = getattr(os, point.call), 0

        def aimed(*paths, **options):
            nonlocal met
            hit = str(paths[-1]).endswith(point.name)
            met += hit
            if hit and met == point.nth:
                if point.after:
                    real(*paths, **options)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*paths, **options)

        setattr(os, point.call, aimed)
        try:
            start(document)
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"it ended with {os.waitstatus_to_exitcode(status)}, and never came there"
    assert signal.Signals(os.WTERMSIG(status)) is signal.SIGKILL


@pytest.mark.parametrize("name", POINTS)
def test_killed_and_resumed_it_ends_in_the_same_adapter(run_document, monkeypatch, name):
    # Scores are made up: each validation is the best so far, so that `adapter/` is replaced each time.
    monkeypatch.setattr("train.step.score", lambda rewards: next(scores))
    whole = run_document(save_every=2, eval_every=2, max_steps=8)
    parts = beside(whole)
    scores = iter(range(100))
    start(whole)
    scores = iter(range(100))
    killed(parts, POINTS[name])
    out = Path(parts["output_dir"])
    assert POINTS[name].left(out), sorted(out.rglob("*"))
    assert not list(out.glob("adapter*/*.tmp-*")), "an adapter that is pulled now would bring it along"
    scores = iter(range(len(lines(parts, "val")), 100))
    start(parts)
    assert numbers(parts) == numbers(whole)
    assert numbers(parts, "val") == numbers(whole, "val")
    assert adapters(parts) == adapters(whole)
    assert best_is_told(out)
    assert not list(out.rglob("*.tmp-*")), "the killed run's half-written files were left"
