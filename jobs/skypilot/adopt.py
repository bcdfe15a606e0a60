"""What both plugins put in the place of SkyPilot's create and terminate: a machine is taken as `launch` made it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

POLL_S = 1.0
BOOT_LIMIT_S = 600.0


@dataclass(frozen=True)
class Seen:
    """A machine that the cloud lists under the name."""

    id: str
    state: str
    zone: str | None = None


def adopt(
    look: Callable[[], list[Seen]], *, ready: str, coming: str, wanted: str, cloud: str, region: str, cluster: str
) -> Any:
    """SkyPilot's record of the one machine that `look` finds, once its state is `ready`.

    `coming` is the state before it, `wanted` says to a person what is looked for.
    """
    common: Any = import_module("sky.provision.common")
    errors: Any = import_module("sky.exceptions")
    give_up = time.monotonic() + BOOT_LIMIT_S
    while True:
        found = look()
        states = sorted(one.state for one in found)
        if states == [ready]:
            return common.ProvisionRecord(
                provider_name=cloud,
                cluster_name=cluster,
                region=region,
                zone=found[0].zone,
                head_instance_id=found[0].id,
                resumed_instance_ids=[],
                created_instance_ids=[],
            )
        if states != [coming] or time.monotonic() > give_up:
            # This error, alone, makes SkyPilot skip its own terminate.
            raise errors.NoClusterLaunchedError(
                f"launch adopts exactly one {ready} machine {wanted} lists: {', '.join(states) or 'none'}"
            )
        time.sleep(POLL_S)


class AdoptOnly:
    """A provisioner without terminate. What is not defined here or below stays SkyPilot's own."""

    @staticmethod
    def terminate_instances(cluster_name_on_cloud: str, *of_sky: Any, **named: Any) -> None:  # noqa: ARG004
        print(f"{cluster_name_on_cloud}: not terminated by SkyPilot; launch ends its machines by id", flush=True)


def register(extension_context: Any, cloud: str, provisioner: type[AdoptOnly]) -> None:
    """Requests queue in the server itself, and `provisioner` serves `cloud` (SkyPilot's name of it)."""
    queues: Any = import_module("sky.server.requests.queues.base")
    extension_context.register_queue_backend_factory(queues.LocalQueueFactory())
    provision: Any = import_module("sky.provision")
    provision.register_provisioner(cloud, provisioner)
