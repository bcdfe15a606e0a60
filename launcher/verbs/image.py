"""`launch image build` and `launch image push`: the trainer's image, with the engine of this machine."""

from __future__ import annotations

import click

_PLATFORMS = click.Choice(["cuda", "volta", "cpu"])
_ENGINE = click.Choice(["docker", "podman"])


@click.group(name="image")
def image_command() -> None:
    """Build or push the trainer's image. A cloud job needs neither: it takes a public PyTorch image, and its lock."""


@image_command.command(name="build", context_settings={"ignore_unknown_options": True})
@click.option("--platform-lock", "platform", type=_PLATFORMS, help="The pins: cuda (Turing and newer), volta, or cpu.")
@click.option("--base", metavar="IMAGE", help="The image that it starts from.")
@click.option("--tag", metavar="NAME", help="Its name; with a registry in it, `launch image push` can take it there.")
@click.option("--engine", type=_ENGINE, help="Instead of the first that answers.")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def build_command(
    platform: str | None, base: str | None, tag: str | None, engine: str | None, args: tuple[str, ...]
) -> int:
    """Build the image of a lock file. ARGS go to the engine as they are: `launch image build -- --no-cache`."""
    from jobs.engine import find_engine
    from jobs.image import build
    from jobs.pins import pins_for
    from launcher import machine
    from launcher.console import say

    if platform is None:
        cards = machine.gpus()
        platform = pins_for(cards[0][0] if cards else None).platform
    made = build(find_engine(engine), platform, tag=tag, base=base, args=args)
    say(f"{made} has the pins of {platform}.txt. On this machine: launch dpo --container; in a cloud, push it first.")
    return 0


@image_command.command(name="push")
@click.option("--tag", metavar="NAME", required=True, help="The name that it was built under, its registry in it.")
@click.option("--engine", type=_ENGINE, help="Instead of the first that answers.")
def push_command(tag: str, engine: str | None) -> int:
    """Push an image to the registry in its name."""
    from jobs.engine import find_engine
    from jobs.image import push
    from launcher.console import say

    push(find_engine(engine), tag)
    say(f"{tag} is at its registry. For cloud jobs: LAUNCH_IMAGE={tag}")
    return 0
