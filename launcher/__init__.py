"""What a person types and sees, up to the moment of spending."""

from __future__ import annotations


def version() -> str:
    """The installed version; asked for only when it is shown, since reading package metadata takes 40 ms."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("dpo-launch")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0+checkout"
