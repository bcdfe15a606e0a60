"""The SkyPilot task of a cloud attempt: `sky/dpo.yaml`, loaded, with the fields of its job set."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from artifacts.errors import LaunchError

TASK = "dpo.yaml"

# Put before `run:` where this program's own transfer takes the place of SkyPilot's file mounts. It runs in the same
# shell, before `set -e`. The limit is in the task's `envs`, so that nobody edits a script.
_WAIT = """\
# The transfer runs beside the set-up of SkyPilot; SYNCED is the last thing that it writes.
launch_job=$HOME/launch/jobs/$LAUNCH_JOB
launch_phase() { echo "$1" > "$launch_job/.phase" && mv "$launch_job/.phase" "$launch_job/phase"; }
if [ ! -e "$launch_job/SYNCED" ]; then
  mkdir -p "$launch_job"
  launch_phase waiting
  until [ -e "$launch_job/SYNCED" ] || [ -e "$launch_job/stop" ] || ((SECONDS >= LAUNCH_SYNC_WAIT_S)); do
    sleep 0.5
  done
  if [ ! -e "$launch_job/SYNCED" ]; then
    launch_phase finished
    if [ -e "$launch_job/stop" ]; then exit 0; fi
    echo "launch: the data of $LAUNCH_JOB is not here after $SECONDS s; nothing was trained" >&2
    exit 75
  fi
fi

"""


def sky_data(name: str) -> Path:
    """A file of the folder `sky/`: inside this package in a wheel, in the repository in a checkout.

    Never `site-packages/sky`, which is SkyPilot's. Raises LaunchError where neither place has it.
    """
    places = (Path(__file__).with_name("_sky") / name, Path(__file__).parents[1] / "sky" / name)
    for path in places:
        if path.is_file():
            return path
    raise LaunchError(
        f"{name} is missing from this installation",
        why="looked for " + " and ".join(map(str, places)),
        next_step="install the program again",
    )


def task_document(
    *,
    job: str,
    method: str = "dpo",
    cloud: str,
    region: str,
    instance_type: str,
    idle_minutes: int,
    envs: Mapping[str, str] | None = None,
    file_mounts: Mapping[str, str] | None = None,
    resources: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """The task for one exact type in one region; for people, `runs/JOB/task.yaml`, runnable with `sky launch`.

    `method` is what is trained, `idle_minutes` how long after SkyPilot's set-up its autostop ends the machine, whatever
    runs. `envs` are set over those of the file, `file_mounts` (path on the machine -> path here) take the place of the
    file's, `resources` are what the cloud wants beside type and region.
    """
    document = _load()
    document["name"] = f"launch-{job}"
    document["resources"] = {
        "infra": f"{cloud}/{region}",
        "instance_type": instance_type,
        "autostop": {"idle_minutes": idle_minutes, "down": True, "wait_for": "none"},
        **(resources or {}),
    }
    document["envs"] |= {"LAUNCH_JOB": job, "LAUNCH_METHOD": method} | dict(envs or {})
    document["file_mounts"] = dict(file_mounts or {})
    return document


def submitted(document: Mapping[str, Any], *, wait_s: int) -> dict[str, Any]:
    """The task as it is given to SkyPilot: no file mounts, and a wait of at most `wait_s` seconds for the transfer."""
    task = copy.deepcopy(dict(document))
    task.pop("file_mounts", None)
    task["envs"]["LAUNCH_SYNC_WAIT_S"] = str(wait_s)
    task["run"] = _WAIT + task["run"]
    return task


def early_pull(document: Mapping[str, Any]) -> str:
    """A script for `bash -s` on the machine that begins the pull of the container image before SkyPilot is there.

    It is the task's own `run:`, which picks engine and image and stops after the pull.
    """
    variables = dict(cast("Mapping[str, str]", document["envs"])) | {"LAUNCH_ONLY": "pull"}
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    return exports + cast("str", document["run"])


def task_text(document: Mapping[str, Any]) -> str:
    """The task as YAML that a person can read: the script stays a block of lines."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        style = "|" if "\n" in text else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)  # pyright: ignore[reportUnknownMemberType]

    Dumper.add_representer(str, block)
    return yaml.dump(dict(document), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def _load() -> dict[str, Any]:
    import yaml

    return cast("dict[str, Any]", yaml.safe_load(sky_data(TASK).read_text(encoding="utf-8")))
