"""`report.html`: what a run did, in one file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from artifacts.bill import LedgerRow
from jobs.chart import Point, Series, line_chart
from jobs.job import Job, Outcome, State, utc
from jobs.tail import read_metrics
from train.metrics import TrainLine, ValLine

Moves = Sequence[tuple[int, State, datetime]]

MARGIN = "Reward margin (nats)"
BLUE, ORANGE, GRAY = "#2563eb", "#ea580c", "#64748b"
_WORDS = {
    Outcome.SUCCEEDED: "succeeded",
    Outcome.BUDGET_STOPPED: "stopped at its budget",
    Outcome.FAILED: "failed",
    Outcome.CANCELLED: "was cancelled",
}
_STYLE = """
:root{--ink:#0f172a;--soft:#64748b;--line:#e2e8f0;--paper:#fff;--card:#f8fafc;color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--ink:#e2e8f0;--soft:#94a3b8;--line:#334155;--paper:#0f172a;--card:#1e293b}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1180px;margin:0 auto;
padding:32px 24px}
h1{font-size:26px;margin:0}h2{font-size:17px;margin:36px 0 10px}.soft,small,.none{color:var(--soft)}
.badge{font-size:14px;border-radius:99px;padding:3px 12px;margin-left:10px;color:#fff;vertical-align:4px}
.succeeded{background:#15803d}.budget_stopped{background:#b45309}.failed{background:#b91c1c}.cancelled{background:#475569}
.facts,.charts{display:grid;gap:14px;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));margin-top:20px}
.charts{grid-template-columns:repeat(auto-fit,minmax(440px,1fr))}
.fact,figure{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 16px;margin:0}
.fact b{display:block;font-size:21px;font-variant-numeric:tabular-nums}
figcaption{font-weight:600;display:flex;justify-content:space-between}
figcaption span{margin-left:14px;font-weight:400;white-space:nowrap}
table+table{margin-top:18px}td:first-child{min-width:90px}
i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:5px}
svg{width:100%;height:auto}svg text{font-size:12px;fill:var(--soft)}polyline{fill:none;stroke-width:1.8}
.grid{stroke:var(--line)}.axis{stroke:var(--soft)}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:6px 14px 6px 0;
border-bottom:1px solid var(--line)}td{font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.notice{border-left:4px solid #d97706;background:var(--card);padding:10px 16px;margin:16px 0;white-space:pre-wrap}
.error{border-color:#b91c1c}
"""


def write_report(job: Job, results: Path, *, ledger: Sequence[LedgerRow] = (), moves: Moves = ()) -> Path:
    """Writes `results/report.html` from the results, the ledger's rows and the states' times; returns its path."""
    train, val, notices = read_metrics(results / "metrics.jsonl")
    data, evaluation = _read(results / "data.json"), _read(results / "eval.json")
    outcome = job.outcome or Outcome.FAILED
    title = f"{job.spec.name} {_WORDS[outcome]}"
    told = [(notice.step, notice.message) for notice in notices]
    body = [
        f'<h1>{escape(job.spec.name)}<span class="badge {outcome}">{_WORDS[outcome]}</span></h1>',
        f'<div class="soft">{escape(_subtitle(job))}</div>',
        f'<div class="notice error">{escape(job.error)}</div>' if job.error else "",
        *(f'<div class="notice">Step {step}: {escape(message)}</div>' for step, message in told),
        _facts(train, val, ledger),
        "<h2>Stage A against Stage B on held-out data</h2>" + _evaluation(evaluation, job),
        f"<h2>Training</h2>{_charts(train, val)}",
        "<h2>Time and cost</h2>" + _time(moves) + _bill(ledger),
        "<h2>Data</h2>" + _mapping(data, "No data report was written."),
        "<h2>Configuration</h2>" + _mapping(job.spec.run.model_dump(mode="json", by_alias=True), ""),
    ]
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )
    final, beside = results / "report.html", results / ".report.html"
    beside.write_text(page, encoding="utf-8")
    beside.replace(final)
    return final


def _subtitle(job: Job) -> str:
    offer = job.spec.plan.choice.offer if job.spec.plan.choice else None
    machine = f"{offer.cloud} {offer.instance_type}" if offer else "this machine"
    total = job.spec.plan.steps_total
    steps = f"{job.spec.steps:,} of {total:,} step{'' if total == 1 else 's'}"
    part = f"partial run, {steps}" if job.spec.partial else "whole run"
    ended = f", ended {utc(job.ended_at)}" if job.ended_at else ""
    return f"{job.id}, {job.spec.run.method.upper()} on {machine}; {part}; created {utc(job.created_at)}{ended}"


def _facts(train: Sequence[TrainLine], val: Sequence[ValLine], ledger: Sequence[LedgerRow]) -> str:
    facts: list[tuple[str, str]] = []
    if train:
        last = train[-1]
        facts += [("steps", f"{last.step:,} of {last.max_steps:,}"), ("loss, last step", f"{last.loss:.3f}")]
        if last.margin is not None:
            facts += [("margin, last step", f"{last.margin:+.3f}")]
    if val:
        best = next((line for line in reversed(val) if line.best), val[-1])
        facts += [("best on validation", f"step {best.step:,}")]
        if best.accuracy is not None:
            facts += [("its accuracy", f"{best.accuracy:.0%}")]
    if ledger:
        facts += [("time", _duration(sum(row.billed_s for row in ledger)))]
        facts += [("cost", f"${sum(row.cost_usd for row in ledger):.2f}")]
    cards = "".join(f'<div class="fact"><span class="soft">{name}</span><b>{value}</b></div>' for name, value in facts)
    return f'<div class="facts">{cards}</div>'


def _charts(train: Sequence[TrainLine], val: Sequence[ValLine]) -> str:
    """Of what the method measures; before the first step, that there is nothing yet."""

    def both(attribute: str) -> list[Series]:
        return [
            Series("training", _points(train, attribute), BLUE),
            Series("validation", _points(val, attribute), ORANGE, dots=True),
        ]

    likelihood = [
        Series("chosen", _points(train, "logps_chosen"), BLUE),
        Series("rejected", _points(train, "logps_rejected"), GRAY),
        Series("chosen, validation", _points(val, "logps_chosen"), ORANGE, dots=True),
    ]
    charts = {
        "Loss": both("loss"),
        MARGIN: both("margin"),
        "Reward accuracy": both("accuracy"),
        "Log-probability (nats)": likelihood,
    }
    drawn = [
        line_chart(title, series, zero=title == MARGIN)
        for title, series in charts.items()
        if title == "Loss" or any(one.points for one in series)
    ]
    return f'<div class="charts">{"".join(drawn)}</div>'


def _points(lines: Sequence[TrainLine | ValLine], attribute: str) -> list[Point]:
    """What a method does not measure is no point."""
    return [(line.step, value) for line in lines if (value := getattr(line, attribute)) is not None]


def _evaluation(document: dict[str, Any] | None, job: Job) -> str:
    if document is None:
        wanted = "The evaluation gave no result; logs/evaluate.log says why." if job.spec.test else "Not evaluated yet."
        return f'<p class="none">{wanted} Run <code>launch eval {escape(job.id)} --test FILE</code>.</p>'
    rows: list[tuple[str, ...]] = []
    for measure in document.get("measures", ()):
        name, kind = measure["name"], measure["kind"]
        stages = (_interval(measure.get(stage), kind) for stage in ("stage_a", "stage_b"))
        rows.append((f"{name} ({measure['fact']})" if measure.get("fact") else name, kind, *stages))
    return _table(("measure", "kind", "Stage A (95% interval)", "Stage B (95% interval)"), rows)


def _interval(figure: dict[str, Any] | None, kind: str) -> str:
    if figure is None or figure.get("value") is None:
        return "not measured"
    form = "{:.3f}" if kind == "mean" else "{:.1%}"
    ends = (figure.get("low"), figure.get("high"))
    between = "" if None in ends else f" ({form.format(ends[0])} to {form.format(ends[1])})"
    return form.format(figure["value"]) + between + (f", n = {figure['n']}" if figure.get("n") is not None else "")


def _time(moves: Moves) -> str:
    """Seconds in each state: from its entry to the next one of its attempt."""
    rows = [
        (attempt, state.value.replace("_", " "), utc(at), _duration((following[2] - at).total_seconds()))
        for (attempt, state, at), following in pairwise(moves)
        if following[0] == attempt
    ]
    return _table(("attempt", "phase", "began", "time"), rows) if rows else ""


def _bill(ledger: Sequence[LedgerRow]) -> str:
    rows = [
        (row.attempt, f"{row.cloud} {row.instance_type}", _duration(row.billed_s), f"${row.price_per_hour:.2f}",
         f"${row.cost_usd:.2f}")
        for row in ledger
    ]  # fmt: skip
    return _table(("attempt", "machine", "billed", "an hour", "cost"), rows) if rows else ""


def _mapping(document: dict[str, Any] | None, none: str) -> str:
    if not document:
        return f'<p class="none">{none}</p>'
    return _table((), list(_flat(document)))


def _flat(document: dict[str, Any], at: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in document.items():
        if isinstance(value, dict):
            rows += _flat(cast("dict[str, Any]", value), f"{at}{key}.")
        elif value is not None:
            rows.append((at + key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return rows


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    top = f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>" if head else ""
    lines = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{top}{lines}</table>"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None
