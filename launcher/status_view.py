"""Jobs as lines of text that fit 80 columns."""

from __future__ import annotations

from datetime import UTC, datetime

from jobs.evaluation import missing_evaluation
from jobs.home import Home
from jobs.job import Job, State
from launcher.console import duration, money


def overview(jobs: list[Job], costs: dict[str, float]) -> list[str]:
    """One line a job, newest first; under a job what needs attention, with the command to type."""
    head = ("JOB", "STATE", "STEP", "LOSS", "MARGIN", "WHERE", "COST", "AGE")
    rows: list[tuple[str, ...]] = []
    notes: dict[int, list[str]] = {}
    for job in jobs:
        notes[len(rows)] = [f"    ! {line}" for line in attention_lines(job)]
        rows.append(_row(job, costs.get(job.id, 0.0)))
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    right = (2, 3, 4, 6, 7)

    def line(row: tuple[str, ...]) -> str:
        cells = [row[i].rjust(widths[i]) if i in right else row[i].ljust(widths[i]) for i in range(len(head))]
        return "  ".join(cells).rstrip()

    lines = [line(head)]
    for index, row in enumerate(rows):
        lines += [line(row), *notes[index]]
    return lines


def _row(job: Job, cost: float) -> tuple[str, ...]:
    progress = job.progress
    label = job.id if job.spec.name == job.id else f"{job.id} {shorter(job.spec.name, 16)}"
    return (
        label,
        _state(job),
        f"{progress.step}/{progress.max_steps}" if progress else f"0/{job.spec.steps}",
        f"{progress.loss:.3f}" if progress and progress.loss is not None else "-",
        f"{progress.margin:.2f}" if progress and progress.margin is not None else "-",
        _where(job),
        money(cost),
        _age(job),
    )


def shorter(text: str, width: int) -> str:
    """A name that people gave, on one line and at most `width` wide."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= width else text[: width - 1] + "…"


def _state(job: Job) -> str:
    return str(job.outcome) if job.state is State.DONE and job.outcome else str(job.state)


def _where(job: Job) -> str:
    choice = job.spec.plan.choice
    return "-" if choice is None else f"{choice.offer.cloud} {shorter(choice.offer.gpu or 'CPU', 14)}"


def _age(job: Job) -> str:
    return duration((datetime.now(UTC) - job.created_at).total_seconds())


def in_full(job: Job, costs: dict[str, float], home: Home) -> list[str]:
    """Everything that is known of one job."""
    progress = job.progress
    choice = job.spec.plan.choice
    facts = {
        "job": job.id if job.spec.name == job.id else f"{job.id} ({shorter(job.spec.name, 60)})",
        "method": job.spec.run.method.upper(),
        "state": _state(job) + (" (partial training)" if job.spec.partial else ""),
        "where": "-" if choice is None else f"{choice.offer.cloud}, {choice.offer.instance_type}, {choice.option.name}",
        "step": f"{progress.step:,} of {progress.max_steps:,}" if progress else f"0 of {job.spec.steps:,}",
        "loss": f"{progress.loss:.4f}" if progress and progress.loss is not None else None,
        "margin": f"{progress.margin:.3f}" if progress and progress.margin is not None else None,
        "time left": duration(progress.eta_s) if progress and progress.eta_s and job.state is State.TRAINING else None,
        "started": job.created_at.astimezone().strftime("%Y-%m-%d %H:%M"),
        "took": duration((job.ended_at - job.created_at).total_seconds()) if job.ended_at else None,
        "attempts": str(len(job.attempts)),
        "cost": money(costs.get(job.id, 0.0))
        + (f" of {money(job.spec.budget_usd)} allowed" if job.spec.budget_usd else ", no budget: nothing is bought"),
        "results": str(job.spec.results),
        "evaluation": missing_evaluation(job, home),
        "error": job.error,
    }
    lines = [f"{name:<10} {value}" for name, value in facts.items() if value is not None]
    lines += [f"attention  {line}" for line in attention_lines(job)]
    return lines


def attention_lines(job: Job) -> list[str]:
    """`results_held until 18:40, costing money: why; launch status dpo-1`."""
    found: list[str] = []
    for item in job.attention:
        until = f" until {item.until.astimezone():%H:%M}" if item.until else ""
        costing = ", costing money" if item.costing else ""
        found.append(f"{item.code}{until}{costing}: {item.message or ''}{'; ' if item.message else ''}{item.command}")
    return found
