"""Lambda's REST API over HTTP: paths, bearer keys, error documents, and a log of every request.

Fields and codes are those of Lambda's OpenAPI document (https://cloud.lambda.ai/api/v1/openapi.json, 1.10) and what
SkyPilot 0.14.1 reads (sky/provision/lambda_cloud/).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

from tests.acceptance.lambda_cloud.faults import Fault
from tests.acceptance.lambda_cloud.provider import Account, Provider, Refused

PREFIX = "/api/v1"
LARGEST_BODY = 4 * 2**20
TICK_S = 0.05


@dataclass(frozen=True)
class Request:
    """One request that was answered. `account` is None where the key was refused; `status` 0 where it was cut."""

    at: float
    account: str | None
    method: str
    path: str
    body: Mapping[str, object]
    status: int
    fault: Fault | None


@dataclass(frozen=True)
class Call:
    """What a route works on."""

    account: Account
    body: Mapping[str, object]
    rest: str
    fault: Fault | None


class Api:
    """The cloud's servers. `provider`, `faults`, `meter` and `log` are for tests; customers have the addresses only."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.faults = provider.faults
        self.meter = provider.meter
        self._log: list[Request] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._servers: list[ThreadingHTTPServer] = []
        self._threads = [threading.Thread(target=self._tick, daemon=True)]
        self._threads[0].start()

    def listen(self, address: str, port: int = 0, *, certificate: Path | None = None) -> str:
        """A further address to be asked at, with TLS where there is a certificate; returns its base URL."""
        server = ThreadingHTTPServer((address, port), _handler(self))
        server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        self._servers.append(server)
        self._threads.append(thread)
        return f"{'https' if certificate else 'http'}://{address}:{server.server_address[1]}"

    def log(self, method: str | None = None, path: str | None = None) -> list[Request]:
        """All requests so far, or those of one method or path (without `/api/v1`), oldest first."""
        with self._lock:
            return [
                each for each in self._log if method in (None, each.method) and path in (None, each.path)
            ]  # fmt: skip

    def creates(self) -> list[Request]:
        """The launch requests, refused ones too."""
        return self.log("POST", "/instance-operations/launch")

    def forget(self) -> None:
        """The log begins anew."""
        with self._lock:
            self._log.clear()

    def close(self) -> None:
        """No address answers any more. Instances are the provider's."""
        self._stop.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()

    def _tick(self) -> None:
        while not self._stop.wait(TICK_S):
            self.provider.step()

    def record(self, request: Request) -> None:
        """For the handler."""
        with self._lock:
            self._log.append(request)

    def answer(self, method: str, path: str, key: str, body: Mapping[str, object]) -> tuple[int, object, Request]:
        """Status (0: cut the connection), document, and what the log will hold."""
        account: Account | None = None
        fault: Fault | None = None
        operation, route, rest = _route(method, path)
        try:
            account = self.provider.account(key)
            fault = self.faults.take(operation, body)
            status, document = self._run(route, Call(account, body, rest, fault))
        except Refused as refused:
            status, document = refused.status, _error(refused.code, refused.message)
        if fault and fault.delay_s:
            self._stop.wait(fault.delay_s)
        if fault and fault.cut:
            status = 0
        name = None if account is None else account.name
        return status, document, Request(time.time(), name, method, path, body, status, fault)

    def _run(self, route: Route, call: Call) -> tuple[int, object]:
        fault = call.fault
        if fault is None:
            return 200, {"data": route(self.provider, call)}
        if fault.answer is not None and not fault.though_it_works:
            return fault.answer, _error(*fault.error())
        document: object = {"data": LIES.get(route, {})} if fault.lie else {"data": route(self.provider, call)}
        if fault.answer is not None:
            return fault.answer, _error(*fault.error())
        return 200, document


Route = Callable[[Provider, Call], object]


def _terminate(provider: Provider, call: Call) -> object:
    return {"terminated_instances": provider.terminate(call.account, call.body)}


def _launch(provider: Provider, call: Call) -> object:
    lag_s = call.fault.list_lag_s if call.fault else 0.0
    return {"instance_ids": provider.launch(call.account, call.body, list_lag_s=lag_s)}


def _delete_ssh_key(provider: Provider, call: Call) -> object:
    provider.delete_ssh_key(call.account, call.rest)
    return {}


def _set_firewall_rules(provider: Provider, call: Call) -> object:
    rules = call.body.get("data")
    if not isinstance(rules, list):
        raise Refused(400)
    call.account.firewall_rules = [dict(each) for each in rules]
    return call.account.firewall_rules


def _image() -> dict[str, object]:
    return {"id": "stack-22-04", "family": "lambda-stack-22-04", "name": "Lambda Stack 22.04", "architecture": "x86_64"}


ROUTES: Mapping[tuple[str, str], tuple[str, Route]] = {
    ("GET", "/instance-types"): ("instance-types", lambda provider, call: provider.types()),
    ("GET", "/instances"): ("instances", lambda provider, call: provider.listed(call.account)),
    ("GET", "/instances/"): ("instance", lambda provider, call: provider.get(call.account, call.rest)),
    ("GET", "/ssh-keys"): ("ssh-keys", lambda provider, call: list(call.account.ssh_keys.values())),
    ("POST", "/ssh-keys"): ("add-ssh-key", lambda provider, call: provider.add_ssh_key(call.account, call.body)),
    ("DELETE", "/ssh-keys/"): ("delete-ssh-key", _delete_ssh_key),
    ("GET", "/firewall-rules"): ("firewall-rules", lambda provider, call: call.account.firewall_rules),
    ("PUT", "/firewall-rules"): ("firewall-rules", _set_firewall_rules),
    ("GET", "/images"): ("images", lambda provider, call: [_image()]),
    ("POST", "/instance-operations/launch"): ("launch", _launch),
    ("POST", "/instance-operations/terminate"): ("terminate", _terminate),
}

# What a lie says; of the other operations, nothing.
LIES: Mapping[Route, object] = {_terminate: {"terminated_instances": []}}


def _route(method: str, path: str) -> tuple[str, Route, str]:
    """The operation's name (for faults), what answers it, and the id at the path's end."""
    if found := ROUTES.get((method, path)):
        return (*found, "")
    head, slash, rest = path.rpartition("/")
    operation, route = ROUTES.get((method, head + slash), ("", _no_such_path))
    return operation, route, rest


def _no_such_path(_: Provider, call: Call) -> object:
    raise Refused(404)


def _error(code: str, message: str) -> dict[str, object]:
    return {"error": {"code": code, "message": message, "suggestion": "This cloud is not a real one."}}


def _handler(api: Api) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30  # seconds for which a connection may say nothing

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(min(length, LARGEST_BODY))
            try:
                parsed = json.loads(raw or b"{}")
                body = cast("Mapping[str, object]", parsed) if isinstance(parsed, dict) else None
            except ValueError:
                body = None
            path = self.path.partition("?")[0]
            if not path.startswith(PREFIX + "/"):
                self._say(404, _error("global/object-does-not-exist", "No such path."))
                return
            if body is None:
                self._say(400, _error("global/invalid-parameters", "The body is no JSON object."))
                return
            status, document, request = api.answer(
                self.command, path.removeprefix(PREFIX), _key(self.headers.get("Authorization", "")), body
            )
            api.record(request)
            if status == 0:
                self.close_connection = True
                return
            self._say(status, document)

        do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815  the base class's names

        def _say(self, status: int, document: object) -> None:
            payload = json.dumps(document).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # who asked has gone, as an instance does that ends itself

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002  the base class's name

    return Handler


def _key(header: str) -> str:
    """Of `Bearer KEY`, or `Basic` with the key as the user's name: Lambda takes both."""
    if match := re.fullmatch(r"Bearer\s+(\S+)", header):
        return match[1]
    if match := re.fullmatch(r"Basic\s+(\S+)", header):
        try:
            return base64.b64decode(match[1]).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""
