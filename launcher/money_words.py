"""What is said about money before anything happens."""

from __future__ import annotations

from launcher.settings import Settings


def no_budget_line(settings: Settings) -> str | None:
    """The first line where a cloud was named and no budget: nothing is bought, and how one would be."""
    if settings.budget is not None or settings.cloud in (None, "local"):
        return None
    return (
        f"--cloud {settings.cloud} without --budget buys nothing, so this runs on this machine. What it would cost "
        "there is not known: this version has no catalogue of prices."
    )
