"""What goes wrong at the fake cloud, and how often: told by a test, used up one by one, never for good."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Operation = Literal[
    "launch",
    "terminate",
    "instances",
    "instance",
    "instance-types",
    "ssh-keys",
    "add-ssh-key",
    "delete-ssh-key",
    "firewall-rules",
    "images",
]
# Lambda's own words for what is asked for most (its OpenAPI document, `ApiError...`).
CODES: Mapping[int, tuple[str, str]] = {
    400: ("global/invalid-parameters", "Invalid request data."),
    401: ("global/invalid-api-key", "API key was invalid, expired, or deleted."),
    403: ("global/account-inactive", "Your account is inactive."),
    404: ("global/object-does-not-exist", "Specified object does not exist."),
    429: ("global/too-many-requests", "Your API requests are being rate limited."),
    500: ("global/internal-error", "An internal error occurred."),
    502: ("global/internal-error", "Bad gateway."),
    503: ("global/internal-error", "Service unavailable."),
}
NO_CAPACITY = "instance-operations/launch/insufficient-capacity"
QUOTA = "global/quota-exceeded"


@dataclass(frozen=True)
class Fault:
    """One way in which one answer is wrong.

    Attributes:
        answer: the HTTP status in place of the true one; None leaves it.
        code: Lambda's error code in that answer; by default the one of the status.
        though_it_works: what was asked for is done all the same, before the wrong answer.
        lie: nothing is done, and the answer is that of success.
        list_lag_s: seconds for which what is launched stands in no list.
        delay_s: seconds before the answer (what was asked for is done before them).
        cut: the connection is closed in place of an answer.
        where: fields that the request's body must have for this fault.
    """

    answer: int | None = None
    code: str | None = None
    message: str | None = None
    though_it_works: bool = False
    lie: bool = False
    list_lag_s: float = 0.0
    delay_s: float = 0.0
    cut: bool = False
    where: Mapping[str, object] = field(default_factory=dict[str, object])

    def error(self) -> tuple[str, str]:
        """Lambda's code and message of the wrong answer."""
        code, message = CODES.get(self.answer or 500, CODES[500])
        return self.code or code, self.message or message


@dataclass(frozen=True)
class Boot:
    """How one instance starts.

    Attributes:
        boot_s: seconds from the launch until it can become active at the soonest; None is the provider's own figure.
        stuck: it stays `booting`, with its machine running.
        unhealthy: it becomes `unhealthy` in place of `active`.
        no_sshd: it becomes active, and no sshd is started.
        ignore_user_data: it starts as if the launch request had held no `user_data`.
    """

    boot_s: float | None = None
    stuck: bool = False
    unhealthy: bool = False
    no_sshd: bool = False
    ignore_user_data: bool = False


class Faults:
    """The faults that are due. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._due: dict[str, list[Fault]] = {}
        self._boots: list[Boot] = []

    def next(self, operation: Operation, fault: Fault | None = None, *, times: int = 1, **fields: object) -> None:
        """The next `times` requests of `operation` go wrong so: a `Fault`, or its fields.

        Example:
            faults.next("launch", answer=500, though_it_works=True, list_lag_s=5)
            faults.next("instances", answer=429, times=6)
        """
        told = fault or Fault(**fields)  # type: ignore[arg-type]
        with self._lock:
            self._due.setdefault(operation, []).extend([told] * times)

    def next_boot(self, boot: Boot | None = None, *, times: int = 1, **fields: object) -> None:
        """The next `times` instances start so."""
        told = boot or Boot(**fields)  # type: ignore[arg-type]
        with self._lock:
            self._boots.extend([told] * times)

    def take(self, operation: str, body: Mapping[str, object]) -> Fault | None:
        """The fault that this request meets, used up."""
        with self._lock:
            due = self._due.get(operation, [])
            for index, fault in enumerate(due):
                if all(body.get(key) == value for key, value in fault.where.items()):
                    return due.pop(index)
        return None

    def take_boot(self) -> Boot:
        """How the next instance starts, used up."""
        with self._lock:
            return self._boots.pop(0) if self._boots else Boot()

    def left(self) -> dict[str, int]:
        """How many faults were told and did not happen, by operation (`boot` for starts)."""
        with self._lock:
            left = {operation: len(due) for operation, due in self._due.items() if due}
            return left | ({"boot": len(self._boots)} if self._boots else {})

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        with self._lock:
            self._due.clear()
            self._boots.clear()
