"""The whole fake AWS of one test run: the services, and machines on a bridge of their own."""

from __future__ import annotations

from pathlib import Path

from jobs.aws.image import CURRENT, VOLTA
from tests.acceptance.aws_cloud.host import AwsMachine, layer
from tests.acceptance.aws_cloud.service import IMAGES, REGIONS, FakeAws
from tests.acceptance.lambda_cloud import rootfs
from tests.acceptance.lambda_cloud.network import Network
from tests.acceptance.program import Program, copy_small
from tests.catalogues import files

LIMIT_S = 600.0
IMAGE_COLUMNS = ("Tag", "Region", "OS", "OSVersion", "ImageId", "CreationDate")
P3_ROWS = (
    ("p3.2xlarge", "V100", 1, 8, 61, 3.06, 0.92),
    ("p3.8xlarge", "V100", 4, 32, 244, 12.24, 3.67),
    ("p3.16xlarge", "V100", 8, 64, 488, 24.48, 7.34),
)
"""As a catalogue of 2025 had them."""


class AwsWithMachines(FakeAws):
    """`FakeAws` whose instances are machines."""

    def __enter__(self) -> AwsWithMachines:
        image, self.network = rootfs.make(), Network()
        layer()
        self.make_machine = lambda order: AwsMachine(order, self.network, image)
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.network.close()


def write_catalogue(folder: Path, *, p3: bool = True) -> None:
    """SkyPilot's files of AWS: types with their prices, and images."""
    rows = files.aws_rows(REGIONS)
    if p3:
        rows += [
            {"InstanceType": kind, "AcceleratorName": gpu, "AcceleratorCount": count, "vCPUs": cpus,
             "MemoryGiB": memory, "Price": usd, "SpotPrice": spot, "Region": region,
             "AvailabilityZone": f"{region}-az1", "Arch": "x86_64", "GpuInfo": files.gpu_info(gpu)}
            for kind, gpu, count, cpus, memory, usd, spot in P3_ROWS
            for region in REGIONS
        ]  # fmt: skip
    files.write(folder / "aws" / "vms.csv", files.AWS, rows)
    images: list[dict[str, object]] = [
        {"Tag": tag, "Region": region, "ImageId": IMAGES[region]} for tag in (CURRENT, VOLTA) for region in REGIONS
    ]
    files.write(folder / "aws" / "images.csv", IMAGE_COLUMNS, images)


def make_renter(aws: FakeAws, folder: Path, demo: Path, state: Path | None = None) -> Program:
    """A person with the sample project, keys and a catalogue."""
    import shutil

    if state is not None:
        shutil.copytree(state, folder / "home/state")
    write_catalogue(folder / "home/.sky/catalogs/v8")
    copy_small(demo, folder / "project")
    # A machine of this cloud has no GPU, whatever it is sold as.
    environ = aws.environment() | {"LAUNCH_RENTED_DEVICE": "cpu"}
    return Program(folder / "home", folder / "project", environ)
