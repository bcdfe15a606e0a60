"""How fast this machine trains: measured once by the trainer itself, then remembered."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal

from jobs.environment import Environment, child_environ
from jobs.home import Home
from jobs.offer import Rate
from jobs.store import Store
from launcher import machine
from train.requirement import Requirement

SLOWER = 3.0
"""How much slower than a bare step a run may be: the reference pass, TRL's own work, a machine with other work. The
sample project's steps take 2 to 3 times the bare step (its 0.6M parameters are the worst case)."""


LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
"""When a file's figure counts as measured: whatever was measured here since is better."""


def known_rates(
    home: Home, store: Store, environment: Environment | None, *, gpu: bool, say: Callable[[str], None]
) -> Sequence[Rate]:
    """Known rates; with an environment, those of a device that has none yet are measured (some seconds)."""
    host = machine.host_name()
    known = store.rates(host)
    if environment is None:
        return known
    devices: tuple[Literal["cpu", "cuda"], ...] = ("cpu", "cuda") if gpu else ("cpu",)
    for device in devices:
        if not any(rate.device == device for rate in known):
            say(f"Measuring how fast this machine trains on its {'CPU' if device == 'cpu' else 'GPU'} ...")
            for rate in _measure(home, environment, device):
                store.add_rate(rate, host=host)
    return store.rates(host)


def stated_rates(requirement: Requirement, known: Sequence[Rate]) -> list[Rate]:
    """What a requirement file says that this very machine was measured at, for devices of which nothing is `known`."""
    host = machine.host_name()
    return [
        Rate(
            device=row.device,
            name=row.name,
            precision=row.precision,
            flop_per_s=row.flop_per_s,
            step_overhead_s=row.step_overhead_s,
            basis=f"a bare LoRA step on this {row.device.upper()}, measured {row.measured_at[:10]} (requirement file)",
            measured_at=LONG_AGO,
            high=SLOWER,
        )
        for row in requirement.measured
        if row.machine == host and not any(rate.device == row.device for rate in known)
    ]


def _measure(home: Home, environment: Environment, device: Literal["cpu", "cuda"]) -> list[Rate]:
    done = subprocess.run(
        [str(environment.python), "-m", "train", "rate", "--device", device],
        env=child_environ(environment),
        cwd=home.root,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        return []  # hours are then unknown, and the plan says so
    report = json.loads(done.stdout)
    moment = datetime.now(UTC)
    return [
        Rate(
            device=device,
            name=report["name"],
            precision=row["precision"],
            flop_per_s=row["flop_per_s"],
            step_overhead_s=row["step_overhead_s"],
            basis=f"a bare LoRA step on this {device.upper()}, measured {moment:%Y-%m-%d}",
            measured_at=moment,
            high=SLOWER,
        )
        for row in report["rows"]
    ]
