"""The trainer's environment: made once from a lock file, or an interpreter that the user named.

python -m jobs.environment --into FOLDER        makes one in FOLDER, by the same code
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from artifacts.errors import LaunchError, UsageProblem
from jobs.home import Home
from jobs.lock import FileLock
from jobs.trainer_copy import lock_file, trainer_copy

Say = Callable[[str], None]

# What the trainer imports, and the oldest version that it was written for.
NEEDED = {
    "torch": (2, 6), "transformers": (5, 20), "trl": (1, 16), "peft": (0, 21), "datasets": (5, 0),
    "accelerate": (1, 10), "safetensors": (0, 8), "pydantic": (2, 11),
}  # fmt: skip
# They would put other packages, or another interpreter, under a child.
_NOT_INHERITED = {
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "LAUNCH_DATABASE_URL",
    "PYTHONSTARTUP",
    "PIP_TARGET",
    "PIP_USER",
}
_WHOLE = "whole.json"
_LOG_LINES_SHOWN = 8

SAID_EVERY = 10
"""Packages between two lines of progress."""
_NO_NETWORK = ("NewConnectionError", "Temporary failure in name resolution", "No matching distribution")


@dataclass(frozen=True)
class Environment:
    """An interpreter with the trainer's packages, the folder that holds `train`, and the lock it was made from."""

    python: Path
    pythonpath: Path
    lock: str


def child_environ(environment: Environment, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of a child that runs `-m train` from any folder, a user's own `train.py` in it or not."""
    inherited = os.environ if environ is None else environ
    return {key: value for key, value in inherited.items() if key not in _NOT_INHERITED} | {
        "PYTHONPATH": str(environment.pythonpath),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def platform_of(device: str) -> str:
    """The name of the lock file for a device: "cuda" or "cpu"."""
    return "cuda" if device == "cuda" else "cpu"


def folder_of(home: Home, platform: str) -> tuple[Path, str]:
    """Where the environment of `platform` is, and its lock as results name it."""
    name = lock_name(platform)
    return home.environments / f"{platform}-{name.partition(':')[2][:12]}", name


def lock_name(platform: str) -> str:
    """A lock as results name it: file name and SHA-256."""
    return f"{platform}.txt sha256:{hashlib.sha256(lock_file(platform).read_bytes()).hexdigest()}"


def ready(home: Home, *, device: str, python: Path | None = None) -> bool:
    """Whether `ensure` would have nothing to install."""
    return python is not None or (folder_of(home, platform_of(device))[0] / _WHOLE).exists()


def ensure(home: Home, *, device: str, python: Path | None, say: Say, pip_args: Sequence[str] = ()) -> Environment:
    """The environment for `device`: `python` checked, or the made one, installed now if it is missing.

    `pip_args` go to pip as they are (an index, a constraints file).

    Raises:
        UsageProblem: `python` lacks a package, or pip failed; its last lines are in the message.
    """
    if python is not None:
        return Environment(python, trainer_copy(home), _check(python))
    platform = platform_of(device)
    folder, lock = folder_of(home, platform)
    if not (folder / _WHOLE).exists():
        guard = FileLock(folder.with_name(folder.name + ".lock"))
        if not guard.acquire():
            say("waiting for another launch that is making the trainer's environment")
            guard.acquire(wait_s=float("inf"))
        with guard:
            make(folder, lock_file(platform), say, pip_args)
    return Environment(_python_in(folder), trainer_copy(home), lock)


def make(folder: Path, lock: Path, say: Say, pip_args: Sequence[str] = ()) -> None:
    """A virtual environment in `folder` with the packages of `lock`. Without its `whole.json` it is made anew.

    It is made in its final place, since a virtual environment cannot be moved.
    """
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    whole = folder / _WHOLE
    if whole.exists() and json.loads(whole.read_text())["lock_sha256"] == digest:
        return
    log = folder.with_name(folder.name + ".log")
    try:
        if folder.exists():
            say("removing a half-made trainer environment")
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        say(f"making the trainer's environment in {folder}")
        _run([sys.executable, "-m", "venv", str(folder)], log, say, mode="w")
        pip = [str(_python_in(folder)), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *pip_args]
        _run([*pip, "-r", str(lock)], log, say, mode="a")
        beside = folder / f".{_WHOLE}"
        beside.write_text(json.dumps({"lock": lock.name, "lock_sha256": digest}))
        beside.replace(whole)
    except OSError as error:
        full = " (the disk is full)" if error.errno == errno.ENOSPC else ""
        raise UsageProblem(
            f"The trainer's environment could not be made in {folder}{full}",
            why=str(error),
            next_step="make room or set LAUNCH_HOME to a folder that you can write, then run the same command again",
        ) from error
    say("the trainer's environment is ready")


def _python_in(folder: Path) -> Path:
    return folder / "bin" / "python"


def _run(argv: list[str], log: Path, say: Say, *, mode: str) -> None:
    """Runs a step of the installation with its output in `log`; says the lines that show progress."""
    environ = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED} | {"PYTHONSAFEPATH": "1"}
    with (
        log.open(mode) as out,
        subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ
        ) as child,
    ):
        assert child.stdout is not None
        try:
            collected = 0
            for line in child.stdout:
                out.write(line)
                if line.startswith("Collecting "):
                    collected += 1
                    if collected % SAID_EVERY == 0:
                        say(f"{collected} packages found, the last {line.split()[1]}")
                elif line.startswith("Installing collected"):
                    say(f"installing {collected} package{'' if collected == 1 else 's'}")
        except BaseException:
            # The one who listens gave up (a cancellation): pip must not go on without anybody.
            child.terminate()
            raise
    if child.returncode:
        raise _failed(argv, log)


def _failed(argv: list[str], log: Path) -> UsageProblem:
    text = log.read_text(errors="replace")
    tail = "\n".join(text.splitlines()[-_LOG_LINES_SHOWN:])
    if "No space left on device" in text:
        remedy = "make room on the disk, then run the same command again"
    elif "ensurepip" in text:
        remedy = (
            "install your system's venv package (Debian: apt install python3-venv), then run the same command again"
        )
    elif any(sign in text for sign in _NO_NETWORK):
        remedy = "check the network and pip's index settings, then run the same command again"
    else:
        remedy = (
            "run the same command again, or name an interpreter that has the packages: [train] python in launch.toml"
        )
    step = "pip install" if "pip" in argv else "python -m venv"
    return UsageProblem(
        f"The trainer's environment could not be made: {step} failed",
        why=f"{tail}\n(all of it: {log})",
        next_step=remedy,
    )


_ASK = """
import importlib.metadata as m, json, sys
found = {}
for name in sys.argv[1:]:
    try: found[name] = m.version(name)
    except m.PackageNotFoundError: found[name] = None
print(json.dumps(found))
"""


def _check(python: Path) -> str:
    """Asks an interpreter for the versions of what the trainer needs, importing none of it."""
    remedy = "pip install what is missing there, or take [train] python out of launch.toml to use a made environment"
    environ = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    try:
        answer = subprocess.run(
            [str(python), "-c", _ASK, *NEEDED],
            capture_output=True,
            text=True,
            timeout=60,
            env=environ | {"PYTHONSAFEPATH": "1"},
            check=True,
        )
        found: dict[str, str | None] = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise UsageProblem(f"{python} cannot run the trainer", why=str(error), next_step=remedy) from error
    lacking = [
        f"{name} {version or 'is missing'} (needs {'.'.join(map(str, NEEDED[name]))} or newer)"
        for name, version in found.items()
        if version is None or _numbers(version) < NEEDED[name]
    ]
    if lacking:
        raise UsageProblem(f"{python} cannot run the trainer", why="\n".join(lacking), next_step=remedy)
    return f"python:{python}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+", maxsplit=1)[0].split(".")[:2] if part.isdigit())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.environment", description="Makes a trainer environment.")
    parser.add_argument("--into", type=Path, required=True, help="the folder of the virtual environment")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args(argv)
    folder: Path = given.into.absolute()
    try:
        with FileLock(folder.with_name(folder.name + ".lock")):
            make(folder, lock_file(platform_of(given.device)), lambda line: print(line, flush=True))
    except LaunchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
