"""Where SkyPilot's catalogue files lie. They are read, and never written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path


def catalogue_folder(environ: Mapping[str, str]) -> Path | None:
    """`$LAUNCH_CATALOGS`, or the newest version under SkyPilot's own folder; None where there is neither."""
    named = environ.get("LAUNCH_CATALOGS")
    if named:
        return Path(named).expanduser()
    versions = [
        (int(match[1]), path)
        for path in (Path.home() / ".sky" / "catalogs").glob("v*")
        if (match := re.fullmatch(r"v(\d+)", path.name))
    ]
    return max(versions)[1] if versions else None
