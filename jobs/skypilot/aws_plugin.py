"""Runs inside our SkyPilot server for AWS, by SkyPilot's own plugin hook; what `plugin.py` is for Lambda.

Stock SkyPilot makes a role, a security group that is open to the world, and a machine without a guard. Here it takes
the machine that `launch` has made, by the tags under which it would have made it, and makes and ends nothing.
"""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any

from sky.server.plugins import BasePlugin  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

POLL_S = 1.0
BOOT_LIMIT_S = 600.0
STATES = ["pending", "running", "stopping", "stopped"]


class AdoptOnly:
    """AWS's provisioner without create and terminate. What is not defined here stays SkyPilot's own."""

    @staticmethod
    def bootstrap_instances(region: str, cluster_name: str, config: Any) -> Any:  # noqa: ARG004
        """No role and no security group: `launch` has made what the machine needs, and it needs no role."""
        return config

    @staticmethod
    def run_instances(region: str, cluster_name: str, cluster_name_on_cloud: str, config: Any) -> Any:  # noqa: ARG004
        """Waits until the one machine with the cluster's tag is running, and takes it."""
        aws: Any = import_module("sky.adaptors.aws")
        common: Any = import_module("sky.provision.common")
        errors: Any = import_module("sky.exceptions")
        give_up = time.monotonic() + BOOT_LIMIT_S
        filters = [
            {"Name": "tag:ray-cluster-name", "Values": [cluster_name_on_cloud]},
            {"Name": "instance-state-name", "Values": STATES},
        ]
        while True:
            listed = aws.client("ec2", region_name=region).describe_instances(Filters=filters)["Reservations"]
            found = [each for group in listed for each in group["Instances"]]
            states = sorted(str(each["State"]["Name"]) for each in found)
            if states == ["running"]:
                return common.ProvisionRecord(
                    provider_name="aws",
                    cluster_name=cluster_name_on_cloud,
                    region=region,
                    zone=found[0]["Placement"]["AvailabilityZone"],
                    head_instance_id=found[0]["InstanceId"],
                    resumed_instance_ids=[],
                    created_instance_ids=[],
                )
            if states != ["pending"] or time.monotonic() > give_up:
                seen = ", ".join(states) or "none"
                # This error, alone, makes SkyPilot skip its own terminate.
                raise errors.NoClusterLaunchedError(
                    f"launch adopts exactly one running machine of {cluster_name_on_cloud}; AWS lists: {seen}"
                )
            time.sleep(POLL_S)

    @staticmethod
    def terminate_instances(cluster_name_on_cloud: str, *of_sky: Any, **named: Any) -> None:  # noqa: ARG004
        print(f"{cluster_name_on_cloud}: not terminated by SkyPilot; launch ends its machines by id", flush=True)

    @staticmethod
    def cleanup_ports(cluster_name_on_cloud: str, *of_sky: Any, **named: Any) -> None:
        """None was opened."""


class AwsPlugin(BasePlugin):  # pyright: ignore[reportUntypedBaseClass]
    """Named in `plugins.yaml`."""

    def install(self, extension_context: Any) -> None:
        queues: Any = import_module("sky.server.requests.queues.base")
        extension_context.register_queue_backend_factory(queues.LocalQueueFactory())
        provision: Any = import_module("sky.provision")
        provision.register_provisioner("aws", AdoptOnly)
