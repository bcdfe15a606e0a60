"""What can be wrong with what the trainer was given.

TrainError             a run that failed (exit 1)
├── InputError         bad input, found before any training (exit 2)
│   └── DataError      of preference pairs: file, line and reason
└── GateError          the policy or its reference is not the Stage-A model
"""

from __future__ import annotations


class TrainError(Exception):
    """A run failed. `what` happened, `why`, and the `next_step` that a person can take."""

    exit_code = 1

    def __init__(self, what: str, why: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.next_step = what, why, next_step

    def __str__(self) -> str:
        return "\n".join(part for part in (self.what, self.why, self.next_step and f"Next: {self.next_step}") if part)


class InputError(TrainError):
    """Something that the user gave cannot be used."""

    exit_code = 2


class DataError(InputError):
    """Preference pairs that cannot be used."""


class GateError(TrainError):
    """Before the first step, the policy or the reference was not what DPO needs. `what` names the check."""
