"""An offer, and the plan that pairs offers with the options of a requirement."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from train.requirement import Option


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Offer(Frozen):
    """A machine that can be had: where, what it is, what an hour costs (USD). This machine is one, at $0."""

    cloud: str
    instance_type: str
    region: str | None = None
    gpus: int = 0
    gpu: str | None = None
    vram_gib: float = 0.0
    """Of one GPU: a process sees one."""
    ram_gib: float | None = None
    disk_gib: float | None = None
    cores: int | None = None
    spot: bool = False
    arch: str = "x86_64"
    price_per_hour: float = 0.0
    price_as_of: datetime | None = None
    price_source: str = ""
    """Who was asked, where it is a live price; empty for a catalogue's."""
    capacity: bool | None = None
    """Whether the provider said that it has such a machine there; None where it was not asked."""


class Rate(Frozen):
    """How fast a device trains: a step takes `step_overhead_s + flop_per_step / flop_per_s`. `basis` says whence.

    `source`: a bare step of this machine, a run that finished on this device, or a data sheet and an assumption.
    """

    device: Literal["cuda", "cpu"]
    name: str
    precision: str
    flop_per_s: float
    step_overhead_s: float = 0.0
    basis: str
    source: Literal["step", "run", "sheet"] = "step"
    measured_at: datetime
    flop_per_step: float | None = None
    """Of the run that it was learned from: a step far smaller or larger spends its time elsewhere."""
    low: float = 0.7
    high: float = 1.5
    """A plan's range: low and high times the expected hours."""


class Phase(Frozen):
    name: Literal["boot", "sync", "training", "evaluation", "pull", "teardown", "billing_unit"]
    hours_low: float | None
    hours_expected: float | None
    hours_high: float | None
    cost_expected: float | None


class WhyNot(Frozen):
    code: Literal[
        "vram",
        "ram",
        "disk",
        "gpus",
        "device",
        "backend",
        "spot",
        "budget",
        "within",
        "cloud",
        "no_flops",
        "unmeasured",
        "arch",
        "precision",
        "batch",
        "capacity",
    ]
    need: str
    have: str


class PricedOffer(Frozen):
    """One option on one offer: hours and cost, and why it does not fit where it does not."""

    offer: Offer
    option: Option
    steps: int
    """That would be trained this way: the whole workload, or the part that a CPU or the money allows."""
    hours_expected: float | None
    hours_affordable: float | None
    cost_expected: float | None
    cost_worst: float | None
    phases: tuple[Phase, ...] = ()
    basis: str
    fits: bool
    why_not: tuple[WhyNot, ...] = ()


class Chosen(Frozen):
    offer: int
    """Index into `Plan.offers`."""
    reason: str


class Plan(Frozen):
    """What `plan()` found. `steps` is what would be trained, of `steps_total` for the whole workload.

    Both are None where the requirement names no workload: memory alone, as other calculators say it.
    """

    requirement: str
    budget_usd: float | None
    budget_needed_usd: float | None
    steps: int | None
    steps_total: int | None
    partial: bool
    offers: tuple[PricedOffer, ...]
    chosen: Chosen | None

    @property
    def choice(self) -> PricedOffer | None:
        return self.offers[self.chosen.offer] if self.chosen else None

    def shortened(self, offers: int) -> Plan:
        """With the best `offers` alone; what is chosen is among them."""
        return self.model_copy(
            update={"offers": self.offers[: max(offers, self.chosen.offer + 1 if self.chosen else 0)]}
        )
