# SPDX-License-Identifier: MIT
"""A client of the console: one blocking connection. Tools layer.

Source: PostgreSQL documentation, "Message Flow", "Simple Query".
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pooler.config.model import RESERVED_DATABASE, Config
from pooler.errors import LoginError, PoolerError
from pooler.login import packets
from pooler.login.server import ServerLogin

CONNECT_S = 10.0
# An answer of the console: a row for each of many clients.
MAX_ANSWER_BYTES = 1 << 30
_ANY_HERE = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


class ConsoleFailure(PoolerError):
    """There is no console to talk to, or it has refused; the text is for people."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the console is: a path, or a host and a port."""

    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def of(cls, config: Config) -> Place:
        """Where a pooler with these files is; ConsoleFailure if it is nowhere."""
        settings = config.settings
        if settings.unix_socket_dir:
            path = f"{settings.unix_socket_dir}/.s.PGSQL.{settings.listen_port}"
            return cls(path=path)
        if not settings.listen_addr:
            raise ConsoleFailure("neither unix_socket_dir nor listen_addr is set")
        host = settings.listen_addr[0]
        return cls(host=_ANY_HERE.get(host, host), port=settings.listen_port)

    def __str__(self) -> str:
        return self.path or f"{self.host} port {self.port}"

    def connect(self) -> socket.socket:
        """A connection; OSError."""
        if not self.path:
            return socket.create_connection((self.host, self.port), CONNECT_S)
        made = socket.socket(socket.AF_UNIX)
        try:
            made.settimeout(CONNECT_S)
            if self.path.startswith("@"):
                made.connect(b"\0" + os.fsencode(self.path[1:]))
            else:
                _connect_as_owner(made, Path(self.path))
        except OSError:
            made.close()
            raise
        return made


def _connect_as_owner(made: socket.socket, path: Path) -> None:
    """Root comes as who runs the pooler: that one needs no password."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(path.lstat().st_uid)
    try:
        made.connect(str(path))
    finally:
        os.seteuid(before)


@dataclass(slots=True)
class Result:
    """What one command was answered."""

    columns: list[str] = field(default_factory=list)
    rows: list[list[str | None]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    error: str = ""
    tag: str = ""


class ConsoleClient:
    """One session of the console."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._data = b""

    @classmethod
    def connect(cls, place: Place, user: str, password: str | None) -> ConsoleClient:
        """Log in; ConsoleFailure."""
        try:
            connection = place.connect()
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConsoleFailure(f"no pooler answers at {place}: {reason}") from None
        made = cls(connection)
        try:
            made._log_in(user, password)
        except (LoginError, OSError) as error:
            connection.close()
            raise ConsoleFailure(f"console at {place}: {error}") from None
        connection.settimeout(None)  # PAUSE is answered when it is done
        return made

    def close(self) -> None:
        """Say goodbye."""
        with self._connection:
            try:
                self._connection.sendall(packets.message(b"X"))
            except OSError:
                return

    def _log_in(self, user: str, password: str | None) -> None:
        login = ServerLogin(
            user,
            RESERVED_DATABASE,
            password,
            {"application_name": "pooler console"},
            minor=0,
        )
        self._connection.sendall(login.start())
        while login.greeting is None:
            used, answer = login.receive(self._data)
            self._data = self._data[used:]
            if answer:
                self._connection.sendall(answer)
            elif login.greeting is None:
                self._read_more()

    def _read_more(self) -> None:
        more = self._connection.recv(65536)
        if not more:
            raise LoginError("closed the connection")
        self._data += more

    def query(self, text: str) -> Result:
        """Run one command; ConsoleFailure if the connection ends first."""
        result = Result()
        try:
            self._connection.sendall(packets.message(b"Q", packets.cstring(text)))
            for message in self._messages():
                _TAKE.get(message.kind, _ignore)(result, message.body)
                if message.kind == b"Z":
                    break
        except (LoginError, OSError) as error:
            raise ConsoleFailure(result.error or str(error)) from None
        return result

    def _messages(self) -> Iterator[packets.Message]:
        while True:
            message = packets.read_message(self._data, 0, MAX_ANSWER_BYTES)
            if message is None:
                self._read_more()
                continue
            self._data = self._data[message.end :]
            yield message


def _ignore(result: Result, body: bytes) -> None:
    """Of no use here."""


def _take_columns(result: Result, body: bytes) -> None:
    reader = packets.Reader(body, "RowDescription")
    (count,) = struct.unpack("!h", reader.raw(2))
    for _ in range(count):
        result.columns.append(reader.cstring())
        reader.raw(18)


def _take_row(result: Result, body: bytes) -> None:
    reader = packets.Reader(body, "DataRow")
    (count,) = struct.unpack("!h", reader.raw(2))
    row: list[str | None] = []
    for _ in range(count):
        size = reader.int32()
        row.append(None if size < 0 else packets.decode(reader.raw(size)))
    result.rows.append(row)


def _take_tag(result: Result, body: bytes) -> None:
    result.tag = packets.Reader(body, "CommandComplete").cstring()


def _take_notice(result: Result, body: bytes) -> None:
    fields = packets.read_report(body)
    result.notices.append("\n".join(filter(None, map(fields.get, ("M", "D")))))


def _take_error(result: Result, body: bytes) -> None:
    result.error = packets.read_report(body).get("M", "")


_TAKE = {
    b"T": _take_columns,
    b"D": _take_row,
    b"C": _take_tag,
    b"N": _take_notice,
    b"E": _take_error,
}
