"""SkyPilot's server over HTTP on loopback: the requests that its own client would send, and what it answers."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any, Literal, cast
from urllib.parse import urlencode

from jobs.skypilot.problems import RequestLost, SkyPilotFailed

TIMEOUT_S = 10.0
POLL_S = 0.1
API_VERSION = "62"
VERSION = "0.14.1"
"""Of SkyPilot, whose requests these are; a server of 0.14.1 takes clients of API version 62."""


class Unanswered(SkyPilotFailed):
    """Nothing listens there: the server is gone."""


class Rest:
    """One server's. A request is a POST that returns an id at once; what became of it is asked by that id."""

    def __init__(self, port: int, user_hash: str) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._user_hash = user_hash
        # Never through a proxy, whatever the environment says.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def healthy(self, wait_s: float) -> bool:
        """Whether it answers within `wait_s` seconds, asked at least once."""
        give_up = time.monotonic() + wait_s
        while True:
            try:
                _, body, _ = self._call("GET", "/api/health", timeout_s=max(2.0, wait_s))
                answer: dict[str, Any] = json.loads(body)
                return answer.get("status") == "healthy" and answer.get("version") == VERSION
            except Unanswered:
                return False  # nobody listens: no use to wait
            except (TimeoutError, ValueError):
                if time.monotonic() >= give_up:
                    return False
                time.sleep(POLL_S)

    def post(self, path: str, body: dict[str, Any]) -> str:
        """Files a request; its id.

        Raises:
            Unanswered: no server.
            SkyPilotFailed: the server refuses it.
        """
        # What SkyPilot's client puts in would be every SKYPILOT_* and AWS_* variable of this process.
        variables = {
            "SKYPILOT_USER_ID": self._user_hash,
            "SKYPILOT_USER": "launch",
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
        }
        whole = body | {"env_vars": variables, "override_skypilot_config": {}, "entrypoint_command": "launch"}
        status, answer, request_id = self._call("POST", path, data=json.dumps(whole).encode())
        if status != 200 or not request_id:
            raise SkyPilotFailed(f"SkyPilot's server refused {path}", why=f"{status}: {_text(answer)}")
        return request_id

    def status(self, request_id: str) -> str | None:
        """PENDING, WAITING, RUNNING, SUCCEEDED, FAILED, CANCELLED; None where the server knows no such request."""
        status, body, _ = self._call("GET", f"/api/status?{urlencode({'request_ids': request_id})}")
        if status != 200:
            raise TimeoutError(f"SkyPilot's server answers {status}")
        found: list[dict[str, Any]] = json.loads(body)
        return next((str(one["status"]) for one in found if one["request_id"] == request_id), None)

    def result(self, request_id: str, wait_s: float) -> Any:
        """What a request returned, once it has ended; nothing in it is unpickled.

        Raises:
            TimeoutError: it has not ended within `wait_s` seconds.
            RequestLost: the server does not know it, or ended in the middle of it.
            SkyPilotFailed: it failed; the reason is SkyPilot's.
        """
        status, body, _ = self._call("GET", f"/api/get?{urlencode({'request_id': request_id})}", timeout_s=wait_s)
        if status == 404:
            raise RequestLost(f"SkyPilot's server was started anew: it does not know the request {request_id}")
        answer: dict[str, Any] = json.loads(body)
        if status == 200:
            return json.loads(answer.get("return_value") or "null")
        detail: Any = answer.get("detail")
        error: dict[str, Any] = json.loads(cast("dict[str, str]", detail)["error"]) if isinstance(detail, dict) else {}
        kind, message = str(error.get("type") or status), str(error.get("message") or _text(body))
        if kind in ("RequestInterruptedError", "RequestCancelled"):
            raise RequestLost("SkyPilot's server ended in the middle of a request", why=message)
        raise SkyPilotFailed(kind, why=message)

    def log(self, request_id: str, lines: int) -> str:
        """The last lines of what a request has printed so far."""
        query = urlencode({"request_id": request_id, "tail": lines, "follow": "false", "format": "plain"})
        status, body, _ = self._call("GET", f"/api/stream?{query}")
        return body.decode(errors="replace").strip() if status == 200 else ""

    def _call(
        self, method: Literal["GET", "POST"], path: str, *, data: bytes | None = None, timeout_s: float = TIMEOUT_S
    ) -> tuple[int, bytes, str]:
        """Status, body and request id.

        Raises:
            Unanswered: nobody listens there.
            TimeoutError: no whole answer within `timeout_s`.
        """
        headers = {
            "Content-Type": "application/json",
            "X-SkyPilot-API-Version": API_VERSION,
            "X-SkyPilot-Version": VERSION,
        }
        request = urllib.request.Request(self._base + path, data=data, headers=headers, method=method)  # noqa: S310
        try:
            with self._opener.open(request, timeout=timeout_s) as answer:
                return answer.status, answer.read(), answer.headers.get("X-Skypilot-Request-ID") or ""
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), ""
        except TimeoutError:
            raise
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, TimeoutError):
                raise reason from None
            raise Unanswered("SkyPilot's server does not answer", why=str(reason)) from error


def _text(body: bytes) -> str:
    return body.decode(errors="replace")[:500]
