"""Lambda's API on loopback, for its client and for the guard: machines, keys, and answers that go wrong in turn."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "secret_launch_0123456789abcdef"

LAUNCH = "POST instance-operations/launch"
TERMINATE = "POST instance-operations/terminate"
LIST = "GET instances"


@dataclass(frozen=True)
class Fault:
    """One answer that goes wrong. `works`: the operation is done all the same. `cut`: no answer, the line is cut."""

    status: int = 200
    code: str = ""
    works: bool = False
    cut: bool = False
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class LoopbackLambda:
    machines: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    keys: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    faults: dict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    asked: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    address: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str | None, *, status: str = "active", **more: object) -> str:
        number = f"{len(self.machines):032x}"
        self.machines[number] = {
            "id": number, "name": name, "status": status, "ip": "10.0.0.1", "is_reserved": False,
            "region": {"name": "us-east-1", "description": "Virginia, USA"},
            "instance_type": {"name": "gpu_1x_a10", "price_cents_per_hour": 129, "specs": {"gpus": 1}},
            "ssh_key_names": ["sky-key-1"], "hostname": "10-0-0-1", **more,
        }  # fmt: skip
        return number

    def named(self, name: str) -> list[str]:
        with self._lock:
            return [number for number, machine in self.machines.items() if machine["name"] == name]

    def count(self, operation: str) -> int:
        with self._lock:
            return sum(each == operation for each, _ in self.asked)

    def answer(self, operation: str, key: str | None, body: Any) -> tuple[Fault | None, int, object]:
        with self._lock:
            self.asked.append((operation, body))
            fault = self.faults[operation].pop(0) if self.faults[operation] else None
            if key != f"Bearer {KEY}":
                return None, 401, {"error": {"code": "global/invalid-api-key", "message": "API key was invalid."}}
            if fault and not fault.works:
                return fault, fault.status, {"error": {"code": fault.code, "message": "It went wrong."}}
            status, data = 200, self._do(operation, body)
            if fault:
                return fault, fault.status, {"error": {"code": fault.code, "message": "It went wrong."}}
            return None, status, {"data": data}

    def _do(self, operation: str, body: Any) -> object:
        if operation == LAUNCH:
            number = self.add(body["name"], status="booting", ip=None, tags=body.get("tags"))
            return {"instance_ids": [number]}
        if operation == TERMINATE:
            return {"terminated_instances": [self.machines.pop(each, None) for each in body["instance_ids"]]}
        if operation == LIST:
            return list(self.machines.values())
        if operation == "POST ssh-keys":
            self.keys.append({"id": f"{len(self.keys)}", **body})
            return self.keys[-1]
        if operation == "GET ssh-keys":
            return self.keys
        raise AssertionError(f"nothing of Lambda's: {operation}")


@contextmanager
def serving(cloud: LoopbackLambda, port: int = 0, host: str = "127.0.0.1") -> Iterator[LoopbackLambda]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            operation = f"{self.command} {self.path.removeprefix('/api/v1/')}"
            given = json.loads(body) if body else None
            fault, status, document = cloud.answer(operation, self.headers["Authorization"], given)
            if fault and fault.cut:
                self.connection.close()
                return
            answer = fault.body if fault and fault.body is not None else json.dumps(document).encode()
            self.send_response(status)
            for name, value in fault.headers if fault else ():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name in the base class
            pass

    with ThreadingHTTPServer((host, port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        cloud.address = f"http://{host}:{server.server_port}"
        try:
            yield cloud
        finally:
            server.shutdown()
            thread.join()
