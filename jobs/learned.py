"""What a finished run teaches about its device: the rate that its own metrics show."""

from __future__ import annotations

import statistics
from datetime import datetime
from pathlib import Path

from jobs.job import JobSpec
from jobs.offer import Rate
from jobs.price import precision_on
from jobs.tail import read_metrics

FEWEST_STEPS = 20
WARM_UP = 3
"""Steps at the start that compile, allocate and fill caches."""
LOW, HIGH = 0.8, 1.4
"""Range of a later run of the same kind on the same device: other lengths, other work on the machine."""


def rate_of_run(spec: JobSpec, metrics: Path, now: datetime) -> Rate | None:
    """The FLOPs a second that the run reached, or None where it was too short or the requirement says no FLOPs.

    The median step counts, so that a step beside other work weighs little. It includes the overhead of a step, which
    a run of the same batch has again.
    """
    choice = spec.plan.choice
    flop = choice and choice.option.flop_per_step
    if choice is None or flop is None:
        return None
    seconds = [line.seconds for line in read_metrics(metrics)[0]][WARM_UP:]
    if len(seconds) < FEWEST_STEPS:
        return None
    option, device = choice.option, choice.option.device
    return Rate(
        device=device,
        name=choice.offer.gpu or choice.offer.instance_type,
        precision=precision_on(option),
        flop_per_s=flop / max(1, option.gpus) / statistics.median(seconds),
        basis=f"{len(seconds)} steps of {spec.id} on this {'GPU' if device == 'cuda' else 'CPU'}, {now:%Y-%m-%d}",
        source="run",
        measured_at=now,
        flop_per_step=flop,
        low=LOW,
        high=HIGH,
    )
