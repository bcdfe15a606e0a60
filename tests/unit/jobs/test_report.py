from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from artifacts.bill import LedgerRow
from jobs.chart import Series, line_chart, nice_ticks, thinned
from jobs.job import Job, JobSpec, Outcome, State
from jobs.offer import Plan
from jobs.report import write_report
from train.config import Data, ModelRef, RunConfig
from train.requirement import Requirement

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def make_job(folder: Path, **changes: object) -> Job:
    document = {
        "schema": "hardware-requirement/1",
        "workload": {
            "model": {"base": {"path": "/models/base"}},
            "data": {"train_path": "/data/train.jsonl", "train_examples": 3},
            "training": {"epochs": 1, "batch_size": 1, "max_length": 64},
        },
        "options": [{"name": "cpu", "device": "cpu", "gpus": 0}],
    }
    plan = Plan(
        requirement="r", budget_usd=None, budget_needed_usd=None, steps=200, steps_total=2000, partial=True, offers=(),
        chosen=None,
    )  # fmt: skip
    run = RunConfig(
        job="dpo-7", model=ModelRef(base="meta-llama/Meta-Llama-3-8B", adapter="/models/stage_a <b>"),
        data=Data(train=Path("/data/train.jsonl")), output_dir=folder, reference_cache=folder,
    )  # fmt: skip
    spec = JobSpec(
        id="dpo-7", name="summaries <script>alert(1)</script>", project=folder, results=folder, partial=True, steps=200,
        requirement=Requirement.model_validate(document), plan=plan, run=run, test=folder / "test.jsonl",
    )  # fmt: skip
    fields: dict[str, object] = {
        "spec": spec, "home_host": "here", "state": State.DONE, "outcome": Outcome.SUCCEEDED, "cancel_requested": "no",
        "lease": 1, "attention": (), "phase": None, "progress": None, "error": None, "created_at": NOW,
        "ended_at": NOW + timedelta(minutes=9), "attempts": (),
    }  # fmt: skip
    return Job.model_validate(fields | changes)


def write_metrics(folder: Path, steps: int = 200) -> None:
    lines: list[dict[str, object]] = []
    for step in range(1, steps + 1):
        share = step / steps
        common = {
            "at": "x", "step": step, "loss": 0.69 - 0.5 * share + 0.04 * ((step * 7) % 5 - 2) / 5,
            "rewards_chosen": share, "rewards_rejected": -share, "margin": 2 * share + 0.1 * ((step * 3) % 4),
            "accuracy": min(1.0, 0.5 + share), "logps_chosen": -90 - 30 * share, "logps_rejected": -95 - 90 * share,
        }  # fmt: skip
        phases = {"reference": 0.1, "forward": 0.1, "backward": 0.1, "optimizer": 0.1}
        lines.append(
            {"kind": "train", "max_steps": steps, "epoch": share, "learning_rate": 1e-5, "grad_norm": 1, "tokens": 9,
             "seconds": 1, "phases": phases, "memory_mib": 9} | common
        )  # fmt: skip
        if step % 40 == 0:
            lines.append({"kind": "val", "pairs": 9, "score": share, "best": step == 160, "seconds": 2} | common)
    lines.append({"kind": "notice", "at": "x", "step": 180, "code": "displaced", "message": "chosen falls & falls"})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "train", "to')


def write_all(folder: Path) -> str:
    write_metrics(folder)
    rate = {"value": 0.52, "low": 0.466, "high": 0.575, "n": 320}
    better = {"value": 0.06, "low": 0.04, "high": 0.092, "n": 320}
    measures = [
        {"name": "hallucination", "kind": "rate", "fact": None, "stage_a": rate, "stage_b": better},
        {"name": "hallucination", "kind": "rate", "fact": "dose", "stage_a": rate, "stage_b": None},
        {"name": "margin", "kind": "mean", "fact": None, "stage_a": None, "stage_b": {"value": 1.2, "n": 3}},
    ]
    (folder / "eval.json").write_text(json.dumps({"schema": "eval/1", "job": "dpo-7", "measures": measures}))
    (folder / "data.json").write_text(json.dumps({"train": {"pairs": 8484, "usable": 8400, "warnings": []}}))
    row = LedgerRow(
        job="dpo-7", attempt=1, cloud="local", instance_type="cpu-2", instance_id="here", region=None, started_at=NOW,
        ended_at=NOW + timedelta(seconds=540), billed_s=540, billing_unit_s=1, price_per_hour=0, cost_usd=0,
        settled=True,
    )  # fmt: skip
    states = (State.PROVISIONING, State.SYNCING, State.TRAINING, State.EVALUATING, State.PULLING, State.TEARING_DOWN)
    moves = [(1, state, NOW + timedelta(seconds=90 * i)) for i, state in enumerate((*states, State.ENDED))]
    return write_report(make_job(folder), folder, ledger=[row], moves=moves).read_text()


def test_the_page_needs_nothing_else_and_runs_nothing(tmp_path):
    page = write_all(tmp_path)
    assert not re.search(r"(src|href)=|@import|url\(|https?://|<script", page)
    assert "summaries &lt;script&gt;" in page
    assert "/models/stage_a &lt;b&gt;" in page


def test_it_tells_what_happened(tmp_path):
    page = write_all(tmp_path)
    assert page.count("<svg") == 4
    assert page.count("<circle") == 5 * 4
    for told in ("succeeded", "200 of 2,000 steps", "Step 180: chosen falls &amp; falls", "step 160", "8484", "0:09:00",
                 "52.0% (46.6% to 57.5%), n = 320", "hallucination (dose)", "not measured", "1.200, n = 3",
                 ):  # fmt: skip
        assert told in page, told


def test_a_job_that_failed_before_its_first_step_has_a_page_too(tmp_path):
    job = make_job(tmp_path, outcome=Outcome.FAILED, error="The disk <is> full")
    page = write_report(job, tmp_path).read_text()
    assert "The disk &lt;is&gt; full" in page
    assert "nothing was measured" in page


def test_numbers_that_are_not_finite_are_left_out():
    drawn = line_chart("x", [Series("a", [(1, float("nan")), (2, float("inf")), (3, 1.0)], "red")])
    assert "nan" not in drawn
    assert "inf" not in drawn
    assert "nothing was measured" in line_chart("x", [Series("a", [(1, float("nan"))], "red")])


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 17), (5, 5), (0, 0), (-0.00031, 0.0002), (1e6, 1e6 + 3)])
def test_ticks_are_few_round_and_cover_the_range(low, high):
    ticks = nice_ticks(low, high)
    assert 3 <= len(ticks) <= 8
    assert ticks[0] <= low
    assert ticks[-1] >= high


def test_long_runs_are_thinned_to_means():
    points = thinned([(i, i % 2) for i in range(10_000)])
    assert len(points) <= 600
    assert all(0.3 < y < 0.7 for _, y in points)
