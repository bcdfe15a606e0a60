"""The machine image of the fake cloud: Debian with real cloud-init and sshd, and what SkyPilot would download.

`python -m tests.acceptance.lambda_cloud.rootfs` makes it (root and a Debian mirror needed) and prints where it lies:
`$LAUNCH_TEST_CLOUD_CACHE`, by default /var/cache/dpo-launch-test-cloud. It is made once a recipe, never changed:
each instance is an overlay of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tests.acceptance.lambda_cloud.authority import make_authority

MIRROR = os.environ.get("LAUNCH_TEST_DEBIAN_MIRROR", "http://deb.debian.org/debian")
# debootstrap does not resolve virtual packages: python3-cffi-backend stands for what cryptography asks for.
PACKAGES = (
    "openssh-server", "sudo", "python3", "python3-venv", "python3-pip", "python3-cffi-backend", "rsync", "curl",
    "ca-certificates", "procps", "psmisc", "lsof", "netcat-openbsd", "git", "fuse", "iproute2", "zstd", "less",
    "libgomp1", "cloud-init", "patch",
)  # fmt: skip
UV = "uv==0.13.9"
# What `sky launch` 0.14.1 installs on a machine (sky/skylet/constants.py): found there, it downloads nothing.
# SkyPilot itself is taken out again, since it brings its own wheel; its dependencies stay.
RUNTIME = ("setuptools<70", "ray[default]==2.9.3", "pydantic-core==2.41.1", "click<8.3.0")
SKYPILOT = "skypilot[lambda,remote]==0.14.1"

CLOUD_CONFIG = """\
datasource_list: [NoCloud]
network: {config: disabled}
apt: {preserve_sources_list: true}
system_info:
  default_user:
    name: ubuntu
    gecos: Ubuntu
    lock_passwd: true
    groups: [adm, sudo]
    sudo: ["ALL=(ALL) NOPASSWD:ALL"]
    shell: /bin/bash
"""

# Run in the new root, as its root. /mnt is the download cache of the machine that makes it.
SETUP = f"""\
set -eu
export HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
useradd --create-home --uid 1000 --shell /bin/bash ubuntu
echo 'ubuntu ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/90-ubuntu
chmod 0440 /etc/sudoers.d/90-ubuntu
rm -f /etc/ssh/ssh_host_*
update-ca-certificates >/dev/null
mkdir -p /home/ubuntu/.local/bin /home/ubuntu/.config/uv /opt/launch-trainer/site-packages
install -m 0755 /mnt/uv-binary /home/ubuntu/.local/bin/uv
export UV_CACHE_DIR=/mnt/uv UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=/home/ubuntu/skypilot-runtime
uv=/home/ubuntu/.local/bin/uv
$uv venv --quiet --seed --python /usr/bin/python3 /home/ubuntu/skypilot-runtime
$uv pip install --quiet {" ".join(f"'{each}'" for each in (*RUNTIME, SKYPILOT))}
$uv pip uninstall --quiet skypilot
$uv venv --quiet --seed --relocatable --system-site-packages --python /usr/bin/python3 /home/ubuntu/sky-user-env
certifi=$(/home/ubuntu/skypilot-runtime/bin/python -c 'import certifi; print(certifi.where())')
cat /usr/local/share/ca-certificates/launch-test-cloud.crt >> "$certifi"
echo 'offline = true' > /home/ubuntu/.config/uv/uv.toml
chown -R ubuntu:ubuntu /home/ubuntu
apt-get clean
rm -rf /var/lib/apt/lists/* /var/lib/cloud
"""


def cache() -> Path:
    """Where images and downloads are kept from one run to the next."""
    return Path(os.environ.get("LAUNCH_TEST_CLOUD_CACHE", "/var/cache/dpo-launch-test-cloud"))


def recipe() -> str:
    """Twelve hex digits of all that the image is made from."""
    said = "\n".join([MIRROR, *PACKAGES, UV, CLOUD_CONFIG, SETUP])
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def make() -> Path:
    """The image of this recipe; made, where there is none, in some 2 to 4 minutes. Another process's making is awaited.

    Raises:
        subprocess.CalledProcessError: debootstrap, pip or uv failed; what they said is on standard error.
    """
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    root = folder / f"rootfs-{recipe()}"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if root.is_dir():
            return root
        for stale in folder.glob("rootfs-*"):
            _remove(stale)
        part = folder / f"rootfs-part-{recipe()}"
        debootstrap(part, PACKAGES)
        _set_up(part, folder)
        part.rename(root)
    return root


def _remove(folder: Path) -> None:
    """With what a making that was killed may have left mounted in it: nothing is removed through a mount."""
    places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in sorted((each for each in places if each.startswith(f"{folder}/")), reverse=True):
        _run(["umount", place])
    shutil.rmtree(folder)


def debootstrap(part: Path, packages: Sequence[str]) -> None:
    """The smallest Debian that has these packages, in a folder that may be left of a making that was killed."""
    debs = cache() / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    if part.exists():
        _remove(part)
    # dpkg syncs each file otherwise; what is half made is thrown away anyhow.
    (part / "etc/dpkg/dpkg.cfg.d").mkdir(parents=True)
    (part / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
    command = ["debootstrap", "--variant=minbase", f"--cache-dir={debs}", f"--include={','.join(packages)}"]
    # A mount namespace of its own: what it mounts in the new root is gone with it, however it ends.
    _run(["unshare", "--mount", "--", *command, "bookworm", str(part), MIRROR])


def _set_up(part: Path, folder: Path) -> None:
    (part / "etc/cloud/cloud.cfg.d/90_launch.cfg").write_text(CLOUD_CONFIG)
    authority = make_authority(folder)
    for source in (authority, Path("/etc/ssl/certs/ca-certificates.crt")):
        # The maker's own certificates too: its mirror may stand behind a proxy that signs for itself.
        if source.is_file():
            name = "launch-test-cloud" if source == authority else "of-the-maker"
            (part / f"usr/local/share/ca-certificates/{name}.crt").write_bytes(source.read_bytes())
    shutil.copy("/etc/resolv.conf", part / "etc/resolv.conf")
    downloads = folder / "downloads"
    downloads.mkdir(exist_ok=True)
    _fetch_uv(downloads)
    mounts = 'mount --rbind /proc "$1/proc"; mount --rbind /dev "$1/dev"; mount --bind "$2" "$1/mnt"; '
    script = mounts + 'exec chroot "$1" sh -c "$3"'
    bundle = "/etc/ssl/certs/ca-certificates.crt"
    environment = {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")}
    environment |= {"SSL_CERT_FILE": bundle, "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    _run(["unshare", "--mount", "--", "sh", "-ec", script, "sh", str(part), str(downloads), SETUP], environment)
    # An instance has no way to the internet: a look-up ends at once where no server is named.
    (part / "etc/resolv.conf").write_text("")


def _fetch_uv(downloads: Path) -> None:
    binary = downloads / "uv-binary"
    if binary.is_file():
        return
    with tempfile.TemporaryDirectory() as folder:
        _run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, UV])
        wheel = next(Path(folder).glob("uv-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            name = next(each for each in archive.namelist() if each.endswith(".data/scripts/uv"))
            part = downloads / "uv-binary.part"
            part.write_bytes(archive.read(name))
            part.rename(binary)


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if said.returncode:
        sys.stderr.write(said.stdout[-4000:] + said.stderr[-4000:])
        raise subprocess.CalledProcessError(said.returncode, command[:4])


def main() -> NoReturn:
    """Makes the image, and prints where it lies."""
    print(make())
    raise SystemExit(0)


if __name__ == "__main__":
    main()
