"""The live view of one job: where it stands, and whether it learns."""

from __future__ import annotations

import json
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs.home import Home
from jobs.job import Job
from launcher.status_view import attention_lines, shorter
from launcher.watch import money_line, progress_line

CURVE_WIDTH = 40
_BARS = "▁▂▃▄▅▆▇█"


def panel(home: Home, job: Job, spent_usd: float = 0.0) -> RenderableType:
    """A panel that fits 80 columns: progress, the curves of loss and margin, and what needs attention."""
    rows: list[RenderableType] = [Text(progress_line(job))]
    if paid := money_line(job, spent_usd):
        rows.append(Text(paid, style="dim"))
    progress = job.progress
    if progress and progress.max_steps:
        bar = Table.grid()  # a bar by itself ends without a line break
        bar.add_row(ProgressBar(total=progress.max_steps, completed=progress.step, width=60))
        rows.append(bar)
    file = home.job(job.id) / "work" / "metrics.jsonl"
    everything = _lines(file, _size(file))
    lines = [line for line in everything if line.get("kind") == "train"]
    if lines:
        curves = Table.grid(padding=(0, 1))
        for label, key in (("loss", "loss"), ("margin", "margin"), ("chosen", "rewards_chosen")):
            values = [value for line in lines if (value := line.get(key)) is not None]
            if values:  # SFT has no rewards
                curves.add_row(label, sparkline(values), f"{values[-1]:.3f}")
        rows.append(curves)
    rows += [Text(f"! {line}", style="yellow") for line in attention_lines(job)]
    rows += [Text(line["message"], style="yellow") for line in everything if line.get("kind") == "notice"][-1:]
    rows.append(Text(f"Ctrl-C stops watching, not the job. launch cancel {job.id} ends it.", style="dim"))
    title = Text(job.id if job.spec.name == job.id else f"{job.id} {shorter(job.spec.name, 40)}")
    return Panel(Group(*rows), title=title, width=78)


def sparkline(values: list[float], width: int = CURVE_WIDTH) -> str:
    """The values as bars between their least and greatest, averaged into at most `width` columns."""
    if len(values) > width:
        edges = [round(i * len(values) / width) for i in range(width + 1)]
        values = [sum(part) / len(part) for a, b in pairwise(edges) if (part := values[a:b])]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_BARS[min(len(_BARS) - 1, int((value - low) / span * len(_BARS)))] for value in values)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


@lru_cache(maxsize=2)
def _lines(file: Path, size: int) -> list[dict[str, Any]]:
    """Whole lines; read again only when the file has grown (`size` is the key)."""
    if not size:
        return []
    whole = file.read_bytes()[:size].rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.splitlines()]
