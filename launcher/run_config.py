"""The trainer's configuration of a request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.home import Home
from jobs.offer import PricedOffer
from launcher.methods import DEFAULTS
from launcher.request import Request
from train.config import Data, Execution, ModelRef, RunConfig, Training


def run_config(
    request: Request,
    stage_a: ModelRef,
    *,
    job: str,
    output_dir: Path,
    home: Home,
    choice: PricedOffer | None = None,
    max_steps: int | None = None,
) -> RunConfig:
    """The whole of `run.json`. Without `choice` the device is left at its default: a data check needs none."""
    settings, workload = request.settings, request.requirement.workload
    schedule = workload.training
    asked: dict[str, Any] = {
        name: value
        for name in (
            "eval_every", "seed", "loss_type", "loss_weights", "lora_r", "lora_target", "lr_scheduler",
            "micro_batch_size", "desirable_weight", "undesirable_weight",
        )
        if (value := getattr(settings, name)) is not None
    }  # fmt: skip
    asked |= {name: value for name in ("learning_rate", "beta") if (value := getattr(schedule, name)) is not None}
    asked = {name: value for name, value in DEFAULTS[workload.method].items() if name != "batch_size"} | asked
    for name in ("lora_r", "lora_target"):  # as they were estimated, unless told otherwise now
        if name not in asked and getattr(schedule, name) is not None:
            asked[name] = getattr(schedule, name)
    execution = Execution()
    if choice is not None:
        option = choice.option
        execution = Execution(
            device=option.device,
            precision=option.trainer.precision,
            quantization=option.trainer.quantization,
            gradient_checkpointing=option.trainer.gradient_checkpointing,
            share_prompts=option.trainer.share_prompts,
            processes=max(1, option.gpus),
        )
    return RunConfig(
        job=job,
        method=workload.method,
        model=stage_a,
        data=Data(
            train=Path(workload.data.train_path), val=Path(workload.data.val_path) if workload.data.val_path else None
        ),
        training=Training(
            epochs=schedule.epochs,
            max_steps=max_steps,
            batch_size=schedule.batch_size,
            max_length=schedule.max_length,
            **asked,
        ),
        execution=execution,
        output_dir=output_dir,
        reference_cache=home.reference_cache,
    )
