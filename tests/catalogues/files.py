"""SkyPilot catalogue files for tests, small or of full size. The prices are made up."""

from __future__ import annotations

import csv
from pathlib import Path
from random import Random

LAMBDA = ("InstanceType", "AcceleratorName", "AcceleratorCount", "vCPUs", "MemoryGiB", "Price", "Region", "GpuInfo",
          "SpotPrice")  # fmt: skip
AWS = ("InstanceType", "AcceleratorName", "AcceleratorCount", "vCPUs", "MemoryGiB", "GpuInfo", "Price", "SpotPrice",
       "Region", "AvailabilityZone", "Arch", "LocalDiskType", "NVMeSupported", "LocalDiskSize", "LocalDiskCount",
       "MaximumEfaInterfaces")  # fmt: skip
GIB = {"A100": 40, "A100-80GB": 80, "A10": 24, "A10G": 24, "H100": 80, "GH200": 96, "V100": 16, "T4": 16, "L4": 24,
       "L40S": 48}  # fmt: skip

ROWS_LAMBDA = (
    ("gpu_1x_a10", "A10", 1, 30, 200, 1.29),
    ("gpu_1x_a100_sxm4", "A100", 1, 30, 200, 1.99),
    ("gpu_8x_a100", "A100", 8, 124, 1800, 15.92),
    ("gpu_1x_h100_pcie", "H100", 1, 26, 200, 3.29),
    ("gpu_1x_gh200", "GH200", 1, 64, 432, 2.29),
)
ROWS_AWS = (
    ("g5.xlarge", "A10G", 1, 4, 16, 1.006, 0.45),
    ("g6e.xlarge", "L40S", 1, 4, 32, 1.861, 0.80),
    ("p4d.24xlarge", "A100", 8, 96, 1152, 21.96, 9.0),
    ("p5.48xlarge", "H100", 8, 192, 2048, 55.04, 20.0),
    ("m7i.large", "", 0, 2, 8, 0.10, 0.04),
)


def gpu_info(gpu: str) -> str:
    return repr({"Gpus": [{"Name": gpu, "MemoryInfo": {"SizeInMiB": GIB[gpu] * 1024}}]}) if gpu else ""


def write(file: Path, header: tuple[str, ...], rows: list[dict[str, object]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, header, restval="")
        table.writeheader()
        table.writerows(rows)
    return file


def lambda_rows(regions: tuple[str, ...] = ("us-east-1", "us-west-2")) -> list[dict[str, object]]:
    return [
        {"InstanceType": kind, "AcceleratorName": gpu, "AcceleratorCount": count, "vCPUs": cpus, "MemoryGiB": memory,
         "Price": usd, "Region": region, "GpuInfo": gpu_info(gpu)}
        for kind, gpu, count, cpus, memory, usd in ROWS_LAMBDA
        for region in regions
    ]  # fmt: skip


def aws_rows(regions: tuple[str, ...] = ("us-east-1", "eu-west-1"), zones: int = 2) -> list[dict[str, object]]:
    return [
        {"InstanceType": kind, "AcceleratorName": gpu, "AcceleratorCount": count or "", "vCPUs": cpus,
         "MemoryGiB": memory, "Price": usd, "SpotPrice": spot + zone / 100, "Region": region,
         "AvailabilityZone": f"{region}-az{zone}", "Arch": "x86_64", "GpuInfo": gpu_info(gpu)}
        for kind, gpu, count, cpus, memory, usd, spot in ROWS_AWS
        for region in regions
        for zone in range(zones)
    ]  # fmt: skip


def write_small(folder: Path) -> Path:
    """`folder` as `$LAUNCH_CATALOGS`, with both clouds."""
    write(folder / "lambda" / "vms.csv", LAMBDA, lambda_rows())
    write(folder / "aws" / "vms.csv", AWS, aws_rows())
    return folder


def write_full_size(folder: Path, rows: int = 40_000) -> Path:
    """As many rows as AWS's catalogue has: some 700 types, a tenth of them with GPUs, in zones of 30 regions."""
    random = Random(1)
    write(folder / "lambda" / "vms.csv", LAMBDA, lambda_rows(tuple(f"region-{i}" for i in range(17))))
    names = [name for name in GIB if name != "GH200"]
    made: list[dict[str, object]] = []
    kind = 0
    while len(made) < rows:
        kind += 1
        gpu = random.choice(names) if kind % 10 == 0 else ""
        count = random.choice((1, 4, 8)) if gpu else ""
        usd = random.uniform(0.8, 3) * (count or 0.1)
        made += [
            {"InstanceType": f"t{kind}.xlarge", "AcceleratorName": gpu, "AcceleratorCount": count, "vCPUs": 8,
             "MemoryGiB": 64, "Price": round(usd * (1 + region / 100), 4), "SpotPrice": round(usd / 3, 4),
             "Region": f"region-{region}", "AvailabilityZone": f"region-{region}-az{zone}", "Arch": "x86_64",
             "GpuInfo": gpu_info(gpu)}
            for region in range(30)
            for zone in range(2)
        ]  # fmt: skip
    write(folder / "aws" / "vms.csv", AWS, made[:rows])
    return folder
