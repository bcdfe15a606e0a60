"""The adapters of a run, as they are found after it: `adapter/` (the best so far) and `adapter_last/`."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from train.checkpoint import replace_synced, sync_folder, write_synced

WEIGHTS, CONFIG, BEST = "adapter_model.safetensors", "adapter_config.json", "best.json"


class Best(BaseModel):
    """`best.json`: the step and the score of what lies in `adapter/`, and the SHA-256 of its weights.

    `score` is None where there is no validation data: the best is then the last.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    step: int
    score: float | None
    sha256: str


def write_adapter(folder: Path, weights: bytes, config: str) -> str:
    """Makes `folder` this adapter (`config`: its adapter_config.json), and returns the SHA-256 of its weights.

    A folder is made under another name and renamed in; in one that is there, the weights are replaced by a rename, and
    nothing else differs between the steps of a run. So it is whole at any moment.
    """
    text = config.encode()
    if folder.is_dir() and (folder / CONFIG).is_file() and (folder / CONFIG).read_bytes() == text:
        replace_synced(folder / WEIGHTS, weights, by_way_of=folder.parent)
    else:
        beside = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            write_synced(beside / WEIGHTS, weights)
            write_synced(beside / CONFIG, text)
            sync_folder(beside)
            shutil.rmtree(folder, ignore_errors=True)
            beside.rename(folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return hashlib.sha256(weights).hexdigest()


def write_best(output_dir: Path, best: Best) -> None:
    replace_synced(output_dir / BEST, best.model_dump_json(indent=1).encode())


def sweep(output_dir: Path) -> None:
    """Removes what a killed run left half-written here. For the one trainer that holds the folder."""
    for path in output_dir.glob("*.tmp-*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
