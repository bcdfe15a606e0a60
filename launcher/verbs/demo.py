"""`launch demo`: makes a small sample project to try all of it at no cost."""

from __future__ import annotations

import click


@click.command(name="demo")
@click.argument("folder", default="demo", type=click.Path())
def demo_command(folder: str) -> int:
    """Make a small sample project (default: a folder named demo) to try all of it at no cost."""
    from pathlib import Path

    from artifacts.errors import UsageProblem
    from launcher.console import say
    from launcher.demo.project import write_project

    place = Path(folder).expanduser().absolute()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UsageProblem(f"{place} exists already, and is left as it is.", next_step="launch demo ANOTHER_FOLDER")
    try:
        write_project(place)
    except OSError as error:
        raise UsageProblem(
            f"The sample project cannot be written to {place}.",
            why=f"{error.strerror}.",
            next_step="launch demo ANOTHER_FOLDER",
        ) from None
    say(f"A sample project is in {place}: synthetic notes, a small Stage-A model that hallucinates, preference pairs.")
    say(f"Next: cd {_quoted(place)} && launch dpo")
    return 0


def _quoted(place: object) -> str:
    import shlex

    return shlex.quote(str(place))
