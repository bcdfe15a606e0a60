"""What a run reads: there, readable, and the same at a resume as at the start."""

from __future__ import annotations

import json
from pathlib import Path

from artifacts import manifest
from artifacts.errors import UsageProblem
from jobs.job import JobSpec

_FILE = "inputs.json"


def check_inputs(spec: JobSpec, work: Path) -> None:
    """Hashes the data, looks at the model folders, and compares with what the job began with (`work/inputs.json`).

    Raises:
        UsageProblem: something is missing or unreadable, or data changed since the job began.
    """
    data = [path for path in (spec.run.data.train, spec.run.data.val, spec.test) if path is not None]
    found = {str(path): _hash(path, spec.id) for path in data}
    for name, folder in (("base", spec.run.model.base), ("adapter", spec.run.model.adapter)):
        if folder is not None and Path(folder).is_absolute():
            _look_into(Path(folder), name, spec.id)
    record = work / _FILE
    if record.exists():
        before: dict[str, str] = json.loads(record.read_text())
        changed = [path for path in found if path in before and before[path] != found[path]]
        if changed:
            raise UsageProblem(
                f"{changed[0]} has changed since {spec.id} began",
                why="a run that goes on with other data would be neither the old run nor a new one",
                next_step=f"put the file back and: launch resume {spec.id}; or, as a new job, launch {spec.run.method}",
            )
    beside = work / f".{_FILE}"
    beside.write_text(json.dumps(found, indent=1))
    beside.replace(record)


def is_as_it_was(path: Path, work: Path) -> bool:
    """Whether a file is there with the content that the job began with."""
    try:
        before: dict[str, str] = json.loads((work / _FILE).read_text())
        return before.get(str(path)) == manifest.entry(path).sha256
    except OSError:
        return False


def _hash(path: Path, job_id: str) -> str:
    try:
        return manifest.entry(path).sha256
    except OSError as error:
        raise _unreadable(path, error, job_id) from error


def _look_into(folder: Path, name: str, job_id: str) -> None:
    config = folder / ("adapter_config.json" if name == "adapter" else "config.json")
    try:
        config.read_bytes()
    except OSError as error:
        raise _unreadable(config, error, job_id) from error


def _unreadable(path: Path, error: OSError, job_id: str) -> UsageProblem:
    return UsageProblem(
        f"{path} cannot be read",
        why=error.strerror or str(error),
        next_step=f"put it back and: launch resume {job_id}",
    )
