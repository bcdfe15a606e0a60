"""Everything that can go wrong, as people see it.

LaunchError                 exit 1: the job failed, or its teardown is not confirmed
├── UsageProblem            exit 2: bad input, or a question with no terminal
│   └── StoreTooNew         the database was written by a newer version; untouched
├── NothingFits             exit 3: no offer fits requirement and budget
├── CredentialProblem       exit 4
├── Declined                exit 6: the question was declined
├── Unreachable             a machine does not answer by SSH, now; the same call may work later
├── HostKeyChanged          a machine shows another host key than the one that was put on it
├── MachineGone             a rented machine is there no more, and nobody here ended it
├── NotWhole                an artifact does not match its manifest
├── StoreFailed             the database failed after it had been opened: full disk, lock, lost server
└── LeaseLost               another driver has taken the job over: write nothing more
"""

from __future__ import annotations

from typing import ClassVar


class LaunchError(Exception):
    """What happened, why, whether anything costs money, and the command to type next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, why: str = "", next_step: str = "", costing: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.next_step, self.costing = what, why, next_step, costing

    def __str__(self) -> str:
        lines = [self.what, self.why, self.costing, self.next_step and f"Next: {self.next_step}"]
        return "\n".join(line for line in lines if line)


class UsageProblem(LaunchError):
    exit_code = 2


class StoreTooNew(UsageProblem):
    pass


class NothingFits(LaunchError):
    exit_code = 3


class CredentialProblem(LaunchError):
    exit_code = 4


class Declined(LaunchError):
    exit_code = 6


class Unreachable(LaunchError):
    pass


class HostKeyChanged(LaunchError):
    pass


class MachineGone(LaunchError):
    pass


class NotWhole(LaunchError):
    pass


class StoreFailed(LaunchError):
    pass


class LeaseLost(LaunchError):
    pass
