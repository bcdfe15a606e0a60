"""What a person types and sees, up to the moment of spending."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("dpo-launch")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+checkout"
