"""The JSON documents of the contract: fields may be added within /1, never retyped; what is unknown is null."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jobs.job import Job, State, utc


def status_document(jobs: Iterable[Job], cost_usd: dict[str, float]) -> dict[str, Any]:
    return {"schema": "status/1", "jobs": [_status_row(job, cost_usd.get(job.id, 0.0)) for job in jobs]}


def _status_row(job: Job, cost_usd: float) -> dict[str, Any]:
    attempt = job.attempts[-1] if job.attempts else None
    choice = job.spec.plan.choice
    offer = choice.offer if choice else None
    progress = job.progress
    return {
        "id": job.id,
        "name": job.spec.name,
        "method": job.spec.run.method,
        "state": job.state,
        "outcome": job.outcome,
        "attempt": attempt.number if attempt else None,
        "phase": job.phase.model_dump() if job.phase else None,
        "attention": [item.model_dump(mode="json") for item in job.attention],
        "partial": job.spec.partial,
        "cloud": offer.cloud if offer else None,
        "instance_type": attempt.instance_type if attempt else offer.instance_type if offer else None,
        "gpu": offer.gpu if offer else None,
        "region": attempt.region if attempt else offer.region if offer else None,
        "price_per_hour": attempt.price_per_hour if attempt else offer.price_per_hour if offer else None,
        "step": progress.step if progress else None,
        "max_steps": progress.max_steps if progress else job.spec.steps,
        "loss": progress.loss if progress else None,
        "reward_margin": progress.margin if progress else None,
        "eta_s": progress.eta_s if progress and job.state is State.TRAINING else None,
        "cost_usd": cost_usd,
        "budget_usd": job.spec.budget_usd,
        "created_at": utc(job.created_at),
        "ended_at": utc(job.ended_at) if job.ended_at else None,
        "as_of": utc(progress.as_of) if progress else None,
        "results": str(job.spec.results),
        "error": job.error,
    }
