"""The shared flags of a method's verb, of its plan and of `launch estimate`, made from the fields of `Settings`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from artifacts.errors import UsageProblem
from launcher.methods import ANY_HELP, HELP, has
from launcher.settings import ON_OFF, Settings
from train.config import Method

F = TypeVar("F", bound=Callable[..., Any])


def job_options(method: Method = "dpo", only: Mapping[str, str] | None = None) -> Callable[[F], F]:
    """Adds a flag for each field of `Settings` that has one and that the method has; or for the fields of `only`, with
    their metavars.

    Values stay text: `Settings` checks them all alike.
    """

    words = HELP[method] if only is None else ANY_HELP

    def add(command: F) -> F:
        for name, field in reversed(Settings.model_fields.items()):
            extra = cast("dict[str, str | None]", field.json_schema_extra)
            metavar = extra["metavar"] if only is None else only.get(name)
            if metavar is None or not has(method, name):
                continue
            said = words.get(name, field.description)
            word = f"--{name.replace('_', '-')}"
            if metavar == "":
                option = click.option(word, name, is_flag=True, default=None, help=said)
            elif metavar == ON_OFF:
                option = click.option(f"{word}/--no-{word[2:]}", name, default=None, help=said)
            else:
                option = click.option(word, name, metavar=metavar, help=said, type=str)
            command = option(command)
        if only is None:
            # Reserved by the contract: said to be so, rather than "no such option".
            for word in ("--spot", "--bucket"):
                reserved = click.option(
                    word, is_flag=word == "--spot", expose_value=False, hidden=True, callback=_reserved
                )
                command = reserved(command)
        return command

    return add


def _reserved(_: click.Context, parameter: click.Parameter, value: object) -> None:
    if value:
        raise UsageProblem(
            f"{parameter.opts[0]} is reserved: it does not work yet.", next_step=f"leave {parameter.opts[0]} out."
        )


def load_settings(flags: Mapping[str, Any], method: Method | None = None) -> Settings:
    """Settings for a command typed in the current folder; the `method` of a verb is no matter of files."""
    from platformdirs import user_config_path

    from launcher.settings import USER_FILE, load

    typed = flags if method is None else {**flags, "method": method}
    return load(typed, project=Path.cwd(), user_file=user_config_path("launch") / USER_FILE)
