"""What a finished run teaches, from its own metrics."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs.job import JobSpec
from jobs.learned import FEWEST_STEPS, WARM_UP, rate_of_run
from jobs.offer import Plan
from launcher.planning import plan, rate_for
from tests.unit.launcher.test_planning import CASE, CPU, RATE, RTX_5070
from train.config import Data, ModelRef, RunConfig

NOW = datetime(2026, 11, 24, tzinfo=UTC)
LINE = {
    "kind": "train", "at": "2026-11-24T00:00:00Z", "max_steps": 99, "epoch": 0.1, "loss": 0.5, "rewards_chosen": 0,
    "rewards_rejected": 0, "margin": 0, "accuracy": 1, "logps_chosen": -1, "logps_rejected": -1, "learning_rate": 1e-5,
    "grad_norm": 1, "tokens": 10, "phases": {"reference": 0, "forward": 1, "backward": 1, "optimizer": 0},
    "memory_mib": 1,
}  # fmt: skip


def spec_of(found: Plan, folder: Path) -> JobSpec:
    run = RunConfig(
        job="dpo-1", model=ModelRef(base="/m"), data=Data(train=folder), output_dir=folder, reference_cache=folder
    )
    return JobSpec(
        id="dpo-1", name="dpo-1", project=folder, results=folder, requirement=CASE, plan=found, run=run, partial=True,
        steps=99,
    )  # fmt: skip


def metrics(folder: Path, seconds: list[float]) -> Path:
    file = folder / "metrics.jsonl"
    file.write_text("".join(json.dumps({**LINE, "step": i, "seconds": s}) + "\n" for i, s in enumerate(seconds, 1)))
    return file


def test_the_median_step_after_the_warm_up_is_the_rate(tmp_path: Path) -> None:
    seconds = [100.0] * WARM_UP + [33.0] * (FEWEST_STEPS - 1) + [999.0]
    rate = rate_of_run(spec_of(plan(CASE, [CPU], [RATE]), tmp_path), metrics(tmp_path, seconds), NOW)
    assert rate is not None
    assert rate.flop_per_s == pytest.approx(1e12)  # 33 s for 33 TFLOP
    assert (rate.source, rate.device, rate.precision) == ("run", "cpu", "bf16")
    assert f"{FEWEST_STEPS} steps of dpo-1" in rate.basis


def test_a_short_run_teaches_nothing(tmp_path: Path) -> None:
    file = metrics(tmp_path, [33.0] * (WARM_UP + FEWEST_STEPS - 1))
    assert rate_of_run(spec_of(plan(CASE, [CPU], [RATE]), tmp_path), file, NOW) is None
    assert rate_of_run(spec_of(plan(CASE, [CPU], [RATE]), tmp_path), tmp_path / "none", NOW) is None


def test_later_plans_rest_on_the_run_for_steps_of_about_its_size(tmp_path: Path) -> None:
    file = metrics(tmp_path, [66.0] * 40)
    rate = rate_of_run(spec_of(plan(CASE, [CPU], [RATE]), tmp_path), file, NOW)
    assert rate is not None
    cpu = CASE.options[2]
    assert rate_for(cpu, CPU, [rate, RATE]) == rate
    small = cpu.model_copy(update={"flop_per_step": 1e9})
    assert rate_for(small, CPU, [rate, RATE]) == RATE
    found = plan(CASE, [CPU], [RATE, rate])
    assert found.choice is not None
    assert found.choice.phases[0].hours_expected == pytest.approx(848 * 66 / 3600)
    assert "steps of dpo-1" in found.choice.basis


def test_a_gpus_run_is_no_rate_of_another_gpu(tmp_path: Path) -> None:
    gpu = RTX_5070.model_copy(update={"gpu": "A100", "vram_gib": 40.0})
    found = plan(CASE, [gpu], [])
    rate = rate_of_run(spec_of(found, tmp_path), metrics(tmp_path, [1.0] * 40), NOW)
    assert rate is not None
    option = CASE.options[0]
    assert rate_for(option, gpu, [rate]) == rate
    other = gpu.model_copy(update={"gpu": "V100"})
    assert rate_for(option, other, [rate]) != rate
