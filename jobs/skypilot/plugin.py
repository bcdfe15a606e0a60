"""Runs inside our SkyPilot server, by SkyPilot's own plugin hook (`~/.sky/plugins.yaml` of the server's HOME).

It leaves SkyPilot what it does well and takes three things away from it:

- Creating machines. SkyPilot makes a new one wherever its list does not show the old one: where the list lags, or where
  the machine has met its deadline a moment ago. That one would have no guard. Here it adopts or fails.
- Ending machines. After a failure SkyPilot terminates by name and does not look whether that happened. `launch` ends
  its machines itself, by id. (Autodown on the machine, the last line of defence, has no plugin and stays as it is.)
- A queue process on a fixed port beside the server's (50011 for a default server): requests queue in the server.
"""

from __future__ import annotations

import os
import time
from importlib import import_module
from typing import Any

from sky.server.plugins import BasePlugin  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

ADDRESS = "https://cloud.lambda.ai"
"""Lambda's own; SkyPilot 0.14.1 still asks the older one. Both must be the list that `launch` sees."""
POLL_S = 1.0
BOOT_LIMIT_S = 600.0


class AdoptOnly:
    """Lambda's provisioner without create and terminate. What is not defined here stays SkyPilot's own."""

    @staticmethod
    def run_instances(region: str, cluster_name: str, cluster_name_on_cloud: str, config: Any) -> Any:  # noqa: ARG004
        """Waits until the one machine `{cluster_name_on_cloud}-head` is active, and takes it."""
        lambda_cloud: Any = import_module("sky.provision.lambda_cloud.instance")
        common: Any = import_module("sky.provision.common")
        errors: Any = import_module("sky.exceptions")
        name = f"{cluster_name_on_cloud}-head"
        client = lambda_cloud.lambda_utils.LambdaCloudClient()
        give_up = time.monotonic() + BOOT_LIMIT_S
        while True:
            found = [one for one in client.list_instances() if one.get("name") == name]
            states = sorted(str(one["status"]) for one in found)
            if states == ["active"]:
                return common.ProvisionRecord(
                    provider_name="lambda",
                    cluster_name=cluster_name_on_cloud,
                    region=region,
                    zone=None,
                    head_instance_id=found[0]["id"],
                    resumed_instance_ids=[],
                    created_instance_ids=[],
                )
            if states != ["booting"] or time.monotonic() > give_up:
                seen = ", ".join(states) or "none"
                # This error, alone, makes SkyPilot skip its own terminate.
                raise errors.NoClusterLaunchedError(
                    f"launch adopts exactly one active machine named {name}; Lambda lists: {seen}"
                )
            time.sleep(POLL_S)

    @staticmethod
    def terminate_instances(cluster_name_on_cloud: str, *of_sky: Any, **named: Any) -> None:  # noqa: ARG004
        print(f"{cluster_name_on_cloud}: not terminated by SkyPilot; launch ends its machines by id", flush=True)


class LaunchPlugin(BasePlugin):  # pyright: ignore[reportUntypedBaseClass]
    """Named in `plugins.yaml`."""

    def install(self, extension_context: Any) -> None:
        queues: Any = import_module("sky.server.requests.queues.base")
        extension_context.register_queue_backend_factory(queues.LocalQueueFactory())
        lambda_utils: Any = import_module("sky.provision.lambda_cloud.lambda_utils")
        address = os.environ.get("LAUNCH_LAMBDA_URL") or ADDRESS
        lambda_utils.API_ENDPOINT = address.rstrip("/") + "/api/v1"
        provision: Any = import_module("sky.provision")
        provision.register_provisioner("lambda_cloud", AdoptOnly)
