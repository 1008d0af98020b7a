# SPDX-License-Identifier: MIT
"""Runs a protocol script over a raw socket and writes down what came back.

Two transcripts of one script are compared: PostgreSQL's own, and the one through the
pooler. ``ALLOWED`` is the whole list of what may differ.
"""

from __future__ import annotations

import hashlib
import selectors
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.conformance.script import END, Line, Script
from tests.wire_client import (
    ConnectionEnded,
    Message,
    WireClient,
    codes,
    messages_in,
    startup,
)

USER = "app"
DATABASE = "conformance"
DEADLINE_S = 20.0
READ_BYTES = 1 << 18
IN_FAILED_BLOCK = "25P02"
SHOWN_BYTES = 300

# What may differ between the two, and why; ``Transcript.lines`` applies it.
ALLOWED = {
    "K": "a cancel key is the pooler's own",
    "A": "the process id of a notification is that of a backend, and those differ",
    "S in the greeting": "their order; the set and the values must be the same",
    "Script.pooler_adds": "where PostgreSQL writes only into its log",
    "E 25P02": "the routine: a Parse of ours may stand in front of the client's Bind",
    "E of pooler_speaks": "text and source position: it is the pooler that refuses",
}


@dataclass
class Transcript:
    """What a server said, message by message."""

    greeting: list[Message] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    ended: bool = False

    def lines(self, pooler_speaks: bool = False) -> list[Line]:
        """All messages in comparable form."""
        lines = [line_of(one, pooler_speaks) for one in self.messages]
        return [*self._greeting_lines(), *lines, ("ended", self.ended)]

    def _greeting_lines(self) -> list[Line]:
        told = sorted(line_of(one) for one in self.greeting if one.code == "S")
        others = [line_of(one) for one in self.greeting if one.code != "S"]
        return [*told, *others]

    @property
    def codes(self) -> str:
        """The type bytes of all messages."""
        return codes(self.greeting) + codes(self.messages)

    @property
    def at_rest(self) -> bool:
        """Nothing is open: the last message is a ReadyForQuery with status I."""
        last = (self.greeting + self.messages)[-1]
        return last.code == "Z" and last.body == b"I"

    @property
    def transaction_status(self) -> str:
        """What the last ReadyForQuery says; empty when the connection has ended."""
        last = [one.body.decode() for one in self.messages if one.code == "Z"]
        return "" if self.ended or not last else last[-1]


def line_of(one: Message, pooler_speaks: bool = False) -> Line:
    """A message without what ALLOWED names."""
    if one.code == "K":
        return "K", "key"
    if one.code == "A":
        return "A", one.body[4:]
    if one.code in "EN" and len(one.body) < READ_BYTES:
        fields = one.fields
        if fields["C"] == IN_FAILED_BLOCK:
            fields = {name: fields[name] for name in fields if name not in "FLR"}
        return one.code, {
            name: fields[name] for name in fields if not pooler_speaks or name in "SVC"
        }
    if len(one.body) > SHOWN_BYTES:
        digest = hashlib.sha256(one.body).hexdigest()[:16]
        return one.code, (len(one.body), digest, one.body[:40])
    return one.code, one.body


class Speaker:
    """One connection that sends and reads at the same time."""

    def __init__(self, port: int, piece: int = 0) -> None:
        self.client = WireClient(port, timeout_s=DEADLINE_S)
        self.piece = piece
        self.transcript = Transcript()
        self._raw = bytearray()

    def login(self, database: str = DATABASE) -> None:
        """Log in as everybody may here."""
        self.client.send(startup(USER, database))
        self.transcript.greeting = self.client.read_until("Z")

    def step(self, raw: bytes, until: str) -> None:
        """Send, and read until each of ``until`` was seen, in this order.

        Reading while sending matters: neither side may have to buffer the other's
        whole answer.
        """
        view = memoryview(raw)
        wanted = list(until)
        sock = self.client.socket
        deadline = time.monotonic() + DEADLINE_S
        sock.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            while view or wanted:
                self._want(selector, writing=bool(view))
                for _, events in self._wait(selector, deadline, wanted):
                    if events & selectors.EVENT_READ and not self._read(wanted):
                        return
                    if events & selectors.EVENT_WRITE and view:
                        view = view[self._write(view) :]

    def _wait(
        self, selector: selectors.BaseSelector, deadline: float, wanted: list[str]
    ) -> list[tuple[selectors.SelectorKey, int]]:
        ready = selector.select(max(0.0, deadline - time.monotonic()))
        if not ready:
            said = [line_of(one) for one in self.transcript.messages[-8:]]
            raise AssertionError(f"no {wanted} in {DEADLINE_S} s; the last: {said}")
        return ready

    def _want(self, selector: selectors.BaseSelector, writing: bool) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
        selector.modify(self.client.socket, events)

    def _write(self, view: memoryview) -> int:
        try:
            return self.client.socket.send(view[: self.piece or len(view)])
        except BlockingIOError:
            return 0
        except ConnectionError:  # the reason is still to be read
            return len(view)

    def _read(self, wanted: list[str]) -> bool:
        """Read what is there; False at the end of the connection."""
        try:
            raw = self.client.socket.recv(READ_BYTES)
        except ConnectionError:
            raw = b""
        self._raw += raw
        for one in self._take():
            self.transcript.messages.append(one)
            if wanted and wanted[0] == one.code:
                del wanted[0]
        if raw:
            return True
        self.transcript.ended = True
        assert not self._raw, "the connection ended inside a message"
        if wanted != [END]:
            said = [line_of(one) for one in self.transcript.messages[-8:]]
            raise ConnectionEnded(f"still wanted {wanted}; the last: {said}")
        return False

    def _take(self) -> list[Message]:
        """The whole messages that were read."""
        at = 0
        while at + 5 <= len(self._raw):
            (length,) = struct.unpack_from("!I", self._raw, at + 1)
            if at + 1 + length > len(self._raw):
                break
            at += 1 + length
        whole = bytes(self._raw[:at])
        del self._raw[:at]
        return list(messages_in(whole))

    def close(self) -> None:
        """Close the socket."""
        self.client.close()


def run(
    script: Script,
    port: int,
    *,
    elsewhere: Callable[[str], object],
    afterwards: Callable[[Transcript], None] | None = None,
    between: Callable[[], None] | None = None,
    piece: int = 0,
) -> Transcript:
    """Hold one conversation; ``piece`` cuts what is sent.

    ``elsewhere`` runs SQL in another session. ``between`` is called before each step
    that begins outside a transaction, ``afterwards`` while the connection is still
    open.
    """
    speaker = Speaker(port, piece)
    try:
        speaker.login()
        for number, (raw, until) in enumerate(script.steps, 1):
            if script.elsewhere and number == len(script.steps):
                elsewhere(script.elsewhere)
            if between is not None and speaker.transcript.at_rest:
                between()
            speaker.step(raw, until)
        if afterwards is not None:
            afterwards(speaker.transcript)
        return speaker.transcript
    finally:
        speaker.close()
