# SPDX-License-Identifier: MIT
"""A PostgreSQL played by the test, step by step, for what a real one rarely does."""

from __future__ import annotations

import socket
import struct
from typing import Self

from tests.integration.harness import DATABASE, HOST, USER, InProcess
from tests.wire_client import (
    SSL_REQUEST,
    Message,
    WireClient,
    message,
    query,
    startup,
    text,
)

TIMEOUT_S = 10.0
PARAMETERS = {
    "server_version": "15.0",
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "TimeZone": "UTC",
    "standard_conforming_strings": "on",
    "IntervalStyle": "postgres",
    "application_name": "",
}
READY = message("Z", b"I")
SELECT = query("SELECT 1")
SELECTED = (
    message("T", struct.pack("!H", 1) + text("x") + bytes(18))
    + message("D", struct.pack("!Hi", 1, 1) + b"1")
    + message("C", text("SELECT 1"))
)


def error(severity: str, sqlstate: str, said: str) -> bytes:
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": said}
    return message("E", b"".join(text(k + v) for k, v in fields.items()) + b"\0")


def notice(said: str) -> bytes:
    return b"N" + error("NOTICE", "00000", said)[1:]


class FakeBackend:
    """One server connection."""

    def __init__(self, link: socket.socket) -> None:
        self.socket = link
        self.socket.settimeout(TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read_exactly(self, size: int) -> bytes:
        raw = b""
        while len(raw) < size:
            part = self.socket.recv(size - len(raw))
            if not part:
                raise EOFError(f"{len(raw)} of {size} bytes")
            raw += part
        return raw

    def read_startup(self) -> bytes:
        """What a connection begins with; there is no TLS for who asks."""
        while True:
            (length,) = struct.unpack("!I", self.read_exactly(4))
            packet = self.read_exactly(length - 4)
            if packet != SSL_REQUEST[4:]:
                return packet
            self.send(b"N")

    def read(self) -> Message:
        header = self.read_exactly(5)
        (length,) = struct.unpack_from("!I", header, 1)
        return Message(chr(header[0]), self.read_exactly(length - 4))

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    @staticmethod
    def greeting() -> bytes:
        """AuthenticationOk up to ReadyForQuery."""
        said = (message("S", text(k) + text(v)) for k, v in PARAMETERS.items())
        key = message("K", struct.pack("!II", 1234, 5678))
        return message("R", bytes(4)) + b"".join(said) + key + READY

    def greet(self) -> Self:
        self.read_startup()
        self.send(self.greeting())
        return self

    def answer(self) -> Message:
        """Read a request and answer one row."""
        asked = self.read()
        self.send(SELECTED, READY)
        return asked

    def is_closed(self) -> bool:
        """Wait for the end of the connection, and end as PostgreSQL does."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            pass
        except TimeoutError:
            return False
        self.close()
        return True

    def close(self) -> None:
        self.socket.close()


class FakeServer:
    """Where the backends come from."""

    def __init__(self) -> None:
        self.listener = socket.create_server((HOST, 0))
        self.listener.settimeout(TIMEOUT_S)
        self.port: int = self.listener.getsockname()[1]
        self.backends: list[FakeBackend] = []

    def accept(self) -> FakeBackend:
        self.backends.append(FakeBackend(self.listener.accept()[0]))
        return self.backends[-1]

    def has_caller(self, seconds: float) -> bool:
        """Whether somebody connects within this time."""
        self.listener.settimeout(seconds)
        try:
            self.accept()
        except TimeoutError:
            return False
        finally:
            self.listener.settimeout(TIMEOUT_S)
        return True

    def close(self) -> None:
        for backend in self.backends:
            backend.close()
        self.listener.close()


def begin(worker: InProcess, **parameters: str) -> WireClient:
    """A client that has asked for a login and waits for the welcome."""
    client = WireClient(worker.port)
    client.send(startup(USER, DATABASE, **parameters))
    return client


def log_in(worker: InProcess, server: FakeServer) -> tuple[WireClient, FakeBackend]:
    """The first client and its server, which is idle again."""
    client = begin(worker)
    backend = server.accept().greet()
    client.read_greeting()
    return client, backend
