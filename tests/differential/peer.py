# SPDX-License-Identifier: MIT
"""One connection that sends and reads at the same time; how an answer ends."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping

from tests.differential import messages as said
from tests.wire_client import ConnectionEnded, Message, WireClient, startup

READ_BYTES = 1 << 18


class Silence(Exception):
    """Nothing has come in time."""


class Peer:
    """A client's connection, straight or through the pooler.

    What cannot be sent at once waits here, so that neither side has to buffer the
    other's whole answer.
    """

    def __init__(
        self, port: int, user: str, database: str, parameters: Mapping[str, str]
    ) -> None:
        self._client = WireClient(port)
        self._unsent = b""
        self._raw = bytearray()
        self._at = 0
        self.ended = False
        try:
            self._client.send(startup(user, database, **parameters))
            self.greeting = self._client.read_until("Z")
        except BaseException:
            self._client.close()
            raise
        self._client.socket.setblocking(False)

    def send(self, raw: bytes) -> None:
        """Send; what is not taken goes out while an answer is read."""
        self._unsent += raw
        self._write()

    def drain(self, deadline: float) -> None:
        """Send everything."""
        while self._unsent:
            self._turn(deadline)

    def read(self, deadline: float) -> Message:
        """The next message; Silence, or ConnectionEnded."""
        while True:
            one = self.have()
            if one is not None:
                return one
            if self.ended:
                raise ConnectionEnded
            self._turn(deadline)

    def have(self) -> Message | None:
        """The next message if all of it has been read."""
        if len(self._raw) - self._at < 5:
            return None
        (length,) = struct.unpack_from("!I", self._raw, self._at + 1)
        end = self._at + 1 + length
        if len(self._raw) < end:
            return None
        one = Message(chr(self._raw[self._at]), bytes(self._raw[self._at + 5 : end]))
        self._at = end
        if self._at == len(self._raw):
            self._raw.clear()
            self._at = 0
        return one

    def unasked(self) -> Message | None:
        """What is there without having been waited for."""
        if not self.ended and select.select([self._client.socket], [], [], 0)[0]:
            self._receive()
        return self.have()

    def leave(self, goodbye: bytes, deadline: float) -> None:
        """Send the last words and wait for the end; all is cleared away by then."""
        self.send(goodbye)
        self.drain(deadline)
        with contextlib.suppress(OSError):  # it has been quicker
            self._client.socket.shutdown(socket.SHUT_WR)
        while not self.ended:
            self._turn(deadline)
        self.close()

    def close(self) -> None:
        self._client.close()

    def _turn(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        sock = self._client.socket
        writing = [sock] if self._unsent else []
        readable, writable, _ = select.select([sock], writing, [], max(0.0, left))
        if not readable and not writable:
            raise Silence
        if writable:
            self._write()
        if readable:
            self._receive()

    def _write(self) -> None:
        try:
            if self._unsent:
                taken = self._client.socket.send(self._unsent)
                self._unsent = self._unsent[taken:]
        except BlockingIOError:
            return
        except ConnectionError:  # the reason is still to be read
            self._unsent = b""

    def _receive(self) -> None:
        try:
            raw = self._client.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            raw = b""
        self._raw += raw
        if not raw:
            self.ended = True


class Answers:
    """Reads PostgreSQL's answers to what it was sent, to the last one.

    It knows what ends the answer of each message; nothing is guessed by time.
    ``status`` and ``open_batch`` are the client's state afterwards.
    """

    def __init__(
        self, read: Callable[[], Message], status: str, skipping: bool
    ) -> None:
        self._read = read
        self.status = status
        self.open_batch = False
        self.skipping = skipping  # to the next Sync
        self._copying = ""  # the message that a COPY from us belongs to
        self.failed = False

    def of(self, sent: tuple[said.Message, ...]) -> Iterator[Message]:
        """All answers, as they come."""
        for one in sent:
            if isinstance(one, said.Query | said.FunctionCall):
                self.open_batch = self.skipping
            elif isinstance(one, said.Sync):
                self.open_batch = self.open_batch and bool(self._copying)
            else:
                self.open_batch |= not isinstance(
                    one, said.CopyData | said.CopyDone | said.CopyFail
                )
            yield from self._answer(self._ends(one))

    def _ends(self, one: said.Message) -> str:
        """The type bytes of which one ends the answer; empty for no answer."""
        if self._copying:
            # PostgreSQL ignores Flush and Sync here; nothing else is legal.
            if not isinstance(one, said.CopyDone | said.CopyFail):
                return ""
            ends, self._copying = ("ZG", "") if self._copying == "Q" else ("CE", "")
            return ends
        if isinstance(one, said.Sync):
            self.skipping = False
            return "Z"
        if self.skipping:
            return ""
        return _ENDS.get(type(one), "")

    def _answer(self, ends: str) -> Iterator[Message]:
        while ends:
            one = self._read()
            yield one
            if one.code == "Z":
                self.status = one.body.decode()
                self.skipping = False
            if one.code == "E":
                self.failed = True
            if one.code not in ends:
                continue
            if one.code == "G":
                self._copying = "Q" if "Z" in ends else "E"
            elif one.code == "E":
                self.skipping = True
            return


# A Query that fails is not over before ReadyForQuery.
_ENDS: dict[type, str] = {
    said.Query: "ZG",
    said.FunctionCall: "Z",
    said.Parse: "1E",
    said.Bind: "2E",
    said.Describe: "TnE",
    said.Execute: "CsIEG",
    said.Close: "3E",
}
