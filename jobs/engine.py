"""The container engine of this machine: Docker or Podman, the first that answers."""

from __future__ import annotations

import shutil
import subprocess

from artifacts.errors import UsageProblem

ENGINES = ("docker", "podman")
_ANSWERS_WITHIN_S = 30
_INSTALL = "install Docker or Podman (Debian, Ubuntu: apt install podman), or leave --container out"


def find_engine(named: str | None = None) -> str:
    """`named` where it works, else the first of `ENGINES` that does.

    Raises UsageProblem: none is on the PATH, or none that is there answers; what each said is in the message.
    """
    silent: list[str] = []
    for engine in (named,) if named else ENGINES:
        if shutil.which(engine) is None:
            continue
        try:
            said = subprocess.run(
                [engine, "ps", "-q"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_ANSWERS_WITHIN_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            silent.append(f"{engine}: {error}")
            continue
        if said.returncode == 0:
            return engine
        silent.append(f"{engine}: {said.stderr.strip() or f'exit {said.returncode}'}")
    wanted = named or " or ".join(ENGINES)
    if silent:
        raise UsageProblem(
            "No container engine answers",
            why="\n".join(silent),
            next_step="start it, or add yourself to its group, then run the same command again",
        )
    raise UsageProblem("There is no container engine", why=f"{wanted} is not on the PATH", next_step=_INSTALL)


def has_image(engine: str, image: str) -> bool:
    """Whether the engine has the image on this machine."""
    said = subprocess.run(
        [engine, "image", "inspect", image], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return said.returncode == 0
