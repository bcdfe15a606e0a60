"""`$LAUNCH_HOME/skypilot`: the HOME of our SkyPilot server. What a rented machine gets of credentials comes from here.

SkyPilot sends what it finds under its HOME. So this HOME holds the Lambda key, a key pair of its own, and nothing else
of the user's; his `~/.lambda_cloud` and `~/.sky` are read by others, and never written.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from jobs.lock import FileLock
from jobs.offer import Offer
from jobs.skypilot.problems import SkyPilotFailed

CATALOGUES = Path(".sky/catalogs/v8")
"""Where SkyPilot 0.14.1 looks (`CATALOG_SCHEMA_VERSION`). A CSV that it did not fetch itself is never overwritten."""
HEADER = (
    "InstanceType", "AcceleratorName", "AcceleratorCount", "vCPUs", "MemoryGiB", "Price", "Region", "GpuInfo",
    "SpotPrice",
)  # fmt: skip
CONFIG = {
    # Without this SkyPilot looks for the credentials of every cloud that it knows.
    "allowed_clouds": ["lambda"],
    # With credentials of AWS in reach it would copy them to machines of Lambda, too.
    "aws": {"remote_identity": "NO_UPLOAD"},
}
PLUGINS = {"plugins": [{"class": "jobs.skypilot.plugin.LaunchPlugin"}]}


@dataclass(frozen=True)
class Folder:
    """The folder, and what is in it."""

    root: Path
    user_hash: str

    @property
    def lambda_keys(self) -> Path:
        return self.root / ".lambda_cloud" / "lambda_keys"

    @property
    def private_key(self) -> Path:
        """Where SkyPilot looks for the key pair of `user_hash` before it makes one (sky/utils/auth_utils.py)."""
        return self.root / ".sky" / "clients" / self.user_hash / "ssh" / "sky-key"

    @property
    def vms(self) -> Path:
        return self.root / CATALOGUES / "lambda" / "vms.csv"

    def prepare(self, lambda_key: str | None, catalogues: Path | None, offers: Iterable[Offer]) -> None:
        """Writes all that the server reads. Safe beside a running server and beside another driver.

        `catalogues` is a folder with `lambda/vms.csv`, e.g. the user's `~/.sky/catalogs/v8`. Offers of Lambda that it
        does not list are added: SkyPilot refuses types and regions that are not in its catalogue.
        """
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root.chmod(0o700)
        with FileLock(self.root / "folder.lock"):
            if lambda_key is not None:
                # SkyPilot splits the line at " = ", spaces and all.
                write(self.lambda_keys, f"api_key = {lambda_key}\n", mode=0o600)
            write(self.root / ".sky" / "config.yaml", yaml.safe_dump(CONFIG))
            write(self.root / ".sky" / "plugins.yaml", yaml.safe_dump(PLUGINS))
            self._catalogues(catalogues, list(offers))

    def settings(self) -> str:
        """A digest of what a running server has read once and does not read again."""
        return self._digest("LAUNCH_LAMBDA_URL", self.lambda_keys, Path(__file__).with_name("plugin.py"))

    def _digest(self, variable: str, *files: Path) -> str:
        digest = hashlib.sha256()
        for file in (*files, self.vms, self.root / ".sky" / "config.yaml", Path(__file__).with_name("adopt.py")):
            digest.update(hashlib.sha256(file.read_bytes() if file.exists() else b"").digest())
        digest.update(os.environ.get(variable, "").encode())
        return digest.hexdigest()

    def key_pair(self) -> tuple[Path, str]:
        """SkyPilot's own key pair for this user hash, made here if it is not there: private key file, public key line.

        RSA with 2048 bits in PEM, as SkyPilot makes it; one that stands in its place is taken as it is.

        Raises:
            SkyPilotFailed: there is no ssh-keygen, or it failed.
        """
        place = self.private_key
        with FileLock(self.root / "folder.lock"):
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with tempfile.TemporaryDirectory(dir=place.parent, prefix=".new-") as scratch:
                    made = Path(scratch) / "sky-key"
                    _keygen(made)
                    # The private key last: where it stands, SkyPilot wants the public one beside it.
                    made.with_suffix(".pub").replace(place.with_suffix(".pub"))
                    made.replace(place)
        return place, place.with_suffix(".pub").read_text(encoding="utf-8").strip()

    def _catalogues(self, source: Path | None, offers: list[Offer]) -> None:
        listed = rows_of(source / "lambda" / "vms.csv" if source else None)
        rows = {(row["InstanceType"], row["Region"]): row for row in listed}
        # Rows that another driver has added stay: its server request may still be under way.
        for row in rows_of(self.vms) + [row_of(offer) for offer in offers if offer.cloud == "lambda" and offer.region]:
            rows.setdefault((row["InstanceType"], row["Region"]), row)
        if rows:
            write_table(self.vms, HEADER, list(rows.values()))
        common = self.root / CATALOGUES / "common"
        for name, header in (("accelerators", ("AcceleratorName", "Clouds")),
                             ("metadata", ("GPU", "MemoryGB", "Manufacturer"))):  # fmt: skip
            file = common / f"{name}.csv"
            theirs = source / "common" / file.name if source else None
            if theirs and theirs.is_file():
                common.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(theirs, common / f".{file.name}")
                (common / f".{file.name}").replace(file)
            elif not file.exists():
                # SkyPilot would fetch it, without a time-out. It asks there for spellings and sizes only.
                gpus = sorted({row["AcceleratorName"] for row in rows.values() if row["AcceleratorName"]})
                write_table(file, header, [{header[0]: gpu, "Clouds": "Lambda"} for gpu in gpus])


def _keygen(file: Path) -> None:
    argv = ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-C", "launch", "-f", str(file)]
    try:
        subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        raise SkyPilotFailed(
            "No SSH key could be made",
            why=str(getattr(error, "stderr", None) or error).strip(),
            next_step="install OpenSSH's client (Debian: apt install openssh-client), then run the same command again",
        ) from error


def write(file: Path, text: str, mode: int = 0o644) -> None:
    """Writes beside, then renames in: a server may read the file at any moment."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = file.with_name(f".{file.name}.new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as stream:
        stream.write(text)
    beside.replace(file)


def write_table(file: Path, header: tuple[str, ...], rows: list[dict[str, str]]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, header, restval="", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write(file, text.getvalue())


def rows_of(file: Path | None, header: tuple[str, ...] = HEADER) -> list[dict[str, str]]:
    """Rows of a catalogue, in these columns; none where there is no file with SkyPilot's."""
    if file is None or not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8-sig") as stream:
        table = csv.DictReader(stream)
        if not {"InstanceType", "Region"} <= set(table.fieldnames or ()):
            return []
        return [{key: value or "" for key, value in row.items() if key in header} for row in table]


def gpu_info(offer: Offer) -> str:
    """As SkyPilot's catalogues say it: a Python literal."""
    if not offer.gpu:
        return ""
    gpu_mib = round(offer.vram_gib * 1024)
    info = {
        "Gpus": [{"Name": offer.gpu, "Count": offer.gpus, "MemoryInfo": {"SizeInMiB": gpu_mib}}],
        "TotalGpuMemoryInMiB": gpu_mib * offer.gpus,
    }
    return repr(info)


def row_of(offer: Offer) -> dict[str, str]:
    """As SkyPilot's catalogues have it."""
    return {
        "InstanceType": offer.instance_type,
        "AcceleratorName": offer.gpu or "",
        "AcceleratorCount": str(float(offer.gpus)) if offer.gpu else "",
        "vCPUs": str(offer.cores or ""),
        "MemoryGiB": str(offer.ram_gib or ""),
        "Price": str(offer.price_per_hour),
        "Region": offer.region or "",
        "GpuInfo": gpu_info(offer),
        "SpotPrice": "",
    }
