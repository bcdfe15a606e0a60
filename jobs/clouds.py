"""What a cloud adds around the training: how it bills, and how long a machine takes to come and to go. Data."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """Hours: at best, as expected, at worst."""

    low: float
    expected: float
    high: float

    @classmethod
    def minutes(cls, low: float, expected: float, high: float) -> Span:
        return cls(low / 60, expected / 60, high / 60)

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.expected + other.expected, self.high + other.high)


NOTHING = Span(0.0, 0.0, 0.0)

ROUNDING = 1e-9
"""Of a billing unit: what a float may be off without becoming another unit."""


@dataclass(frozen=True)
class Cloud:
    """`boot`: from the create call to a machine that can be logged into. Times are assumptions, and plans say so."""

    name: str
    billing_unit_s: int
    minimum_s: int
    boot: Span
    teardown: Span

    def billed_hours(self, hours: float) -> float:
        """What is charged for a machine that was there for `hours`."""
        units = math.ceil(max(hours * 3600, self.minimum_s) / self.billing_unit_s - ROUNDING)
        return units * self.billing_unit_s / 3600

    def hours_for(self, usd: float, price_per_hour: float) -> float:
        """How long a machine can be there, so that not more than `usd` is charged; 0 where not even the minimum."""
        units = math.floor(usd / price_per_hour * 3600 / self.billing_unit_s + ROUNDING)
        hours = units * self.billing_unit_s / 3600
        if hours * price_per_hour > usd:
            hours = max(0, units - 1) * self.billing_unit_s / 3600
        return hours if hours * 3600 >= self.minimum_s else 0.0


LOCAL = Cloud("local", billing_unit_s=1, minimum_s=0, boot=NOTHING, teardown=NOTHING)

# Lambda bills by the minute (lambda.ai/service/gpu-cloud); EC2 on-demand Linux by the second, at least 60
# (aws.amazon.com/ec2/pricing/on-demand). Boot and teardown are assumptions until runs of one's own replace them.
CLOUDS = {
    "lambda": Cloud("lambda", 60, 60, Span.minutes(3, 6, 15), Span.minutes(0.5, 1, 3)),
    "aws": Cloud("aws", 1, 60, Span.minutes(1.5, 3, 8), Span.minutes(0.5, 1, 3)),
    "local": LOCAL,
}
