# pyright: basic
"""Commands and files on a rented machine, over one SSH connection with a pinned host key."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
SILENT_S = 45
"""A connection on which nothing is acknowledged for so long is lost."""
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
        try:
            if stdin is None:
                done = connection.run(
                    command, hide=True, warn=True, in_stream=False, timeout=timeout_s, encoding="utf-8"
                )
                said = Said(done.exited, done.stdout, done.stderr)
            else:
                said = self._fed(connection, command, stdin, timeout_s)
        except (CommandTimedOut, TimeoutError) as error:
            self.close()
            raise Unreachable(f"{self.host.address} did not end a command within {timeout_s:.0f} s") from error
        except _CUT as error:
            raise self._lost(error) from error
        if said.status == -1:  # paramiko's word for a channel that was cut off
            raise self._lost(EOFError("the connection was cut"))
        return said

    @staticmethod
    def _fed(connection: Connection, command: str, stdin: str, timeout_s: float) -> Said:
        """Fabric hands input over a character each 10 ms; this, at once. The command's output has to be small."""
        assert connection.client is not None
        feed, out, err = connection.client.exec_command(command, timeout=timeout_s)
        try:
            with feed:
                feed.write(stdin)
                feed.flush()
                feed.channel.shutdown_write()
        except OSError:
            if not feed.channel.exit_status_ready():  # what ended without reading it says why by its status
                raise
        said = [text.read().decode(errors="replace") for text in (out, err)]
        if not out.channel.status_event.wait(timeout_s):
            raise TimeoutError
        return Said(out.channel.recv_exit_status(), said[0], said[1])

    def sftp(self) -> paramiko.SFTPClient:
        connection = self._connected()
        if self._sftp is None:
            try:
                client: paramiko.SFTPClient = connection.sftp()
                channel = client.get_channel()
                assert channel is not None
                channel.settimeout(SILENT_S)
            except _CUT as error:
                raise self._lost(error) from error
            self._sftp = client
        return self._sftp

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Around calls of `sftp`: Unreachable for each error that is no answer of the machine's, and no fault of a
        file here. The next call connects anew."""
        try:
            yield
        except (paramiko.SSHException, EOFError, TimeoutError, ConnectionError) as error:
            raise self._lost(error) from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise self._lost(error) from error  # "Socket is closed" and its like have no number

    def close(self) -> None:
        connection, self._connection, self._sftp = self._connection, None, None
        if connection is None:
            return
        with suppress(*_CUT):  # the machine may have ended a moment ago, and cannot be told good-bye
            connection.close()
        if connection.client is not None:
            with suppress(*_CUT):
                connection.client.close()

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
                "channel_timeout": SILENT_S,
            },
        )
        # Fabric would take any key that it does not know.
        client = connection.client
        assert client is not None
        client.set_missing_host_key_policy(_Refuse())
        kind, blob = host.host_key.split()[:2]
        key = paramiko.PKey.from_type_string(kind, base64.b64decode(blob))
        client.get_host_keys().add(host.known_as, kind, key)
        try:
            connection.open()
        except (paramiko.BadHostKeyException, _OtherKeyError) as error:
            raise HostKeyChanged(
                f"{host.address} shows another host key than the one that was put on it",
                why="something else may be answering at that address; nothing was sent to it",
            ) from error
        except _CUT as error:
            connection.close()
            why = getattr(error, "strerror", None) or str(error)
            raise Unreachable(f"{host.address} cannot be reached by SSH", why=why) from error
        assert connection.transport is not None
        connection.transport.set_keepalive(KEEPALIVE_S)
        plain: Any = connection.transport.sock
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # some of paramiko's own waits have no end
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_S * 1000)
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
