# pyright: basic
"""Commands and files on a rented machine, over one SSH connection with a pinned host key."""

from __future__ import annotations

import base64
import io
import socket
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import paramiko
from fabric import Config, Connection
from invoke.exceptions import CommandTimedOut

from artifacts.errors import HostKeyChanged, Unreachable
from artifacts.host import RemoteHost

CONNECT_S = 10.0
KEEPALIVE_S = 15
_CUT = (paramiko.SSHException, EOFError, OSError)
"""A refused, silent or broken connection, as paramiko says it."""


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    status: int
    out: str
    err: str


class Shell:
    """Connects when it is first used, and again after a cut.

    Nothing of the user's own SSH is read: no agent, no configuration, no known_hosts. Every method raises Unreachable
    for a connection that is not there, and HostKeyChanged where something else answers.
    """

    def __init__(self, host: RemoteHost, *, connect_s: float = CONNECT_S) -> None:
        self.host, self._connect_s = host, connect_s
        self._connection: Connection | None = None
        self._sftp: paramiko.SFTPClient | None = None

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def run(self, command: str, *, stdin: str | None = None, timeout_s: float = 60.0) -> Said:
        """Runs a command of the machine's shell to its end, with `stdin` as its input.

        Raises Unreachable also where it has not ended after `timeout_s`; it may run on.
        """
        connection = self._connected()
        feed: Any = False if stdin is None else io.StringIO(stdin)
        try:
            done = connection.run(command, hide=True, warn=True, in_stream=feed, timeout=timeout_s, encoding="utf-8")
        except CommandTimedOut as error:
            self.close()
            raise Unreachable(f"{self.host.address} did not end a command within {timeout_s:.0f} s") from error
        except _CUT as error:
            raise self._lost(error) from error
        if done.exited == -1:  # paramiko's word for a channel that was cut off
            raise self._lost(EOFError("the connection was cut"))
        return Said(done.exited, done.stdout, done.stderr)

    def sftp(self) -> paramiko.SFTPClient:
        connection = self._connected()
        if self._sftp is None:
            try:
                self._sftp = connection.sftp()
                self._sftp.get_channel().settimeout(60.0)
            except _CUT as error:
                raise self._lost(error) from error
        return self._sftp

    def lost(self, error: BaseException) -> Unreachable:
        """What to raise for an error of the `sftp` client that is no answer of the machine's; it connects anew."""
        return self._lost(error)

    def close(self) -> None:
        connection, self._connection, self._sftp = self._connection, None, None
        if connection is not None:
            connection.close()

    def _connected(self) -> Connection:
        if self._connection is not None:
            transport = self._connection.transport
            if transport is not None and transport.is_active():
                return self._connection
            self.close()
        host = self.host
        connection = Connection(
            host.address,
            user=host.user,
            port=host.port,
            config=Config(overrides={"load_ssh_configs": False}),
            connect_timeout=self._connect_s,
            connect_kwargs={
                "key_filename": str(host.key_file),
                "allow_agent": False,
                "look_for_keys": False,
                "banner_timeout": self._connect_s,
                "auth_timeout": self._connect_s,
            },
        )
        # Fabric would take any key that it does not know.
        connection.client.set_missing_host_key_policy(_Refuse())
        kind, blob = host.host_key.split()[:2]
        key = paramiko.PKey.from_type_string(kind, base64.b64decode(blob))
        connection.client.get_host_keys().add(host.known_as, kind, key)
        try:
            connection.open()
        except (paramiko.BadHostKeyException, _OtherKeyError) as error:
            raise HostKeyChanged(
                f"{host.address} shows another host key than the one that was put on it",
                why="something else may be answering at that address; nothing was sent to it",
            ) from error
        except _CUT as error:
            connection.close()
            raise Unreachable(f"{host.address} cannot be reached by SSH", why=str(error)) from error
        assert connection.transport is not None
        connection.transport.set_keepalive(KEEPALIVE_S)
        self._connection = connection
        return connection

    def _lost(self, error: BaseException) -> Unreachable:
        self.close()
        timed_out = isinstance(error, socket.timeout)
        return Unreachable(
            f"The connection to {self.host.address} was lost", why="no answer" if timed_out else str(error)
        )


class _OtherKeyError(Exception):
    pass


class _Refuse(paramiko.MissingHostKeyPolicy):
    """A key of another kind than the pinned one is as wrong as another key of its kind."""

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        raise _OtherKeyError


def wait_until_reachable(shell: Shell, *, limit_s: float, pause_s: float = 1.0, say: Any = None) -> None:
    """Tries until somebody can log in. Raises Unreachable after `limit_s`, HostKeyChanged at once."""
    give_up = time.monotonic() + limit_s
    while True:
        try:
            if shell.run("true", timeout_s=30).status == 0:
                return
            problem = Unreachable(f"{shell.host.address} runs no command")
        except Unreachable as error:
            problem = error
        if time.monotonic() >= give_up:
            raise problem
        if say is not None:
            say()
        time.sleep(pause_s)
