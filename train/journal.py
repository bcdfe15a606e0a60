"""The run's journal: `metrics.jsonl`, one line an optimizer step, a validation pass or a notice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from train.metrics import Line, NoticeLine, TrainLine, ValLine

_KINDS: dict[str, type[TrainLine] | type[ValLine] | type[NoticeLine]] = {
    "train": TrainLine,
    "val": ValLine,
    "notice": NoticeLine,
}


class Journal:
    """Appends whole lines; each is handed to the operating system before `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: Line) -> None:
        """Writes one line in one call, so that a reader never sees half of two."""
        data = (line.model_dump_json() + "\n").encode()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        finally:
            os.close(descriptor)

    def cut_back(self, step: int) -> None:
        """Drops what came after `step`, and a torn last line: a resumed run writes those steps again."""
        if not self.path.exists():
            return
        keep = 0
        with self.path.open("rb") as lines:
            for raw in lines:
                if not raw.endswith(b"\n") or (parse(raw) or _Unknown()).step > step:
                    break
                keep += len(raw)
        os.truncate(self.path, keep)

    def lines(self) -> Iterator[TrainLine | ValLine | NoticeLine]:
        """The lines that this version understands, in order; none where there is no file."""
        if not self.path.exists():
            return
        with self.path.open("rb") as lines:
            for raw in lines:
                line = parse(raw)
                if line is not None:
                    yield line


class _Unknown:
    step = 0


def parse(raw: bytes) -> TrainLine | ValLine | NoticeLine | None:
    """One line, or None where it is torn or of a kind that this version does not know."""
    try:
        document = json.loads(raw)
        return _KINDS[document["kind"]].model_validate(document)
    except (ValueError, KeyError, TypeError, ValidationError):
        return None
