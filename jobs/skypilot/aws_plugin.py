"""Runs inside our SkyPilot server for AWS, by SkyPilot's own plugin hook; what `plugin.py` is for Lambda.

Stock SkyPilot makes a role, a security group that is open to the world, and a machine without a guard. Here it takes
the machine that `launch` has made, by the tags under which it would have made it, and makes and ends nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sky.server.plugins import BasePlugin  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

from jobs.skypilot.adopt import AdoptOnly, Seen, adopt, register

STATES = ["pending", "running", "stopping", "stopped"]


class AdoptFromAws(AdoptOnly):
    """AWS's provisioner without create and terminate."""

    @staticmethod
    def bootstrap_instances(region: str, cluster_name: str, config: Any) -> Any:  # noqa: ARG004
        """No role and no security group: `launch` has made what the machine needs, and it needs no role."""
        return config

    @staticmethod
    def run_instances(region: str, cluster_name: str, cluster_name_on_cloud: str, config: Any) -> Any:  # noqa: ARG004
        """Waits until the one machine with the cluster's tag is running, and takes it."""
        aws: Any = import_module("sky.adaptors.aws")
        filters = [
            {"Name": "tag:ray-cluster-name", "Values": [cluster_name_on_cloud]},
            {"Name": "instance-state-name", "Values": STATES},
        ]

        def look() -> list[Seen]:
            listed = aws.client("ec2", region_name=region).describe_instances(Filters=filters)["Reservations"]
            return [
                Seen(one["InstanceId"], str(one["State"]["Name"]), one["Placement"]["AvailabilityZone"])
                for group in listed
                for one in group["Instances"]
            ]

        return adopt(
            look,
            ready="running",
            coming="pending",
            wanted=f"of {cluster_name_on_cloud}; AWS",
            cloud="aws",
            region=region,
            cluster=cluster_name_on_cloud,
        )

    @staticmethod
    def cleanup_ports(cluster_name_on_cloud: str, *of_sky: Any, **named: Any) -> None:
        """None was opened."""


class AwsPlugin(BasePlugin):  # pyright: ignore[reportUntypedBaseClass]
    """Named in `plugins.yaml`."""

    def install(self, extension_context: Any) -> None:
        register(extension_context, "aws", AdoptFromAws)
