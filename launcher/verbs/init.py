"""`launch init`: writes a commented launch.toml from what it finds in the folder."""

from __future__ import annotations

import click


@click.command(name="init")
def init_command() -> int:
    """Write a commented launch.toml from what is found in this folder."""
    from pathlib import Path

    from artifacts.errors import UsageProblem
    from launcher.console import say
    from launcher.project import find, toml

    folder = Path.cwd()
    file = folder / "launch.toml"
    found = find(folder)
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(toml(found))
    except FileExistsError:
        raise UsageProblem(
            f"{file} exists already, and is left as it is.", next_step="edit it, or move it away."
        ) from None
    except OSError as error:
        raise UsageProblem(
            f"{file} cannot be written.", why=f"{error.strerror}.", next_step="cd to a folder that you can write."
        ) from None
    for name, path in found.items():
        say(f"found {name}: {path}")
    say(f"Wrote {file}. Read it, then: launch plan dpo")
    return 0
