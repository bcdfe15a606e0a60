"""The one place that talks to SkyPilot: a driver's process speaks to a SkyPilot server of our own.

`SkyPilot` is what a driver uses. Nothing here imports `sky`, except the two plugins, which run inside that server.
"""

from jobs.skypilot.client import SkyPilot
from jobs.skypilot.problems import RequestLost, SkyPilotFailed

__all__ = ["RequestLost", "SkyPilot", "SkyPilotFailed"]
