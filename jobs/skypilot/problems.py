"""What can go wrong between a driver and its SkyPilot."""

from __future__ import annotations

from artifacts.errors import LaunchError


class SkyPilotFailed(LaunchError):
    """SkyPilot is missing, its server does not start, or a request failed; `why` is in its own words."""


class RequestLost(SkyPilotFailed):
    """The server that had taken the request is gone, and what came of the request is unknown.

    `start()` again, then `launch()` again: it adopts the same machine.
    """
