"""The trainer's image: built from `sky/Containerfile` and a lock of `train/locks`, pushed by the engine itself."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence

from artifacts.errors import LaunchError
from jobs.cloud_task import sky_data
from jobs.pins import PLATFORMS
from jobs.trainer_copy import lock_file

NAME = "dpo-launch-trainer"
PYTHON = "/opt/launch/bin/python"
"""The interpreter in it that has the packages of its lock."""


def default_tag(platform: str) -> str:
    """The image of a lock, by its content: an image under this name never has other pins."""
    digest = hashlib.sha256(lock_file(platform).read_bytes()).hexdigest()
    return f"localhost/{NAME}:{platform}-{digest[:12]}"


def build_argv(
    engine: str, platform: str, *, tag: str | None = None, base: str | None = None, args: Sequence[str] = ()
) -> list[str]:
    """The engine's command line. `args` are the engine's own, put before the folder that it builds from."""
    lock = lock_file(platform)
    return [
        engine,
        "build",
        "--file",
        str(sky_data("Containerfile")),
        "--tag",
        tag or default_tag(platform),
        "--build-arg",
        f"BASE={base or PLATFORMS[platform].base}",
        "--build-arg",
        f"LOCK={lock.name}",
        *args,
        str(lock.parent),
    ]


def build(
    engine: str, platform: str, *, tag: str | None = None, base: str | None = None, args: Sequence[str] = ()
) -> str:
    """Builds the image of a lock; the engine's words go to standard error. Returns its tag. Raises LaunchError."""
    argv = build_argv(engine, platform, tag=tag, base=base, args=args)
    _run(argv, "The image could not be built", "what it said stands above; correct it, then run the same command again")
    return tag or default_tag(platform)


def push(engine: str, tag: str) -> None:
    """Pushes an image under a name that has its registry in it. Raises LaunchError."""
    _run(
        [engine, "push", tag],
        f"{tag} could not be pushed",
        f"build it under a name at your registry (launch image build --tag REGISTRY/NAME), log in ({engine} login "
        "REGISTRY), then run the same command again",
    )


def _run(argv: Sequence[str], what: str, next_step: str) -> None:
    """Standard output is for documents; what an engine says is progress."""
    import sys

    status = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), check=False).returncode
    if status:
        raise LaunchError(what, why=f"{argv[0]} {argv[1]} ended with {status}", next_step=next_step)
