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
from importlib import import_module
from typing import Any

from sky.server.plugins import BasePlugin  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

from jobs.skypilot.adopt import AdoptOnly, Seen, adopt, register

ADDRESS = "https://cloud.lambda.ai"
"""Lambda's own; SkyPilot 0.14.1 still asks the older one. Both must be the list that `launch` sees."""


class AdoptFromLambda(AdoptOnly):
    """Lambda's provisioner without create and terminate."""

    @staticmethod
    def run_instances(region: str, cluster_name: str, cluster_name_on_cloud: str, config: Any) -> Any:  # noqa: ARG004
        """Waits until the one machine `{cluster_name_on_cloud}-head` is active, and takes it."""
        lambda_cloud: Any = import_module("sky.provision.lambda_cloud.instance")
        name = f"{cluster_name_on_cloud}-head"
        client = lambda_cloud.lambda_utils.LambdaCloudClient()

        def look() -> list[Seen]:
            listed = client.list_instances()
            return [Seen(one["id"], str(one["status"])) for one in listed if one.get("name") == name]

        return adopt(
            look,
            ready="active",
            coming="booting",
            wanted=f"named {name}; Lambda",
            cloud="lambda",
            region=region,
            cluster=cluster_name_on_cloud,
        )


class LaunchPlugin(BasePlugin):  # pyright: ignore[reportUntypedBaseClass]
    """Named in `plugins.yaml`."""

    def install(self, extension_context: Any) -> None:
        lambda_utils: Any = import_module("sky.provision.lambda_cloud.lambda_utils")
        address = os.environ.get("LAUNCH_LAMBDA_URL") or ADDRESS
        lambda_utils.API_ENDPOINT = address.rstrip("/") + "/api/v1"
        register(extension_context, "lambda_cloud", AdoptFromLambda)
