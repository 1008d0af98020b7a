# SPDX-License-Identifier: MIT
"""A slow and obvious parser of the wire, to compare the scanner with.

It reads ``pooler.wire.messages.MESSAGES`` itself and shares no code with ``_wire``. It
always gets the whole stream, so it has no state to carry and none to get wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pooler.wire.messages import MESSAGES, Action, Message, Phase, Sender

HEADER_BYTES = 5

Rules = dict[int, Message]
Event = tuple[int, int, int]  # type byte, offset, length


class Scanned(NamedTuple):
    """What a scan of a stream comes to; the format of ``_probe.scan``."""

    events: list[Event]
    failed: int | None  # offset of the first header that is wrong
    body_left: int  # of the last message, which is cut
    held: int  # bytes at the end that cannot be judged yet


class Seen(NamedTuple):
    """One message whose header is right; ``end`` may be past the stream."""

    row: Message
    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + 1 + self.length


def action_of(name: str, row: Message) -> Action:
    """What the relay does at a message; "client" is one that has no server."""
    return row.without_server if name == "client" else row.action


def rules_of(name: str) -> Rules:
    """The rows that hold for "client", "attached", "server" or "idle_server"."""
    sender = Sender.CLIENT if name in ("client", "attached") else Sender.SERVER
    phase = Phase.ASYNC if name == "idle_server" else Phase.READY
    return {
        row.byte: row for row in MESSAGES if row.sender is sender and row.phase & phase
    }


def walk(rules: Rules, raw: bytes) -> Iterator[Seen | int]:
    """Every message of the stream; a wrong header comes as its offset, and last."""
    at = 0
    while len(raw) - at >= HEADER_BYTES:
        row = rules.get(raw[at])
        length = int.from_bytes(raw[at + 1 : at + 5], "big", signed=False)
        if row is None or not row.min_length <= length <= row.max_length:
            yield at
            return
        seen = Seen(row, at, length)
        yield seen
        at = seen.end


def scan(name: str, raw: bytes) -> Scanned:
    """What ``_probe.scan(name, ...)`` must say about this stream, however split."""
    events: list[Event] = []
    end = 0
    for seen in walk(rules_of(name), raw):
        if isinstance(seen, int):
            return Scanned(events, seen, 0, 0)
        cut = seen.end > len(raw)
        if cut and seen.row.whole:
            return Scanned(events, None, 0, len(raw) - seen.start)
        if action_of(name, seen.row) is not Action.PASS:
            events.append((seen.row.byte, seen.start, seen.length))
        end = seen.end
    if end > len(raw):
        return Scanned(events, None, end - len(raw), 0)
    return Scanned(events, None, 0, len(raw) - end)
