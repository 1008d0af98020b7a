# SPDX-License-Identifier: MIT
"""A small PostgreSQL client over a plain blocking socket, for tests.

It sends exactly what it is told and shows every message that comes back, so that a
test can do what no driver does. Every wait ends after ``timeout_s``.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PROTOCOL_3_0 = 0x0003_0000
SSL_REQUEST = struct.pack("!II", 8, 80877103)
GSSENC_REQUEST = struct.pack("!II", 8, 80877104)
CANCEL_CODE = 80877102
TIMEOUT_S = 10.0


class ConnectionEnded(Exception):
    """The other side has closed the connection (or reset it)."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the server."""

    code: str
    body: bytes

    @property
    def fields(self) -> dict[str, str]:
        """The fields of an ErrorResponse or NoticeResponse."""
        texts = [
            part.decode(errors="backslashreplace")
            for part in self.body.split(b"\0")
            if part
        ]
        return {text[0]: text[1:] for text in texts}

    @property
    def row(self) -> list[bytes | None]:
        """The columns of a DataRow."""
        (count,) = struct.unpack_from("!H", self.body)
        at, columns = 2, []
        for _ in range(count):
            (size,) = struct.unpack_from("!i", self.body, at)
            at += 4
            columns.append(None if size < 0 else self.body[at : at + size])
            at += max(0, size)
        return columns

    @property
    def strings(self) -> list[str]:
        """The zero-terminated strings of the body."""
        return [part.decode() for part in self.body.split(b"\0")[:-1]]


def message(code: str, body: bytes = b"") -> bytes:
    """One message with a type byte."""
    return code.encode() + struct.pack("!I", len(body) + 4) + body


def text(value: str) -> bytes:
    """A zero-terminated string."""
    return value.encode() + b"\0"


def startup(user: str, database: str, **parameters: str) -> bytes:
    """A StartupMessage."""
    given = {"user": user, "database": database, **parameters}
    body = b"".join(text(name) + text(value) for name, value in given.items()) + b"\0"
    return struct.pack("!II", len(body) + 8, PROTOCOL_3_0) + body


def query(sql: str) -> bytes:
    """A simple Query."""
    return message("Q", text(sql))


def parse(sql: str, name: str = "") -> bytes:
    """Parse without parameter types."""
    return message("P", text(name) + text(sql) + struct.pack("!H", 0))


def bind(*values: bytes | None, statement: str = "", portal: str = "") -> bytes:
    """Bind with text parameters and text results."""
    parameters = b"".join(
        struct.pack("!i", -1)
        if value is None
        else struct.pack("!i", len(value)) + value
        for value in values
    )
    return message(
        "B",
        text(portal)
        + text(statement)
        + struct.pack("!HH", 0, len(values))
        + parameters
        + struct.pack("!H", 0),
    )


def describe(name: str = "", kind: str = "P") -> bytes:
    """Describe a portal (P) or a statement (S)."""
    return message("D", kind.encode() + text(name))


def execute(portal: str = "", most_rows: int = 0) -> bytes:
    """Execute a portal."""
    return message("E", text(portal) + struct.pack("!I", most_rows))


def extended(sql: str, *values: bytes | None) -> bytes:
    """Parse, Bind, Describe and Execute of unnamed things; Sync is not included."""
    return parse(sql) + bind(*values) + describe() + execute()


SYNC = message("S")
FLUSH = message("H")
TERMINATE = message("X")


def cancel_request(key: bytes) -> bytes:
    """A CancelRequest; ``key`` is the body of BackendKeyData."""
    return struct.pack("!II", 8 + len(key), CANCEL_CODE) + key


def messages_in(raw: bytes) -> Iterator[Message]:
    """The messages of a whole number of messages."""
    at = 0
    while at < len(raw):
        (length,) = struct.unpack_from("!I", raw, at + 1)
        yield Message(chr(raw[at]), raw[at + 5 : at + 1 + length])
        at += 1 + length


def codes(messages: Iterable[Message]) -> str:
    """The type bytes of messages, to compare with."""
    return "".join(one.code for one in messages)


class WireClient:
    """One connection; also a context manager that closes it."""

    def __init__(
        self,
        port: int,
        *,
        timeout_s: float = TIMEOUT_S,
        receive_buffer: int = 0,
        path: Path | None = None,  # of a Unix socket, in the place of the port
        host: str = "127.0.0.1",
    ) -> None:
        self.socket = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self.socket.settimeout(timeout_s)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if path:
            self.socket.connect(str(path))
        else:
            self.socket.connect((host, port))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.parameters: dict[str, str] = {}
        self.key = b""
        self._pending = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket without a word; twice is harmless."""
        self.socket.close()

    def reset(self) -> None:
        """Close with RST, as the kernel does for a process that was killed."""
        linger = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        """Send everything in one go."""
        self.socket.sendall(b"".join(parts))

    def send_split(self, raw: bytes, size: int = 1) -> None:
        """Send in pieces; Nagle is off, so each piece is a segment of its own."""
        for at in range(0, len(raw), size):
            self.socket.sendall(raw[at : at + size])

    def read_exactly(self, size: int) -> bytes:
        """Read ``size`` bytes; ConnectionEnded when there are fewer."""
        parts = [self._pending]
        have = len(self._pending)
        while have < size:
            try:
                part = self.socket.recv(max(65536, min(size - have, 1 << 20)))
            except ConnectionError as error:
                raise ConnectionEnded(str(error)) from error
            if not part:
                self._pending = b"".join(parts)
                raise ConnectionEnded(f"{have} of {size} bytes")
            parts.append(part)
            have += len(part)
        raw = b"".join(parts)
        self._pending = raw[size:]
        return raw[:size]

    def read(self) -> Message:
        """Read one message."""
        header = self.read_exactly(5)
        (length,) = struct.unpack_from("!I", header, 1)
        return Message(chr(header[0]), self.read_exactly(length - 4))

    def read_until(self, code: str) -> list[Message]:
        """Read messages up to and including one of this type."""
        read = [self.read()]
        while read[-1].code != code:
            read.append(self.read())
        return read

    def read_to_end(self) -> list[Message]:
        """Read messages until the connection ends."""
        read = []
        while True:
            try:
                read.append(self.read())
            except ConnectionEnded:
                return read

    def read_fatal(self) -> dict[str, str]:
        """The fields of the ErrorResponse that ends the connection."""
        read = self.read_to_end()
        assert read, "closed without a word"
        assert read[-1].code == "E", read[-1]
        assert read[-1].fields["S"] == "FATAL", read[-1]
        return read[-1].fields

    def login(self, user: str, database: str, **parameters: str) -> Self:
        """Log in without a password and note what the greeting says.

        A connection that is refused is closed.
        """
        try:
            self.send(startup(user, database, **parameters))
            return self.read_greeting()
        except BaseException:
            self.close()
            raise

    def read_greeting(self) -> Self:
        """Read up to the first ReadyForQuery."""
        for one in self.read_until("Z"):
            assert one.code in "RSKZN", (one, one.code == "E" and one.fields)
            self.note(one)
        return self

    def note(self, one: Message) -> None:
        """Remember what a ParameterStatus or BackendKeyData says."""
        if one.code == "S":
            name, value = one.strings
            self.parameters[name] = value
        elif one.code == "K":
            self.key = one.body

    def ask(self, *parts: bytes) -> list[Message]:
        """Send, then read up to ReadyForQuery."""
        self.send(*parts)
        read = self.read_until("Z")
        for one in read:
            self.note(one)
        return read

    def rows(self, sql: str) -> list[list[bytes | None]]:
        """The rows of a simple query; AssertionError when it fails."""
        read = self.ask(query(sql))
        for one in read:
            assert one.code != "E", one.fields
        return [one.row for one in read if one.code == "D"]

    def value(self, sql: str) -> str:
        """The only value of a simple query."""
        [[value]] = self.rows(sql)
        assert value is not None
        return value.decode()
