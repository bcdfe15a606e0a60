"""What a job's trainer reads on a rented machine, and where: the files to send, and the paths to say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from artifacts.upload import Item
from jobs.evaluation import eval_config
from jobs.home import Home
from jobs.job import JobSpec
from jobs.trainer_copy import lock_file, trainer_copy
from jobs.work import newest_checkpoint, write_document
from train.config import Data, Execution, RunConfig

ON_HOST = PurePosixPath("/home/ubuntu/launch")
"""Everything of ours on the machine."""
MODEL_SUFFIXES = frozenset({".safetensors", ".json", ".model", ".txt", ".jinja"})
GOES_ON_WITH = ("metrics.jsonl", "data.json", "best.json")
"""Of the trainer's folder, beside adapter and checkpoint: what it reads when it goes on."""


def folder_on_host(job_id: str) -> PurePosixPath:
    return ON_HOST / "jobs" / job_id


def run_on_host(spec: JobSpec, execution: Execution, lock: str) -> RunConfig:
    """The job's configuration with the machine's paths; results say the model as the user named it."""
    folder, run = folder_on_host(spec.id), spec.run
    model = run.model
    here = Path(model.base).is_absolute()
    return run.model_copy(
        update={
            "model": model.model_copy(
                update={
                    "base": str(folder / "inputs/base") if here else model.base,
                    "named": model.named or model.base,
                    "adapter": str(folder / "inputs/adapter") if model.adapter else None,
                }
            ),
            "data": Data(
                train=Path(folder / "inputs/train.jsonl"),
                val=Path(folder / "inputs/val.jsonl") if run.data.val else None,
            ),
            "execution": execution,
            "output_dir": Path(folder / "work"),
            "reference_cache": Path(folder / "reference"),
            "lock": lock,
        }
    )


def parcel_of(home: Home, spec: JobSpec, run: RunConfig, platform: str, documents: Path) -> dict[str, Item]:
    """Path in the job's folder on the machine -> file here. Configurations are written into the folder `documents`.

    A checkpoint of an earlier attempt goes along, so that this one goes on from it.
    """
    documents.mkdir(parents=True, exist_ok=True)
    found: dict[str, Item] = {}
    model, data = spec.run.model, spec.run.data
    if Path(model.base).is_absolute():
        found |= _folder(Path(model.base), "inputs/base", but_not=("adapter_config.json", "adapter_model.safetensors"))
    if model.adapter:
        only = None if model.adapter != model.base else ("adapter_config.json", "adapter_model.safetensors")
        found |= _folder(Path(model.adapter), "inputs/adapter", only=only)
    for name, path in (("train", data.train), ("val", data.val), ("test", spec.test)):
        if path is not None:
            found[f"inputs/{name}.jsonl"] = Item(path, compress=True)
    if spec.terms is not None:
        found["inputs/terms.txt"] = Item(spec.terms, compress=True)
    copy = trainer_copy(home)
    for path in sorted((copy / "train").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            found[f"trainer/{path.relative_to(copy).as_posix()}"] = Item(path, compress=True)
    found["trainer/lock.txt"] = Item(lock_file(platform), compress=True)
    write_document(documents / "run.json", run.model_dump_json(by_alias=True, indent=2))
    found["run.json"] = Item(documents / "run.json", compress=True)
    if spec.test is not None:
        folder = Path(folder_on_host(spec.id))
        asked = eval_config(
            spec.model_copy(update={"run": run}),
            adapter=folder / "work/adapter",
            test=folder / "inputs/test.jsonl",
            output=folder / "work/eval.json",
            terms=folder / "inputs/terms.txt" if spec.terms else None,
        )
        write_document(documents / "evalrun.json", asked.model_dump_json(by_alias=True, indent=2))
        found["evalrun.json"] = Item(documents / "evalrun.json", compress=True)
    return found | _earlier(home.work(spec.id))


def mounts_of(parcel: Mapping[str, Item], job_id: str) -> dict[str, str]:
    """The parcel as SkyPilot's file mounts, for a person who runs `task.yaml` by hand."""
    return {f"~/launch/jobs/{job_id}/{name}": str(item.source) for name, item in parcel.items()}


def _folder(
    folder: Path, place: str, *, only: tuple[str, ...] | None = None, but_not: tuple[str, ...] = ()
) -> dict[str, Item]:
    return {
        f"{place}/{path.name}": Item(path, compress=path.suffix != ".safetensors")
        for path in sorted(folder.iterdir())
        if path.is_file()
        and path.suffix in MODEL_SUFFIXES
        and path.name not in but_not
        and (only is None or path.name in only)
    }


def _earlier(work: Path) -> dict[str, Item]:
    """What an earlier attempt brought home and this one goes on from; copied, since the trainer writes into it."""
    checkpoint = newest_checkpoint(work)
    if checkpoint is None:
        return {}
    roots = [checkpoint, work / "adapter", *(work / name for name in GOES_ON_WITH)]
    files = [path for root in roots for path in ([root] if root.is_file() else sorted(root.rglob("*")))]
    return {
        f"work/{path.relative_to(work).as_posix()}": Item(path, compress=path.suffix == ".jsonl", copy=True)
        for path in files
        if path.is_file()
    }
