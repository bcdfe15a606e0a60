"""The trainer of this machine in a container: the same task, seen from inside."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from artifacts.errors import UsageProblem
from jobs.backends import Task
from jobs.engine import find_engine, has_image
from jobs.environment import Environment, lock_name
from jobs.home import Home
from jobs.image import PYTHON, default_tag
from jobs.pins import CPU, pins_for
from jobs.trainer_copy import trainer_copy
from train.config import EvalConfig, RunConfig

# Of the caller's variables, what the trainer and its libraries read. Values go by name, so that none is in an argv.
_PASSED = ("PYTHONPATH", "PYTHONSAFEPATH", "PYTHONUNBUFFERED", "TOKENIZERS_PARALLELISM", "CUDA_VISIBLE_DEVICES",
           "OMP_NUM_THREADS")  # fmt: skip
_PASSED_PREFIXES = ("HF_", "LAUNCH_HUB")


@dataclass(frozen=True, order=True)
class Mount:
    """A file or folder of this machine, at the same path in the container."""

    path: Path
    writable: bool = False


def mounts_of(config: RunConfig | EvalConfig, *, trainer: Path) -> tuple[Mount, ...]:
    """What a run needs of this machine: model and data to read, its folder and the reference cache to write.

    A model that is a hub's id is no path here; the hub's cache is mounted where it is one (`HF_HOME`, or the default).
    """
    read = [trainer, *(Path(part) for part in (config.model.base, config.model.adapter) if part)]
    if isinstance(config, RunConfig):
        read += [config.data.train, *([config.data.val] if config.data.val else [])]
        write = [config.output_dir, config.reference_cache]
    else:
        read += [
            config.trained_adapter,
            config.test,
            *(path for path in (config.train, config.val, config.terms) if path),
        ]
        write = [config.output.parent, config.reference_cache]
    hub = Path(os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser())
    if not Path(config.model.base).exists() and hub.is_dir():
        write.append(hub)
    wanted = {Mount(path.absolute()) for path in read if path.exists()}
    return tuple(sorted(wanted | {Mount(path.absolute(), writable=True) for path in write}))


def require_image(engine: str, platform: str, image: str | None = None) -> str:
    """The image for `platform`: the named one, else the one that `launch image build` makes of its lock.

    Raises UsageProblem with the command that makes or gets it.
    """
    tag = image or default_tag(platform)
    if has_image(engine, tag):
        return tag
    raise UsageProblem(
        f"{engine} has no image {tag}",
        why="the trainer's packages are in no image of this machine",
        next_step=f"{engine} pull {tag}" if image else f"launch image build --platform-lock {platform}",
    )


@dataclass(frozen=True)
class TrainerImage:
    """An image on this machine with the pins for its device, or one that the user named."""

    engine: str
    tag: str
    platform: str

    def environment(self, home: Home) -> Environment:
        """As it is inside the container. Only the image of a lock is known to have its pins."""
        own = self.tag == default_tag(self.platform)
        return Environment(Path(PYTHON), trainer_copy(home), lock_name(self.platform) if own else f"image:{self.tag}")

    def wrap(self, task: Task, config: RunConfig | EvalConfig, home: Home, job_id: str) -> Task:
        mounts = mounts_of(config, trainer=trainer_copy(home))
        name = f"launch-{job_id}-{hashlib.sha256(str(home.root).encode()).hexdigest()[:8]}"
        return wrap(task, mounts, self.tag, self.engine, name=name, gpu=self.platform != CPU.platform)


def find_image(device: str, gpu: str | None, image: str | None = None) -> TrainerImage:
    """What trains on this machine, on its GPU of that name where `device` is cuda, else on its CPU: `image`, or the
    one of the lock.

    Raises UsageProblem: there is no engine, or no such image yet.
    """
    engine = find_engine()
    platform = pins_for(gpu or "a GPU" if device == "cuda" else None).platform
    return TrainerImage(engine, require_image(engine, platform, image), platform)


def wrap(task: Task, mounts: Iterable[Mount], image: str, engine: str, *, name: str, gpu: bool = False) -> Task:
    """`task` as a container of `image`: its arguments after the interpreter, its log and its input stay the same.

    The container has this user's id, and of this machine the `mounts` alone, at equal paths. It ends with its input
    (the trainer's `--stop-on-eof`) and by the task's `kill_argv`; `name` is the container's.
    """
    argv = [engine, "run", "--rm", "--interactive", "--name", name, "--user", f"{os.getuid()}:{os.getgid()}",
            "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--entrypoint", PYTHON,
            "--env", "HOME=/tmp", "--env", "USER=launch"]  # fmt: skip
    if engine == "podman" and os.getuid() != 0:
        argv += ["--userns", "keep-id"]  # else the results would belong to a subordinate id
    if gpu:
        argv += ["--device", "nvidia.com/gpu=all"] if engine == "podman" else ["--gpus", "all"]
        argv += ["--shm-size", "8g"]  # what the processes of a data-parallel run talk through
    for mount in mounts:
        argv += ["--mount", _bind(mount)]
    for variable in sorted(task.environ):
        if variable in _PASSED or variable.startswith(_PASSED_PREFIXES):
            argv += ["--env", variable]
    return replace(task, argv=(*argv, image, *task.argv[1:]), kill_argv=(engine, "rm", "--force", name))


def _bind(mount: Mount) -> str:
    """One CSV record, as both engines read it, so that a name may have any character but a line's end."""
    record = io.StringIO()
    fields = ["type=bind", f"source={mount.path}", f"target={mount.path}", *([] if mount.writable else ["readonly"])]
    csv.writer(record, lineterminator="").writerow(fields)
    return record.getvalue()
