"""The process of our SkyPilot server: one for all drivers of a `$LAUNCH_HOME`, ended with the last of them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import psutil

import jobs
from jobs.lock import FileLock
from jobs.skypilot.folder import Folder
from jobs.skypilot.problems import SkyPilotFailed
from jobs.skypilot.rest import Rest

START_LIMIT_S = 180.0
"""Measured: 7 to 10 s on an idle machine, a minute where nothing of it is in the page cache yet."""
ANSWER_LIMIT_S = 30.0
"""A server at work on two slow cores is late with an answer for seconds; one that is late for longer hangs."""
END_LIMIT_S = 20.0
POLL_S = 0.1
LOG_LINES_SHOWN = 12
DEFAULT_PORT = 46580
MARK = "LAUNCH_SKYPILOT_FOLDER"
"""In the environment of the server and so of all its children: the folder whose server it is."""
MODULE = "-msky.server.server"
"""One word, so that `sky api stop` of an older SkyPilot, which ends whatever has `-m sky.server.server` in its
arguments, does not end ours."""

# What the server may know of this process's environment; all else, credentials above all, stays here.
_PASSED = {
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "USER", "LOGNAME", "PYTHONPATH", "LAUNCH_LAMBDA_URL",
    "AWS_ENDPOINT_URL", "AWS_CA_BUNDLE",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
}  # fmt: skip


class Server:
    """The server of one folder. `start` holds a place among its users until `close` or the end of this process."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._lock = FileLock(folder.root / "server.lock")
        self._place: int | None = None
        self.log = folder.root / "server.log"

    @property
    def environ(self) -> dict[str, str]:
        """Of the server's process; its children, and what they send to a machine, know no more."""
        passed = {name: value for name, value in os.environ.items() if name in _PASSED}
        packages = str(Path(jobs.__file__ or "").parents[1])
        if packages != sysconfig.get_path("purelib"):
            passed["PYTHONPATH"] = os.pathsep.join(filter(None, (packages, passed.get("PYTHONPATH"))))
        return passed | {
            # Where pip has put `aws`, which SkyPilot calls.
            "PATH": os.pathsep.join(filter(None, (sysconfig.get_path("scripts"), passed.get("PATH")))),
            "HOME": str(self._folder.root),
            MARK: str(self._folder.root),
            "IS_SKYPILOT_SERVER": "true",
            "SKYPILOT_USER_ID": self._folder.user_hash,
            "SKYPILOT_USER": "launch",
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
            # SkyPilot's workers write their titles over their environment otherwise, and with it over the mark.
            "SPT_NOENV": "1",
            # A user's folder of that name must not come before SkyPilot.
            "PYTHONSAFEPATH": "1",
        }

    def rest(self) -> Rest | None:
        """To the server that was started last, whether it answers or not; None before the first start."""
        state = self._state()
        return Rest(int(state["port"]), self._folder.user_hash) if state else None

    def start(self) -> Rest:
        """A server that answers: the one that runs, or a new one.

        One that has read other settings (a new key, a new row of the catalogue) is started anew, unless another driver
        uses it: it has requests under way then. One whose main process is gone, or that does not answer for
        `ANSWER_LIMIT_S`, is ended first, with all its workers: they would go on with requests that nobody knows.

        Raises:
            SkyPilotFailed: it ended, or did not answer within `START_LIMIT_S`; the end of its log is in the message.
        """
        with self._lock:
            alone = self._take_place()
            rest, state = self.rest(), self._state()
            usable = rest and state and (state["settings"] == self._folder.settings() or not alone)
            if usable and rest and self._main() and rest.healthy(wait_s=ANSWER_LIMIT_S):
                return rest
            self._end_all()
            port = _free_port()
            state = {"port": str(port), "settings": self._folder.settings()}
            beside = self._folder.root / ".server.json"
            beside.write_text(json.dumps(state), encoding="utf-8")
            beside.replace(self._folder.root / "server.json")
            pid = self._spawn(port)
            rest = Rest(port, self._folder.user_hash)
            give_up = time.monotonic() + START_LIMIT_S
            while not rest.healthy(wait_s=0.0):
                if not _runs(pid) or time.monotonic() > give_up:
                    self._end_all()
                    raise SkyPilotFailed(
                        "SkyPilot's server did not start",
                        why=f"{self._last_lines()}\n(its log: {self.log})",
                        next_step="launch doctor",
                    )
                time.sleep(POLL_S)
            return rest

    def close(self) -> None:
        """Gives up the place; the server ends where it was the last one."""
        if self._place is None:
            return
        with self._lock:
            alone = self._is_alone()
            os.close(self._place)
            self._place = None
            if alone:
                self._end_all()

    def stop(self) -> None:
        """Ends the server whoever uses it: every process of it, and none of anybody else's."""
        with self._lock:
            self._end_all()

    def _take_place(self) -> bool:
        """A shared lock on `server.users`, as long as this process lives. Whether no other process holds one."""
        if self._place is None:
            self._place = os.open(self._folder.root / "server.users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._place, fcntl.LOCK_SH)
        return self._is_alone()

    def _is_alone(self) -> bool:
        assert self._place is not None
        try:
            fcntl.flock(self._place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # The conversion gave the shared lock up. Nobody else can have taken more meanwhile: `_lock` is held.
            fcntl.flock(self._place, fcntl.LOCK_SH)
            return False
        fcntl.flock(self._place, fcntl.LOCK_SH)
        return True

    def _state(self) -> dict[str, str] | None:
        try:
            return json.loads((self._folder.root / "server.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def _spawn(self, port: int) -> int:
        """Starts it through a shell that ends at once, so that it is nobody's child; its pid."""
        argv = [sys.executable, MODULE, "--host=127.0.0.1", f"--port={port}"]
        environ = self.environ | {"SKYPILOT_API_SERVER_LOCAL_PORT": str(port)}
        started = subprocess.run(
            ["/bin/sh", "-c", '"$@" >"$0" 2>&1 </dev/null & echo $!', str(self.log), *argv],
            cwd=self._folder.root,
            env=environ,
            start_new_session=True,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return int(started.stdout)

    def _main(self) -> psutil.Process | None:
        return next((one for one in self._processes() if MODULE in _arguments(one)), None)

    def _processes(self) -> list[psutil.Process]:
        """Those that carry our mark. A pid or a process group from a file could be another's by now; this cannot."""
        mine = [one for one in psutil.process_iter() if one.pid != os.getpid()]
        return [one for one in mine if _environ(one).get(MARK) == str(self._folder.root)]

    def _end_all(self) -> None:
        """Kills them all, and again those that were started meanwhile. SkyPilot keeps its state in SQLite.

        Not by SIGTERM: it would wait for requests, a minute and more, and cancel them then all the same.
        """
        give_up = time.monotonic() + END_LIMIT_S
        while found := self._processes():
            if time.monotonic() > give_up:
                raise SkyPilotFailed(
                    "SkyPilot's server does not end", why=f"still there: {', '.join(str(one.pid) for one in found)}"
                )
            for one in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            psutil.wait_procs(found, timeout=1.0)

    def _last_lines(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-LOG_LINES_SHOWN:])


def _environ(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):  # ended, a zombie, or another user's
        return {}


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.Error, OSError):
        return []


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _free_port() -> int:
    """A port that is free now, below the ranges from which systems hand out ports, and not SkyPilot's default."""
    for _ in range(200):
        port = 20000 + secrets.randbelow(12000)
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SkyPilotFailed("SkyPilot's server has no port", why="200 ports between 20000 and 32000 are in use")
