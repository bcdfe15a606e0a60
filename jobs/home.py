"""`$LAUNCH_HOME`: where the program keeps what is not a result."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from artifacts.errors import UsageProblem


def root_of(environ: Mapping[str, str]) -> Path:
    """`LAUNCH_HOME`, or the platform's user state folder; whether it is there or not."""
    if given := environ.get("LAUNCH_HOME"):
        return Path(given).expanduser().absolute()
    from platformdirs import user_state_path

    return user_state_path("launch", appauthor=False)


@dataclass(frozen=True)
class Home:
    """The state folder, and the database where it is not the SQLite file inside it."""

    root: Path
    database: str | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Home:
        """`LAUNCH_HOME`, or the platform's user state folder; made if it is missing.

        Raises:
            UsageProblem: the folder cannot be made or written, or its name can be in no list of folders.
        """
        root = root_of(environ)
        _require_one_word(root)
        _require_writable(root)
        return cls(root, environ.get("LAUNCH_DATABASE_URL") or None)

    @property
    def database_file(self) -> Path:
        """The SQLite file; not used where `database` is set."""
        return self.root / "launch.sqlite"

    @property
    def jobs_dir(self) -> Path:
        return self.root / "jobs"

    @property
    def environments(self) -> Path:
        """Trainer environments, one a lock file."""
        return self.root / "environments"

    @property
    def trainers(self) -> Path:
        """Copies of the `train` package, by content."""
        return self.root / "trainers"

    @property
    def reference_cache(self) -> Path:
        """Reference log-probabilities by content, shared by all jobs."""
        return self.root / "reference"

    def job(self, job_id: str) -> Path:
        """The job's own folder: `work/` is the trainer's, `logs/` what the driver and the trainer said."""
        return self.jobs_dir / job_id

    def work(self, job_id: str) -> Path:
        return self.job(job_id) / "work"

    def logs(self, job_id: str) -> Path:
        return self.job(job_id) / "logs"


def _require_one_word(root: Path) -> None:
    if os.pathsep in str(root):
        raise UsageProblem(
            f"The state folder {root} has a {os.pathsep!r} in its path",
            why="The trainer is found in it through PYTHONPATH, where that sign stands between two folders.",
            next_step=f"set LAUNCH_HOME to a folder without {os.pathsep!r}, e.g. LAUNCH_HOME=~/.launch",
        )


def _require_writable(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not os.access(root, os.W_OK | os.X_OK):
            # access() is wrong on some network mounts: only a real file settles it.
            with tempfile.TemporaryFile(dir=root):
                pass
    except OSError as error:
        raise UsageProblem(
            f"The state folder {root} cannot be written",
            why=f"{type(error).__name__}: {error.strerror or error}",
            next_step="set LAUNCH_HOME to a folder that you can write, e.g. LAUNCH_HOME=~/.launch",
        ) from error
