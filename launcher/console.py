"""Where words go: one JSON document to standard output, everything else to standard error."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def say(message: str = "") -> None:
    """A message or progress, to standard error: standard output can be piped. On a terminal, words stay whole."""
    if sys.stderr.isatty():
        message = wrapped(message, shutil.get_terminal_size().columns)
    print(message, file=sys.stderr, flush=True)


def wrapped(message: str, width: int) -> str:
    """Lines of at most `width` columns, where words let them. What stands in a line's beginning stays there."""
    lines: list[str] = []
    for line in message.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
        ) or [line]
    return "\n".join(lines)


def print_document(document: dict[str, Any]) -> None:
    """The one JSON document of a `--json` call."""
    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


@cache
def screen() -> Console:
    """Standard output for tables. Nothing is read as markup: names of jobs and files come from people."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False, soft_wrap=not sys.stdout.isatty())


def ask(question: str) -> bool:
    """Ask once on the terminal, default no. Error where nobody can answer, rather than a hang."""
    from artifacts.errors import UsageProblem

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageProblem(
            "This needs an answer, and there is no terminal to ask on.",
            why=question,
            next_step="add --yes to say yes in advance, or run it in a terminal.",
        )
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().casefold() in {"y", "yes"}


def money(usd: float | None) -> str:
    return "-" if usd is None else f"${usd:,.2f}"


def duration(seconds: float | None) -> str:
    """A length of time as a person says it: `45 s`, `12 min`, `3 h 20 min`, `2.3 days`."""
    if seconds is None:
        return "unknown"
    if 0 < seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes / 1440:.1f} days"
