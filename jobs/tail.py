"""`metrics.jsonl` as it grows: the newest line, the time that is left, and what the trainer noticed."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from jobs.job import Progress
from train.metrics import NoticeLine, TrainLine, ValLine

_LINE: TypeAdapter[TrainLine | ValLine | NoticeLine] = TypeAdapter(TrainLine | ValLine | NoticeLine)
_ETA_STEPS = 20


class MetricsTail:
    """Reads a growing file from where it stopped. A file that became shorter (a resume cut it back) is read again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._rest = b""
        self._seconds: deque[float] = deque(maxlen=_ETA_STEPS)
        self.notices: list[NoticeLine] = []
        self.last: TrainLine | None = None

    def read(self) -> bool:
        """Takes in what was added; True where a train line was among it. A torn last line waits for its rest."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, 2) < self._position:
                    self._position, self._rest, self.last = 0, b"", None
                    self.notices.clear()
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return False
        self._position += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        fresh = False
        for raw in lines:
            line = parse(raw)
            if isinstance(line, NoticeLine):
                self.notices.append(line)
            elif isinstance(line, TrainLine):
                self.last, fresh = line, True
                self._seconds.append(line.seconds)
        return fresh

    def progress(self, now: datetime) -> Progress | None:
        """ETA: the mean of the last steps times the steps that are left; None before the first step."""
        if self.last is None:
            return None
        left = max(0, self.last.max_steps - self.last.step)
        eta_s = left * sum(self._seconds) / len(self._seconds)
        line = self.last
        return Progress(
            step=line.step, max_steps=line.max_steps, loss=line.loss, margin=line.margin, eta_s=eta_s, as_of=now
        )


def parse(raw: bytes) -> TrainLine | ValLine | NoticeLine | None:
    """A line of a kind that this version knows, or None."""
    try:
        return _LINE.validate_json(raw)
    except ValidationError:
        return None


def read_metrics(path: Path) -> tuple[list[TrainLine], list[ValLine], list[NoticeLine]]:
    """All of a finished file, by kind; empty where there is none."""
    lines = [parse(raw) for raw in path.read_bytes().splitlines()] if path.exists() else []
    return (
        [line for line in lines if isinstance(line, TrainLine)],
        [line for line in lines if isinstance(line, ValLine)],
        [line for line in lines if isinstance(line, NoticeLine)],
    )
