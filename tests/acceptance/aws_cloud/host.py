"""A machine of the fake AWS: one of the fake Lambda's, that powers itself off and has what SkyPilot wants on AWS."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from importlib import metadata
from pathlib import Path

from tests.acceptance.lambda_cloud import rootfs
from tests.acceptance.lambda_cloud.instances import Engine, NamespaceMachine
from tests.acceptance.lambda_cloud.network import Network
from tests.acceptance.lambda_cloud.provider import Order

# What SkyPilot installs on a machine of AWS beside that of the image (sky/setup_files/dependencies.py, `aws`), as it is
# in the environment of these tests. The image's own dateutil is too new for botocore.
PACKAGES = ("awscli", "boto3", "botocore", "s3transfer", "jmespath", "docutils", "rsa", "python-dateutil")
HIDDEN = ("python_dateutil-4.0.0.dist-info",)
SITE = "home/ubuntu/skypilot-runtime/lib/python3.11/site-packages"
UBUNTU = 1000
OFF = "etc/fake-cloud/powered-off"
# In systemd's place, of which these machines have nothing: it says what was asked for to whoever stands outside.
SYSTEMCTL = f"""\
#!/bin/sh
[ "$1" = poweroff ] || exit 0
mkdir -p /{Path(OFF).parent}
touch /{OFF}
"""


class AwsMachine(NamespaceMachine):
    """`Engine` has the layer with AWS's packages."""

    def __init__(self, order: Order, network: Network, image: Path) -> None:
        super().__init__(order, network, image, Engine(layer()))

    @property
    def powered_off(self) -> bool:
        """From inside, as the guard does."""
        return (self.folder / "disk" / OFF).exists()

    def _write_disk(self) -> None:
        super()._write_disk()
        self._put("usr/local/bin/systemctl", SYSTEMCTL)
        (self.folder / "disk/usr/local/bin/systemctl").chmod(0o755)


def layer() -> Path:
    """A folder that is laid over the machine image: made once, for the versions that are installed here."""
    versions = [f"{name}=={metadata.version(name)}" for name in PACKAGES]
    key = hashlib.sha256("\n".join([*versions, *HIDDEN, rootfs.recipe()]).encode()).hexdigest()[:12]
    made = rootfs.cache() / f"aws-{key}"
    with (rootfs.cache() / "aws.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.is_dir():
            part = made.with_name(f"{made.name}.part")
            if part.exists():
                shutil.rmtree(part)
            _fill(part)
            part.rename(made)
    return made


def _fill(part: Path) -> None:
    site = part / SITE
    site.mkdir(parents=True)
    for name in PACKAGES:
        for file in metadata.files(name) or []:
            if file.parts[0] != ".." and "examples" not in file.parts[:2] and file.locate().is_file():
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), target)
    for name in HIDDEN:
        os.mknod(site / name, 0o600 | 0o020000, 0)  # a whiteout of the file system that lays one over the other
    for path in (part / "home", *(part / "home").rglob("*")):
        if path != part / "home":
            os.chown(path, UBUNTU, UBUNTU, follow_symlinks=False)
