"""The machine image that a GPU wants: Ubuntu with NVIDIA's driver, Docker and NVIDIA's container toolkit.

SkyPilot's own images where its catalogue lists them, since they hold its runtime, too; else AWS's Deep Learning Base
image. Volta wants the proprietary driver: the open kernel module of the newer images begins with Turing.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import gpus
from jobs.aws.account import Account
from jobs.aws.problems import asking
from jobs.backends import OfferFailed
from jobs.catalogues import catalogue_folder

CURRENT, VOLTA = "skypilot:custom-gpu-ubuntu-cuda13", "skypilot:custom-gpu-ubuntu"
"""Tags of SkyPilot 0.14.1 (`sky/clouds/aws.py`): driver 580 with CUDA 13; driver 535, proprietary, with CUDA 12."""
TURING = (7, 5)
DEEP_LEARNING = "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) *"
FETCH = "sky launch --dryrun --infra aws --gpus V100:1 (with SkyPilot installed) fetches SkyPilot's list of images"


@dataclass(frozen=True)
class Image:
    id: str
    root_device: str
    size_gib: int
    """Of its own disk: the least that a root volume made from it can have."""


def image_for(account: Account, gpu: str | None, region: str) -> Image:
    """The image for `gpu` in `region`.

    Raises:
        OfferFailed: there is none.
        CredentialProblem, AwsProblem: AWS could not be asked.
    """
    card = gpus.find(gpu) if gpu else None
    volta = card is not None and card.compute_capability < TURING
    listed = _listed(account.environ, VOLTA if volta else CURRENT, region)
    client = account.client("ec2", region)
    with asking(region):
        if listed:
            found: Any = client.describe_images(ImageIds=[listed])["Images"]
        elif volta:
            raise OfferFailed(f"no image with a driver for {gpu} is known in {region}", why=f"{FETCH}.")
        else:
            filters = [{"Name": "name", "Values": [DEEP_LEARNING]}, {"Name": "architecture", "Values": ["x86_64"]}]
            found = client.describe_images(Owners=["amazon"], Filters=filters)["Images"]
        newest: Any = max(found, key=lambda one: str(one.get("CreationDate", "")), default=None)
        if newest is None:
            raise OfferFailed(f"AWS has no image {listed or DEEP_LEARNING} in {region}")
        return _image(newest)


def _image(found: Any) -> Image:
    root = str(found.get("RootDeviceName") or "/dev/sda1")
    disks: list[Any] = found.get("BlockDeviceMappings", [])
    size = max((int(disk["Ebs"]["VolumeSize"]) for disk in disks if disk.get("DeviceName") == root), default=0)
    return Image(str(found["ImageId"]), root, size)


def _listed(environ: Mapping[str, str], tag: str, region: str) -> str | None:
    """The image of that tag in SkyPilot's `aws/images.csv`; None without such a file or row."""
    folder = catalogue_folder(environ)
    file = folder / "aws" / "images.csv" if folder else None
    if file is None or not file.is_file():
        return None
    return next((row["ImageId"] for row in _rows(file) if (row.get("Tag"), row.get("Region")) == (tag, region)), None)


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        return [row for row in csv.DictReader(stream) if row.get("ImageId")]
