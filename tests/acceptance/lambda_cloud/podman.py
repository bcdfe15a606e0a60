"""Podman with a store of the tests' own, and the trainer's image in it: `launch image build` from a debootstrap base.

`python -m tests.acceptance.lambda_cloud.podman` makes what takes minutes the first time (root, a Debian mirror and a
package index needed), all of it under the cache of rootfs.py: Debian with Python as the base, the wheels of
`train/locks/cpu.txt`, and the image. The build itself asks nobody: it is given the wheels as a volume.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from jobs.image import default_tag
from tests.acceptance.lambda_cloud import rootfs
from tests.acceptance.lambda_cloud.instances import IMAGES_AT, Engine

REPOSITORY = Path(__file__).resolve().parents[3]
LOCK = REPOSITORY / "train/locks/cpu.txt"
PYTHON = "3.11"  # of bookworm
PACKAGES = ("python3", "python3-venv", "libgomp1", "ca-certificates")
BASE = f"localhost/launch-test-base:{hashlib.sha256(' '.join(PACKAGES).encode()).hexdigest()[:12]}"
WHEELS_IN_BUILD = "/wheels"
MACHINE_PACKAGES = ("podman", "crun")
# $1 is the machine image, $2 the folder in which the layer over it is made.
ADD = f"""\
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/disk,workdir=$2/work,index=off" "$2/root"
mount --rbind /proc "$2/root/proc"
mount --rbind /dev "$2/root/dev"
cp /etc/resolv.conf "$2/root/etc/resolv.conf"
chroot "$2/root" sh -ec '
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends {" ".join(MACHINE_PACKAGES)}
  apt-get clean
  rm -rf /var/lib/apt/lists/*
  : > /etc/resolv.conf'
"""
MACHINE_STORAGE = f"""\
[storage]
driver = "overlay"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
[storage.options]
additionalimagestores = ["{IMAGES_AT}"]
"""
NEEDED = ("podman", "runc", "debootstrap")


def cannot_run() -> str | None:
    """Why there can be no container here; None where there can."""
    if os.geteuid() != 0:
        return "the tests of the container need root (debootstrap)"
    missing = [each for each in NEEDED if shutil.which(each) is None]
    return f"the tests of the container need {', '.join(missing)}" if missing else None


class Podman:
    """The engine, with its store under the tests' cache: no image of this machine's own is seen or touched."""

    def __init__(self) -> None:
        self.folder = rootfs.cache() / "podman"
        self.store = self.folder / "store"
        self.store.mkdir(parents=True, exist_ok=True)
        storage, engine = self.folder / "storage.conf", self.folder / "containers.conf"
        state = Path("/run/launch-test-podman")
        _write(storage, f'[storage]\ndriver = "overlay"\ngraphroot = "{self.store}"\nrunroot = "{state}/containers"\n')
        _write(
            engine,
            f"[containers]\ndefault_ulimits = {json.dumps(_limits())}\n"
            f'[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nlock_type = "file"\n'
            f'tmp_dir = "{state}/libpod"\n',
        )
        self.environ: Mapping[str, str] = {"CONTAINERS_CONF": str(engine), "CONTAINERS_STORAGE_CONF": str(storage)}

    def run(self, *words: str, check: bool = True) -> str:
        """What `podman` says on its standard output.

        Raises:
            RuntimeError: it fails, with its own words.
        """
        said = subprocess.run(
            ["podman", *words], env=os.environ | self.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if check and said.returncode:
            raise RuntimeError(f"podman {' '.join(words)}: {said.returncode}: {said.stderr.strip()}")
        return said.stdout

    def containers(self, part_of_name: str = "") -> list[str]:
        """The names of all there are, running or not."""
        names = self.run("ps", "--all", "--format", "{{.Names}}").split()
        return [name for name in names if part_of_name in name]

    def has(self, image: str) -> bool:
        return bool(self.run("images", "--quiet", image).strip())

    def build_arguments(self) -> list[str]:
        """Of `launch image build`, for the image of cpu.txt: after the dashes the engine's own."""
        wheels, settings = self.wheels(), self.folder / "pip.conf"
        _write(settings, f"[global]\nno-index = true\nfind-links = {WHEELS_IN_BUILD}\n")
        volumes = (f"{wheels}:{WHEELS_IN_BUILD}:ro", f"{settings}:/etc/pip.conf:ro")
        engine = ["--network", "none", *(word for volume in volumes for word in ("--volume", volume))]
        return ["image", "build", "--platform-lock", "cpu", "--base", self.base(), "--engine", "podman", "--", *engine]

    def base(self) -> str:
        """Debian with Python; made where it is missing, in a minute."""
        with self._alone():
            if not self.has(BASE):
                root = self.folder / "base"
                rootfs.debootstrap(root, PACKAGES)
                archive = self.folder / "base.tar"
                _run(["tar", "-C", str(root), "--numeric-owner", "-cf", str(archive), "."])
                self.run("import", str(archive), BASE)
                archive.unlink()
                shutil.rmtree(root)
        return BASE

    def wheels(self) -> Path:
        """The wheels of the lock, from the index that pip of this machine uses; downloaded once."""
        with self._alone():
            whole = self.folder / f"wheels-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
            if not whole.is_dir():
                for stale in self.folder.glob("wheels-*"):
                    shutil.rmtree(stale)
                part = self.folder / "wheels-part"
                pip = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
                _run([*pip, "--python-version", PYTHON, "--dest", str(part), "-r", str(LOCK)])
                part.rename(whole)
            return whole

    def image(self) -> str:
        """The trainer's image, built by `launch image build` where the layers that it keeps do not do."""
        arguments = self.build_arguments()
        with self._alone():
            self._remove_older()
            _run([sys.executable, "-m", "launcher", *arguments], os.environ | self.environ | {"PYTHONSAFEPATH": "1"})
        return default_tag("cpu")

    def for_machines(self) -> Engine:
        """What the fake cloud's machines need to run the image; programs from Debian, over the machine image."""
        image = rootfs.make()
        with self._alone():
            said = "\n".join([rootfs.recipe(), *MACHINE_PACKAGES, ADD, MACHINE_STORAGE, _machine_engine()])
            layer = self.folder / f"layer-{hashlib.sha256(said.encode()).hexdigest()[:12]}"
            if not layer.is_dir():
                for stale in self.folder.glob("layer-*"):
                    shutil.rmtree(stale)
                parts = [self.folder / f"layer-part/{each}" for each in ("disk", "work", "root")]
                for part in parts:
                    part.mkdir(parents=True)
                # A mount namespace of its own: what it mounts is gone with it, however it ends.
                _run(["unshare", "--mount", "--", "sh", "-ec", ADD, "sh", str(image), str(parts[0].parent)])
                _write(parts[0] / "etc/containers/storage.conf", MACHINE_STORAGE)
                _write(parts[0] / "etc/containers/containers.conf", _machine_engine())
                parts[0].rename(layer)
                shutil.rmtree(parts[0].parent)
        return Engine(layer, self.store)

    def _remove_older(self) -> None:
        """An image is 2 GB: those of earlier locks go."""
        names = self.run("images", "--format", "{{.Repository}}:{{.Tag}}").split()
        stem = re.escape(default_tag("cpu").rpartition("-")[0])
        for name in names:
            if re.fullmatch(rf"{stem}-[0-9a-f]{{12}}", name) and name != default_tag("cpu"):
                self.run("rmi", name)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time makes what is kept."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _limits() -> list[str]:
    """Below this machine's own: a root without CAP_SYS_RESOURCE may not raise them, as the engine does by default."""
    enough = {"nofile": (resource.RLIMIT_NOFILE, 1024), "nproc": (resource.RLIMIT_NPROC, 4096)}
    return [f"{name}={min(most, resource.getrlimit(kind)[1])}" for name, (kind, most) in enough.items()]


def _machine_engine() -> str:
    """A machine of namespaces has no control groups of its own; of the runtimes, crun alone does without."""
    limits = json.dumps(_limits())
    return f'[containers]\ncgroups = "disabled"\ndefault_ulimits = {limits}\n[engine]\nruntime = "crun"\n'


def _write(file: Path, text: str) -> None:
    part = file.with_name(f".{file.name}-{os.getpid()}")  # another run may be reading it
    part.write_text(text)
    part.replace(file)


def _run(command: list[str], environment: Mapping[str, str] | None = None) -> None:
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if said.returncode:
        sys.stderr.write(said.stdout[-4000:] + said.stderr[-4000:])
        raise subprocess.CalledProcessError(said.returncode, command[:4])


def main() -> NoReturn:
    """Makes the image, and prints its name."""
    print(Podman().image())
    raise SystemExit(0)


if __name__ == "__main__":
    main()
