# pyright: basic
"""A model hub on loopback: as much of the hub's HTTP interface as downloading a model needs, for the hub's own client.

Answers and their `X-Error-*` headers are those of the public hub: a model's page and its tree are open even where it
is gated, its files are not; without a token an unknown model is 401, with one 404.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

MEMBER, STRANGER = "hf_member_of_the_tests", "hf_stranger_of_the_tests"
"""The token of an account that accepted every licence, and of one that accepted none."""


@dataclass
class Repository:
    """Files by name for each revision. `gated`: only a member's token gets them."""

    revisions: dict[str, dict[str, bytes]]
    gated: bool = False

    def commit(self, revision: str) -> str | None:
        """A revision's commit, by its name or by itself."""
        commits = {name: hashlib.sha1(name.encode()).hexdigest() for name in self.revisions}
        return commits.get(revision) or (revision if revision in commits.values() else None)

    def files(self, commit: str) -> dict[str, bytes]:
        return next(files for name, files in self.revisions.items() if self.commit(name) == commit)


@dataclass
class Hub:
    """What is served, and `requests`: the method and path of each request so far, and whether it bore a token."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str, bool]] = field(default_factory=list)
    endpoint: str = ""


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """`hub` at `hub.endpoint`, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


_API = re.compile(r"/api/models/([\w.-]+/[\w.-]+)/(revision|tree)/([^/]+)(/.*)?")
_FILE = re.compile(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)")


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status, self.message, self.code = status, message, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.hub.requests.append((self.command, path, token is not None))
        try:
            headers, body = self._answer(path, token)
        except _Refused as refused:
            headers = {"X-Error-Message": refused.message} | ({"X-Error-Code": refused.code} if refused.code else {})
            self._send(refused.status, headers, json.dumps({"error": refused.message}).encode())
        else:
            self._send(200, headers, body)

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, path: str, token: str | None) -> tuple[dict[str, str], bytes]:
        if token not in (None, MEMBER, STRANGER):
            raise _Refused(401, "Invalid credentials in Authorization header")
        if found := _API.fullmatch(path):
            name, what, revision, below = found.groups()
            repository, commit = self._find(name, revision, token)
            if what == "revision":
                return {}, json.dumps({"id": name, "sha": commit, "gated": repository.gated}).encode()
            files = {} if below else repository.files(commit)
            return {}, json.dumps(
                [{"type": "file", "path": at, "size": len(data), "oid": _oid(data)} for at, data in files.items()]
            ).encode()
        if found := _FILE.fullmatch(path):
            name, revision, at = found.groups()
            repository, commit = self._find(name, revision, token)
            if repository.gated and token != MEMBER:
                raise _Refused(403 if token else 401, f"Access to model {name} is restricted.", "GatedRepo")
            data = repository.files(commit).get(at)
            if data is None:
                raise _Refused(404, "Entry not found", "EntryNotFound")
            return {"X-Repo-Commit": commit, "ETag": f'"{_oid(data)}"'}, data
        raise _Refused(404, "Not found")

    def _find(self, name: str, revision: str, token: str | None) -> tuple[Repository, str]:
        repository = self.hub.repositories.get(name)
        if repository is None:
            if token is None:
                raise _Refused(401, "Invalid username or password.")
            raise _Refused(404, "Repository not found", "RepoNotFound")
        commit = repository.commit(revision)
        if commit is None:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repository, commit

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keeps the test's output free of the server's log."""


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
