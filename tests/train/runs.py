# pyright: basic
"""Runs of the trainer inside the test's own process, and what they wrote."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from train import run
from train.config import RunConfig
from train.course import Course
from train.journal import Journal
from train.model import load_stage_a
from train.reference import ReferenceCache
from train.tokens import prepare
from train.trainer import StageBTrainer


def start(document: dict, **options: Any) -> int:
    return run.run(RunConfig.model_validate(document), started=time.monotonic(), **options)


def lines(document: dict, kind: str) -> list[dict]:
    path = Path(document["output_dir"]) / "metrics.jsonl"
    return [line for line in map(json.loads, path.read_text().splitlines()) if line["kind"] == kind]


def end_of(document: dict) -> dict:
    return json.loads((Path(document["output_dir"]) / "end.json").read_text())


def interrupted(document: dict, monkeypatch, at_step: int) -> None:
    """Runs until SIGTERM, which arrives while `at_step` is being written down."""
    append = Journal.append

    def appending(self, line):
        append(self, line)
        if line.kind == "train" and line.step == at_step - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", appending)
        assert start(document) == 0
    assert end_of(document)["reason"] == "signal"
    assert end_of(document)["step"] == at_step


def trained(document: dict, monkeypatch, at_end) -> None:
    """Runs to the end, and hands the trainer over just before the last adapter is written."""
    keep_last = Course.keep_last

    def keeping(self):
        at_end(self.trainer)
        keep_last(self)

    with monkeypatch.context() as patch:
        patch.setattr(Course, "keep_last", keeping)
        assert start(document) == 0


def trainer_for(config: RunConfig):
    """A trainer as a run makes it, before its gate; with Stage A and the rows."""
    stage_a = load_stage_a(config.model, config.execution, config.training)
    rows = prepare(config.data.train, stage_a.tokenizer, config.training.max_length).rows
    cache = ReferenceCache(config.reference_cache, stage_a.key)
    return StageBTrainer(config, stage_a, cache, rows, rows[:4], 4), stage_a, rows
