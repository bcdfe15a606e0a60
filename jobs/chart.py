"""Line charts as inline SVG: no script, no network, readable in the dark and when printed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]
WIDTH, HEIGHT = 560, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 14, 30
_MOST_POINTS = 600


@dataclass(frozen=True)
class Series:
    """Points (step, value) in order of steps; `dots` draws them apart, as validation passes are."""

    name: str
    points: Sequence[Point]
    color: str
    dots: bool = False


def line_chart(title: str, series: Sequence[Series], *, zero: bool = False) -> str:
    """An `<svg>` of the finite points of `series` over steps; `zero` keeps 0 in view. Without points, a sentence."""
    shown = [Series(one.name, [p for p in one.points if math.isfinite(p[1])], one.color, one.dots) for one in series]
    shown = [one for one in shown if one.points]
    if not shown:
        return f'<p class="none">{escape(title)}: nothing was measured.</p>'
    xs = [x for one in shown for x, _ in one.points]
    ys = [y for one in shown for _, y in one.points] + ([0.0] if zero else [])
    x_low, x_high = min(xs), max(*xs, min(xs) + 1)
    ticks = nice_ticks(min(ys), max(ys))
    y_low, y_high = ticks[0], ticks[-1]

    def at(point: Point) -> str:
        x = _LEFT + (point[0] - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT)
        y = HEIGHT - _BOTTOM - (point[1] - y_low) / (y_high - y_low) * (HEIGHT - _TOP - _BOTTOM)
        return f"{x:.1f},{y:.1f}"

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in ticks:
        y = at((x_low, tick)).split(",")[1]
        kind = "axis" if tick == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y}" dy="4" text-anchor="end">{tick:g}</text>')
    for tick in (t for t in nice_ticks(x_low, x_high) if x_low <= t <= x_high and t == int(t)):
        x = at((tick, y_low)).split(",")[0]
        parts.append(f'<text x="{x}" y="{HEIGHT - 10}" text-anchor="middle">{tick:g}</text>')
    for one in shown:
        if one.dots:
            marks = (at(point).split(",") for point in one.points)
            parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{one.color}"/>' for x, y in marks]
        else:
            path = " ".join(at(point) for point in thinned(one.points))
            parts.append(f'<polyline points="{path}" stroke="{one.color}"/>')
    parts.append("</svg>")
    legend = "".join(f'<span><i style="background:{one.color}"></i>{escape(one.name)}</span>' for one in shown)
    return f"<figure><figcaption>{escape(title)}<small>{legend}</small></figcaption>{''.join(parts)}</figure>"


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most `_MOST_POINTS` of them: means of equal runs, so that the page stays small and the course true."""
    run = math.ceil(len(points) / _MOST_POINTS)
    groups = [points[i : i + run] for i in range(0, len(points), run)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def nice_ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers (1, 2 or 5 times a power of ten apart) from at most `low` to at least `high`."""
    if high - low < 1e-9 * max(1.0, abs(high)):
        margin = max(abs(high) * 0.1, 1e-3)
        low, high = low - margin, high + margin
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]
