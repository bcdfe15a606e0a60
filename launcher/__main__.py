"""`launch`: the way in. Every error becomes one message on standard error and the exit code of the contract."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import NoReturn


def main() -> None:
    # Imports make many objects and no garbage: looking for it among them is a tenth of `launch status`.
    gc.set_threshold(50_000)
    _refuse_strangers()
    import click

    from artifacts.errors import LaunchError
    from launcher.console import say
    from train.errors import TrainError

    try:
        from launcher.cli import launch

        code = launch.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.ClickException as error:
        error.show()
        code = 2
    except (LaunchError, TrainError) as error:
        say(f"launch: {error}")
        code = error.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        say("launch: interrupted.")
        code = 130
    except BrokenPipeError:  # `launch logs | head`: the reader has seen enough
        code = 0
    _remind()
    _leave(code if isinstance(code, int) else 0)


def _remind() -> None:
    """Whatever was typed, a machine that may cost money and could not be ended is said."""
    from jobs.home import root_of
    from jobs.unended import lines
    from launcher.console import say

    for line in lines(root_of(os.environ)):
        say(f"launch: {line}")


def _leave(code: int) -> NoReturn:
    """Ends the process without taking the interpreter apart, which would cost as much as the query of `status` did."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        pass
    os._exit(code)


def _refuse_strangers() -> None:
    """Our other packages have names that others use as well; say so rather than fail somewhere inside."""
    from importlib.util import find_spec

    here = Path(__file__).resolve().parents[1]
    for name in ("jobs", "artifacts", "train"):
        spec = find_spec(name)
        found = Path(spec.origin).resolve().parents[1] if spec and spec.origin else None
        if found != here:
            sys.exit(
                f"launch: the package {name} that Python finds is not this program's own "
                f"({spec.origin if spec else 'none'}).\n"
                "Next: install launch as a tool of its own: uv tool install dpo-launch, or pipx install dpo-launch."
            )


if __name__ == "__main__":
    main()
