"""`$LAUNCH_HOME/skypilot-aws`: the HOME of the SkyPilot server that serves machines on AWS, and nothing of Lambda's.

A HOME of its own, since SkyPilot sends the credentials of every cloud that it finds in one. No credential of this one
goes anywhere: SkyPilot is told so, and a machine on AWS ends itself without a key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

import yaml

from jobs.aws.account import Account, Keys
from jobs.home import Home
from jobs.lock import FileLock
from jobs.offer import Offer
from jobs.skypilot.folder import CATALOGUES, Folder, row_of, rows_of, write, write_table

STS_REGION = "us-east-1"
HOME_FOLDER = "skypilot-aws"
CONFIG = {"allowed_clouds": ["aws"], "aws": {"remote_identity": "NO_UPLOAD"}}
PLUGINS = {"plugins": [{"class": "jobs.skypilot.aws_plugin.AwsPlugin"}]}
VMS = (
    "InstanceType", "AcceleratorName", "AcceleratorCount", "vCPUs", "MemoryGiB", "GpuInfo", "Price", "SpotPrice",
    "Region", "AvailabilityZone", "Arch", "LocalDiskType", "NVMeSupported", "LocalDiskSize", "LocalDiskCount",
    "MaximumEfaInterfaces",
)  # fmt: skip
IMAGES = ("Tag", "Region", "OS", "OSVersion", "ImageId", "CreationDate")
QUOTAS = ("InstanceType", "OnDemandInstanceCode", "SpotInstanceCode")
ZONES = "abcdef"
"""A zone is called for its region and a letter; SkyPilot takes none that its catalogue does not list."""


@dataclass(frozen=True)
class AwsFolder(Folder):
    account: Account

    @property
    def credentials(self) -> Path:
        return self.root / ".aws" / "credentials"

    @property
    def vms(self) -> Path:
        return self.root / CATALOGUES / "aws" / "vms.csv"

    def prepare(self, lambda_key: str | None, catalogues: Path | None, offers: Iterable[Offer]) -> None:
        """The credentials of now, a configuration, and a catalogue with these offers.

        Raises:
            CredentialProblem, AwsProblem: AWS does not say whose the credentials are.
        """
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root.chmod(0o700)
        keys, identity = self.account.keys(), self.account.identity(STS_REGION)
        lines = ["[default]", f"aws_access_key_id = {keys.access}", f"aws_secret_access_key = {keys.secret}"]
        lines += [f"aws_session_token = {keys.token}"] if keys.token else []
        with FileLock(self.root / "folder.lock"):
            write(self.credentials, "\n".join([*lines, ""]), mode=0o600)
            # STS is asked there; of machines each request names its own.
            write(self.root / ".aws" / "config", f"[default]\nregion = {STS_REGION}\n")
            write(self.root / ".sky" / "config.yaml", yaml.safe_dump(CONFIG))
            write(self.root / ".sky" / "plugins.yaml", yaml.safe_dump(PLUGINS))
            self._write_catalogue(identity.user_id, [offer for offer in offers if offer.cloud == "aws"])

    def settings(self) -> str:
        """The credentials are left out: SkyPilot reads them again for each request."""
        return self._digest("AWS_ENDPOINT_URL", Path(__file__).with_name("aws_plugin.py"))

    def _write_catalogue(self, user_id: str, offers: list[Offer]) -> None:
        """All files that SkyPilot would fetch, so that it fetches none: those that it has not written it keeps."""
        folder = self.vms.parent
        rows = {(row["InstanceType"], row["AvailabilityZone"]): row for row in rows_of(self.vms, VMS)}
        for row in (row for offer in offers for row in _rows(offer)):
            rows.setdefault((row["InstanceType"], row["AvailabilityZone"]), row)
        write_table(self.vms, VMS, list(rows.values()))
        write_table(folder / "images.csv", IMAGES, [])  # a task names its image
        write_table(folder / "instance_quota_mapping.csv", QUOTAS, [])  # the quota was asked for before the create
        zones = sorted({row["AvailabilityZone"] for row in rows.values()})
        # SkyPilot's catalogue has the ids of zones, which an account sees under names; ours has the names.
        mapping = folder / f"az_mappings-{hashlib.md5(user_id.encode(), usedforsecurity=False).hexdigest()[:8]}.csv"
        write_table(
            mapping,
            ("AvailabilityZone", "AvailabilityZoneName"),
            [{"AvailabilityZone": zone, "AvailabilityZoneName": zone} for zone in zones],
        )
        gpus = sorted({row["AcceleratorName"] for row in rows.values() if row["AcceleratorName"]})
        common = self.root / CATALOGUES / "common"
        write_table(
            common / "accelerators.csv",
            ("AcceleratorName", "Clouds"),
            [{"AcceleratorName": gpu, "Clouds": "AWS"} for gpu in gpus],
        )
        write_table(common / "metadata.csv", ("GPU", "MemoryGB", "Manufacturer"), [{"GPU": gpu} for gpu in gpus])


def kept_keys(home: Home) -> Keys | None:
    """What the last machine was rented with: it ends it, where a driver that takes over was started without."""
    file = home.root / HOME_FOLDER / ".aws" / "credentials"
    parser = ConfigParser(interpolation=None)
    if not parser.read(file) or not parser.has_section("default"):
        return None
    kept = parser["default"]
    return Keys(kept["aws_access_key_id"], kept["aws_secret_access_key"], kept.get("aws_session_token"))


def _rows(offer: Offer) -> list[dict[str, str]]:
    needed = {"vCPUs": str(offer.cores or 1), "MemoryGiB": str(offer.ram_gib or 1), "Arch": offer.arch}
    row = row_of(offer) | needed
    return [row | {"AvailabilityZone": f"{offer.region}{letter}"} for letter in ZONES]
