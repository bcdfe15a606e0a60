"""JSON objects from a JSONL file, one line at a time; a bad line is named by file, number and reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, cast

from train.errors import DataError

MAX_LINE_BYTES = 32 * 2**20


def read_objects(
    path: Path, *, noun: str, good: str, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number (from 1) and object of each line of a JSONL file in UTF-8, in order; blank lines are skipped.

    At most one line is in memory, and never more than `max_line_bytes` of it. `noun` is what a line should hold, and
    `good` an example of one; both stand in messages.

    Raises:
        DataError: the file cannot be read or holds no object, or a line is not a JSON object.
    """
    empty = True
    try:
        if not path.is_file():
            raise DataError(
                f"{path}: {'a folder, not a file' if path.is_dir() else 'there is no such file'}.",
                next_step=f"name a JSONL file with one {noun} a line.",
            )
        with path.open("rb") as file:
            number = 0
            while line := file.readline(max_line_bytes + 1):
                number += 1
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if len(line) > max_line_bytes and not line.endswith(b"\n"):
                    bad_line(path, number, f"the line is longer than {max_line_bytes:,} bytes", good)
                if line.strip():
                    empty = False
                    yield number, _object(path, number, line, good)
    except OSError as error:
        raise DataError(f"{path}: cannot be read.", str(error), f"name a file that can be: ls -l {path}") from error
    if empty:
        raise DataError(f"{path}: the file holds no {noun}.", next_step=f"A good line: {good}")


def bad_line(path: Path, number: int, reason: str, good: str) -> NoReturn:
    """Raises DataError: this line of this file cannot be used, for this reason; `good` is one that could."""
    raise DataError(f"{path}, line {number}: {reason}.", next_step=f"mend the line. A good one: {good}")


def _object(path: Path, number: int, line: bytes, good: str) -> dict[str, Any]:
    """The JSON object of a line. `json` lets through what JSON does not know (NaN)."""

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not a JSON value")

    try:
        record: object = json.loads(line.decode("utf-8"), parse_constant=constant)
    except UnicodeDecodeError as error:
        encoding = ": this looks like UTF-16" if line.startswith((b"\xff\xfe", b"\xfe\xff")) else ""
        bad_line(path, number, f"byte {error.start + 1} of the line is not UTF-8{encoding}", good)
    except RecursionError:
        bad_line(path, number, "values are nested too deeply", good)
    except ValueError as error:
        whole = number == 1 and line.strip() in (b"[", b"{")
        hint = " (the file is one JSON document: `jq -c '.[]' FILE` gives a line an object)" if whole else ""
        bad_line(path, number, f"not valid JSON: {error}{hint}", good)
    if not isinstance(record, dict):
        kind = "an array" if isinstance(record, list) else f"a {type(record).__name__}"
        bad_line(path, number, f"the line is {kind}, not a JSON object", good)
    return cast("dict[str, Any]", record)
