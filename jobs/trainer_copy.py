"""The copy of `train` that children run from: by content, so that an upgrade never changes a running job."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import train
from jobs.home import Home


def package_folder() -> Path:
    """Where this program's own `train` package is."""
    assert train.__file__ is not None
    return Path(train.__file__).parent


def lock_file(platform: str) -> Path:
    """The pinned packages of `platform` ("cpu" or "cuda")."""
    return package_folder() / "locks" / f"{platform}.txt"


def trainer_copy(home: Home) -> Path:
    """The folder for PYTHONPATH: `$LAUNCH_HOME/trainers/HASH`, with `train` in it. Made if it is missing."""
    source = package_folder()
    files = sorted(path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(source).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    final = home.trainers / digest.hexdigest()[:16]
    if final.is_dir():
        return final
    beside = home.trainers / f".making-{final.name}-{os.getpid()}"
    for path in files:
        target = beside / "train" / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    try:
        beside.rename(final)
    except OSError:
        # Another program made the same content first; a folder that is not empty is never replaced by a rename.
        shutil.rmtree(beside)
        if not final.is_dir():
            raise
    return final
