"""A plugin for a stock SkyPilot server, by its own hook: it asks the fake cloud in place of Lambda, no more."""

from __future__ import annotations

from sky.provision.lambda_cloud import lambda_utils
from sky.server.plugins import BasePlugin, ExtensionContext


class FakeLambda(BasePlugin):
    """Named in the file that `stock_sky.py` writes."""

    def __init__(self, address: str) -> None:
        self._address = address

    def install(self, extension_context: ExtensionContext) -> None:
        """SkyPilot's functions read this name at each request."""
        lambda_utils.API_ENDPOINT = f"{self._address}/api/v1"
