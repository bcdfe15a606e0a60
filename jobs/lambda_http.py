"""One request to Lambda's API, and what its refusals mean.

LaunchError
├── CredentialProblem
│   └── KeyRefused          exit 4: no such key (any more), or an account that may buy nothing
└── LambdaProblem           exit 1
    ├── LambdaUnreachable   no answer, or none that can be used
    ├── RateLimited         nothing was done; the same request may be sent again later
    └── LambdaRefused       nothing was done, `code` says why
        ├── NoCapacity
        └── QuotaReached

What was asked and what was answered are bytes here; `jobs.lambda_api` gives them types.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException, HTTPMessage
from typing import IO, Protocol, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from artifacts.errors import CredentialProblem, LaunchError
from jobs.lambda_key import new_key

ADDRESS = "https://cloud.lambda.ai"
LARGEST_ANSWER = 4 * 2**20
_PIECE = 64 * 2**10


class KeyRefused(CredentialProblem):
    pass


class LambdaProblem(LaunchError):
    pass


class LambdaUnreachable(LambdaProblem):
    """Lambda did not answer, or not with what its documentation says.

    `sent` is False where no request can have reached it (no address, connection refused).
    """

    def __init__(self, what: str, *, why: str, sent: bool = True, next_step: str = "") -> None:
        super().__init__(what, why=why, next_step=next_step)
        self.sent = sent


class RateLimited(LambdaProblem):
    """More than a request a second, or than five launches a minute, over the whole account."""

    def __init__(self, what: str, *, why: str, retry_after_s: float) -> None:
        super().__init__(what, why=why, next_step="the same again in a minute")
        self.retry_after_s = retry_after_s


class LambdaRefused(LambdaProblem):
    def __init__(self, what: str, *, why: str, code: str, next_step: str = "") -> None:
        super().__init__(what, why=why, next_step=next_step)
        self.code = code


class NoCapacity(LambdaRefused):
    pass


class QuotaReached(LambdaRefused):
    pass


class Pace:
    """At most one request in `interval_s`, as the documentation of Lambda's API asks. Threads may share one."""

    def __init__(
        self, *, monotonic: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._monotonic, self._sleep = monotonic, sleep
        self._free_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def wait(self, what: str, interval_s: float) -> None:
        with self._lock:
            now = self._monotonic()
            start = max(now, self._free_at.get(what, now))
            self._free_at[what] = start + interval_s
        if start > now:
            self._sleep(start - now)


def base_address(environ: Mapping[str, str]) -> str:
    """`$LAUNCH_LAMBDA_URL`, or Lambda's address; without a path.

    Raises:
        LambdaUnreachable: it is no https address. Plain http goes to this computer alone: the key travels in it.
    """
    base = environ.get("LAUNCH_LAMBDA_URL", ADDRESS).rstrip("/")
    if urlsplit(base).scheme != "https" and not is_loopback(base):
        raise LambdaUnreachable("Lambda was not asked.", why="LAUNCH_LAMBDA_URL is not an https address", sent=False)
    return base


def is_loopback(base: str) -> bool:
    """Whether this is a server of a test on this computer, by plain http."""
    split = urlsplit(base)
    return split.scheme == "http" and split.hostname in ("127.0.0.1", "::1", "localhost")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would send the key to wherever an answer points."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def send(base: str, key: str, method: str, path: str, body: object | None = None, *, timeout_s: float) -> bytes:
    """The body of the answer to one request, at most `LARGEST_ANSWER` bytes within about `timeout_s` seconds.

    Raises:
        KeyRefused, RateLimited, NoCapacity, QuotaReached, LambdaRefused: it was refused, and did nothing.
        LambdaUnreachable: whether it did anything is not known, unless its `sent` is False.
    """
    headers = {"Authorization": f"Bearer {key}", "Accept": "application/json", "User-Agent": "dpo-launch"}
    data = None if body is None else json.dumps(body).encode()
    if data is not None:
        headers["Content-Type"] = "application/json"
    request = urllib.request.Request(f"{base}/api/v1/{path}", data, headers, method=method)  # noqa: S310  see base_address
    until = time.monotonic() + timeout_s
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout_s) as answer:
            return _read(answer, until)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error, until) from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        sent = not (isinstance(error, urllib.error.URLError) and _never_connected(reason))
        raise LambdaUnreachable("Lambda does not answer.", why=str(reason) or type(error).__name__, sent=sent) from None


class _Body(Protocol):
    def read1(self, n: int, /) -> bytes: ...


def _never_connected(reason: object) -> bool:
    from socket import gaierror

    return isinstance(reason, ConnectionRefusedError | gaierror)


def _read(answer: _Body, until: float) -> bytes:
    """All of it. The time-out of a socket is for each piece: one byte now and then would hold us for ever."""
    pieces: list[bytes] = []
    size = 0
    while piece := answer.read1(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > LARGEST_ANSWER:
            raise LambdaUnreachable("Lambda's answer is not used.", why="its answer is larger than 4 MiB")
        if time.monotonic() > until:
            raise TimeoutError("timed out in mid-answer")
    return b"".join(pieces)


class _Reason(BaseModel):
    code: str = ""
    message: str = ""
    suggestion: str | None = None


class _Refusal(BaseModel):
    error: _Reason = _Reason()


def _refusal(error: urllib.error.HTTPError, until: float) -> LaunchError:
    """By the `code` in the answer; by the status where there is none."""
    status = error.code
    try:
        reason = _Refusal.model_validate_json(_read(cast("_Body", error), until)).error
    except (ValidationError, OSError, HTTPException, LambdaUnreachable):
        reason = _Reason()
    why = f"it answered {status}" + (f": {reason.message}" if reason.message else "")
    code = reason.code
    if status == 401 or code == "global/invalid-api-key" or (status == 403 and not code):
        gone = f"It answered {status}: expired, deleted or never made."
        return KeyRefused("Lambda does not accept the API key.", why=gone, next_step=new_key())
    if code in ("global/account-inactive", "global/invalid-address"):
        return KeyRefused(
            "Lambda sells this account nothing.", why=why,
            next_step="look at address and payment at https://cloud.lambda.ai/settings/billing",
        )  # fmt: skip
    if code == "instance-operations/launch/insufficient-capacity":
        return NoCapacity("Lambda has no such machine free there.", why=why, code=code)
    if code == "global/quota-exceeded":
        return QuotaReached(
            "The account may not rent another machine at Lambda.", why=why, code=code,
            next_step="end a machine that you do not need, or ask Lambda for a larger quota",
        )  # fmt: skip
    if status == 429:
        return RateLimited("Lambda was asked too often.", why=why, retry_after_s=_seconds(error.headers["Retry-After"]))
    if 400 <= status < 500 and status != 408:
        return LambdaRefused("Lambda refused.", why=why, code=code, next_step=reason.suggestion or "")
    return LambdaUnreachable("Lambda gives no answer that can be used.", why=why)


def _seconds(given: str | None) -> float:
    try:
        return min(max(float(given or 0), 0.0), 60.0)
    except ValueError:  # an HTTP date: rare, and a minute is not worth reading it
        return 0.0
