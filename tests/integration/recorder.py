# SPDX-License-Identifier: MIT
"""Somebody on the line: passes everything on and keeps what went by."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field

from tests.integration.harness import HOST

HEADER_BYTES = 5
RECORD_KINDS = (20, 21, 22, 23)  # RFC 8446, 5.1


@dataclass
class Recorded:
    """One connection: what who has opened it has said, and what it was answered."""

    said: bytearray = field(default_factory=bytearray)
    answered: bytearray = field(default_factory=bytearray)


def in_the_clear(raw: bytes | bytearray) -> bytes:
    """What was said before TLS began; AssertionError if something follows it."""
    at = next(
        (i for i in range(len(raw)) if raw[i] == 22 and raw[i + 1 : i + 2] == b"\3"),
        len(raw),
    )
    before = bytes(raw[:at])
    while at < len(raw):
        assert raw[at] in RECORD_KINDS, raw[at : at + 40]
        assert raw[at + 1 : at + 2] in (b"", b"\3"), raw[at : at + 40]
        at += HEADER_BYTES + int.from_bytes(raw[at + 3 : at + 5], "big")
    return before


class Recorder:
    """Listens on ``port`` and connects everybody with another port."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections: list[Recorded] = []
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection((HOST, self._target))
            self._open += [near, far]
            one = Recorded()
            self.connections.append(one)
            for source, sink, kept in (
                (near, far, one.said),
                (far, near, one.answered),
            ):
                threading.Thread(
                    target=self._pass_on, args=(source, sink, kept), daemon=True
                ).start()

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                kept += data
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
