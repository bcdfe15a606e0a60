"""Reads the output of the hardware requirement calculator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn, cast

from pydantic import ValidationError

from artifacts.errors import UsageProblem
from train.requirement import Requirement, unknown_keys, version_of

VERSION = 1


def read_requirement(path: Path) -> tuple[Requirement, list[str]]:
    """The requirement in `path`, and warnings (keys that this version does not know, by name).

    Raises UsageProblem where the file is missing, cut off, of another version, or says something that cannot be.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageProblem(
            f"There is no requirement file {path}.",
            next_step="name the calculator's output with --requirements FILE; `launch demo` makes an example.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageProblem(f"The requirement file {path} cannot be read.", why=str(error)) from None
    try:
        document: object = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        cut = " The file ends too early: it was cut off." if error.pos >= len(text.rstrip()) else ""
        raise UsageProblem(
            f"The requirement file {path} is not JSON: {error.msg} at line {error.lineno}.{cut}",
            next_step="make it again with the calculator.",
        ) from None
    except _NonsenseError as error:
        raise UsageProblem(f"The requirement file {path}: {error} is not a number.", next_step="correct it.") from None
    return _validated(document, path)


def _validated(document: object, path: Path) -> tuple[Requirement, list[str]]:
    version = version_of(document)
    if version != VERSION:
        named = cast("dict[str, Any]", document).get("schema") if isinstance(document, dict) else None
        raise UsageProblem(
            f"The requirement file {path} is not hardware-requirement/{VERSION}: its schema is {named!r}.",
            why="It was made for a newer launch." if version and version > VERSION else "",
            next_step="update launch." if version and version > VERSION else "name the calculator's output.",
        )
    try:
        requirement = Requirement.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        given = first["input"]
        has = f" (it says {given!r})" if isinstance(given, (str, int, float)) else ""
        raise UsageProblem(f"The requirement file {path}: {where}: {reason}{has}.", next_step="correct it.") from None
    names = [option.name for option in requirement.options]
    if len(set(names)) < len(names):
        raise UsageProblem(f"The requirement file {path}: two options have the same name.", next_step="correct it.")
    warnings = [
        f"{path.name}: {key} is not known to this version, and is not used." for key in unknown_keys(requirement)
    ]
    return requirement, warnings


class _NonsenseError(ValueError):
    pass


def _no_constant(word: str) -> NoReturn:
    raise _NonsenseError(word)
