"""The whole fake cloud of one test run: provider, API on loopback and bridge, and machines made of namespaces."""

from __future__ import annotations

import os
import shutil

from tests.acceptance.lambda_cloud import authority, rootfs
from tests.acceptance.lambda_cloud.api import Api
from tests.acceptance.lambda_cloud.faults import Faults
from tests.acceptance.lambda_cloud.instances import Engine, NamespaceMachine
from tests.acceptance.lambda_cloud.network import Network
from tests.acceptance.lambda_cloud.provider import DEFAULT_KEY, Provider

NEEDED = ("debootstrap", "ip", "unshare", "nsenter", "ssh", "rsync")


def cannot_run() -> str | None:
    """Why there can be no fake cloud here; None where there can."""
    if os.geteuid() != 0:
        return "the fake cloud needs root (network namespaces, overlay mounts)"
    missing = [each for each in NEEDED if shutil.which(each) is None]
    return f"the fake cloud needs {', '.join(missing)}" if missing else None


class Cloud:
    """One cloud with a bridge of its own.

    Args:
        engine: the container engine of its machines; None: they have none.

    Attributes:
        key: the first account's.
        url: for this machine's processes.
        url_on_host: for those on an instance, which finds Lambda's https addresses at the same server.
    """

    key = DEFAULT_KEY

    def __init__(self, engine: Engine | None = None) -> None:
        image = rootfs.make()
        self.network = Network()
        self.provider = Provider(Faults(), lambda order: NamespaceMachine(order, self.network, image, engine))
        self.api = Api(self.provider)
        self.faults = self.api.faults
        self.meter = self.api.meter
        self.url = self.api.listen("127.0.0.1")
        self.url_on_host = self.api.listen(self.network.address)
        certificate = self.network.folder / "server.pem"
        authority.make_certificate(rootfs.cache(), self.network.address, certificate)
        self.url_https = self.api.listen(self.network.address, 443, certificate=certificate)

    def environment(self) -> dict[str, str]:
        """For the program under test."""
        return {
            "LAUNCH_LAMBDA_URL": self.url,
            "LAUNCH_LAMBDA_URL_ON_HOST": self.url_on_host,
            "LAMBDA_API_KEY": self.key,
        }

    def machine(self, name: str) -> NamespaceMachine:
        """That of the one instance of this name.

        Raises:
            LookupError: there is none, or there are several.
        """
        found = [each.machine for each in self.provider.everything() if each.name == name]
        if len(found) != 1 or not isinstance(found[0], NamespaceMachine):
            raise LookupError(f"{len(found)} machines are named {name}")
        return found[0]

    def reset(self) -> None:
        """Nothing runs, nothing goes wrong, nothing was asked yet. The meter keeps what it read."""
        self.provider.reset()
        self.api.forget()

    def close(self) -> None:
        """Ends every instance and takes the bridge away."""
        self.provider.reset()
        self.api.close()
        self.network.close()

    def __enter__(self) -> Cloud:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
