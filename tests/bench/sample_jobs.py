"""Jobs for benchmarks and views: recorded through the real store, never run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobs.home import Home
from jobs.job import JobSpec, Outcome, Progress, State
from jobs.offer import Offer
from jobs.store import Store
from launcher.planning import plan
from train.config import Data, ModelRef, RunConfig
from train.requirement import Requirement

REQUIREMENT = Requirement.model_validate(
    {
        "schema": "hardware-requirement/1",
        "workload": {
            "model": {"base": {"path": "/models/base"}, "adapter": {"path": "/models/adapter"}},
            "data": {"train_path": "/data/train.jsonl", "train_examples": 8484},
            "training": {"epochs": 2, "batch_size": 1, "max_length": 512},
        },
        "options": [{"name": "cpu", "device": "cpu", "gpus": 0, "min_ram_gib": 1.0, "flop_per_step": 3.3e13}],
    }
)
GIB_8B = {"16bit-lora": 23, "16bit-lora-ckpt": 18, "nf4-qlora": 13, "nf4-qlora-ckpt": 8}
EIGHT_B = Requirement.model_validate(
    {
        "schema": "hardware-requirement/1",
        "workload": {
            "model": {"base": {"path": "base"}, "parameters": 8_030_261_248, "bytes_on_disk": 16_060_522_496},
            "data": {"train_path": "train.jsonl", "train_examples": 8484, "train_bytes": 124_200_000},
            "training": {"epochs": 2, "batch_size": 8, "max_length": 512},
        },
        "options": [
            {"name": f"{name}-x{gpus}", "device": "cuda", "gpus": gpus, "min_vram_gib": gib, "min_ram_gib": 19 * gpus,
             "min_disk_gib": 29, "flop_per_step": 3.8e14,
             "trainer": {"precision": "16bit", "quantization": "nf4" if "nf4" in name else None}}
            for name, gib in GIB_8B.items()
            for gpus in (1, 2, 4, 8)
        ],
    }
)  # fmt: skip
"""The job of an 8B model with 8 pairs a step, and the ways that `launch estimate` finds for it, figures rounded."""
THIS_MACHINE = Offer(cloud="local", instance_type="box (CPU)", ram_gib=32, disk_gib=200, cores=8)


def sample_spec(job_id: str, folder: Path, name: str | None = None) -> JobSpec:
    found = plan(REQUIREMENT, [THIS_MACHINE], [])
    return JobSpec(
        id=job_id,
        name=name or job_id,
        project=folder,
        results=folder / "runs" / job_id,
        requirement=REQUIREMENT,
        plan=found,
        run=RunConfig(
            job=job_id,
            model=ModelRef(base="/models/base", adapter="/models/adapter"),
            data=Data(train=Path("/data/train.jsonl")),
            output_dir=folder / job_id / "work",
            reference_cache=folder / "reference",
        ),
        partial=True,
        steps=found.steps,
    )


def fill(root: Path, *, jobs: int) -> None:
    """A store in `root` with this many jobs, each done after one attempt."""
    home = Home(root)
    store = Store.open(home)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for index in range(jobs):
        job_id = store.next_job_id()
        at = start + timedelta(hours=index)
        store.create(sample_spec(job_id, root), now=at)
        write = store.as_driver(job_id, store.take_lease(job_id))
        number = write.open_attempt(THIS_MACHINE, instance_id="box", now=at).number
        for state in (State.SYNCING, State.TRAINING, State.PULLING, State.TEARING_DOWN):
            write.move(number, state, at)
        write.progress(Progress(step=848, max_steps=848, loss=0.31, margin=1.9, eta_s=0, as_of=at))
        write.finish(number, Outcome.SUCCEEDED, None, at + timedelta(minutes=30))
