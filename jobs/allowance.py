"""What a budget lets a rented machine do: when it is given back, and when training must end before that. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from artifacts.bill import LedgerRow
from jobs.clouds import Cloud
from jobs.offer import PricedOffer

PULL_LEAST_S = 60.0
"""For the last checkpoint and the logs, where the plan expects less."""


@dataclass(frozen=True)
class Allowance:
    """Seconds, counted from the machine's first boot, which is never after the provider begins to charge."""

    charged_s: float
    """The last whole billing unit that the budget pays for."""
    on_host_s: float
    """When the machine ends itself, so that it is gone by then."""
    reserve_s: float
    """Before that: what evaluation and pull take, which training must leave free."""
    evaluation_s: float = 0.0
    """Of the reserve, what the evaluation may take."""

    @property
    def training_s(self) -> float:
        return self.on_host_s - self.reserve_s


def left_usd(budget_usd: float, rows: Sequence[LedgerRow]) -> float:
    """Of the budget, after what the attempts so far were charged."""
    return budget_usd - sum(row.cost_usd for row in rows)


def allowance(cloud: Cloud, usd: float, price_per_hour: float, choice: PricedOffer) -> Allowance | None:
    """What `usd` lets through on a machine at `price_per_hour`; None where no training would be left of it."""
    charged_s = cloud.hours_for(usd, price_per_hour) * 3600
    on_host_s = charged_s - cloud.teardown.high * 3600
    high_s = {phase.name: (phase.hours_high or 0.0) * 3600 for phase in choice.phases}
    evaluation_s = high_s.get("evaluation", 0.0)
    reserve_s = evaluation_s + max(PULL_LEAST_S, high_s.get("pull", 0.0))
    found = Allowance(charged_s, on_host_s, reserve_s, evaluation_s)
    return found if found.training_s > high_s.get("boot", 0.0) else None
