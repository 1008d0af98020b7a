# SPDX-License-Identifier: MIT
"""One query with one value, on a connection of its own. Worker layer, cold.

What ``auth_query`` is asked by: a link that a ``ServerOpener`` has logged in. Nothing
of any client goes over it but the name that is looked up, as a value.

Source: PostgreSQL documentation, "Message Flow", "Extended Query".
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from pooler.errors import LoginError
from pooler.io.links import Link
from pooler.login import packets

Row = tuple[str | None, ...]

# Two rows tell that there is more than one.
MAX_ROWS = 2
MAX_ANSWER_BYTES = 1_048_576
# Says nothing about the rows: ParseComplete, BindComplete, CommandComplete,
# PortalSuspended; NoticeResponse, ParameterStatus, NotificationResponse.
_PASSING = frozenset({b"1", b"2", b"C", b"s", b"N", b"S", b"A"})


class LostError(LoginError):
    """The connection has ended, or is of no more use."""


@dataclass(slots=True)
class Answer:
    """What the server has said. ``columns`` None: the query returns no rows at all.

    ``error``: the fields of its ErrorResponse.
    """

    columns: int | None = None
    rows: list[Row] = field(default_factory=list, repr=False)
    error: dict[str, str] = field(default_factory=dict)


def question(sql: str, value: str, settings: Mapping[str, str]) -> bytes:
    """The messages that ask ``sql`` with ``value`` for its only parameter.

    The value travels apart from the text, as the bytes that a client has sent. The
    ``settings`` are those of this question only: up to its Sync all is one transaction.
    So they hold behind another pooler too, which would take none at the login.
    """
    texts = [text for item in settings.items() for text in item]
    calls = ", ".join(
        f"pg_catalog.set_config(${at}, ${at + 1}, true)"
        for at in range(1, len(texts), 2)
    )
    return b"".join(
        (
            *_bound(f"SELECT {calls}", *texts),
            packets.message(b"E", bytes(5)),
            *_bound(sql, value),
            packets.message(b"D", b"P\0"),
            packets.message(b"E", b"\0" + struct.pack("!i", MAX_ROWS)),
            packets.message(b"S"),
        )
    )


def _bound(sql: str, *values: str) -> tuple[bytes, bytes]:
    """Parse and Bind, without names."""
    parameters = b"".join(
        struct.pack("!i", len(raw)) + raw for raw in map(packets.encode, values)
    )
    return (
        packets.message(b"P", b"\0" + packets.cstring(sql) + bytes(2)),
        packets.message(
            b"B", bytes(4) + struct.pack("!h", len(values)) + parameters + bytes(2)
        ),
    )


def take(answer: Answer, message: packets.Message) -> bool:
    """Take one message of the answer; returns whether it was the last.

    LostError for what leaves the connection in no state to go on with, such as COPY.
    """
    reader = packets.Reader(message.body, "answer")
    if message.kind == b"T":
        answer.columns = _int16(reader)
    elif message.kind == b"D":
        row = tuple(_value(reader) for _ in range(_int16(reader)))
        if answer.columns is not None:  # else it is that of the settings
            answer.rows.append(row)
    elif message.kind == b"E":
        answer.error = packets.read_report(message.body)
        if answer.error.get("V", answer.error.get("S")) != "ERROR":
            raise LostError(answer.error.get("M", "no reason given"))
    elif message.kind == b"Z":
        if message.body != b"I":
            raise LostError("a transaction is left open")
        return True
    elif message.kind not in _PASSING and message.kind not in b"nI":
        raise LostError(f"unexpected message of type {message.kind!r}")
    return False


def _int16(reader: packets.Reader) -> int:
    return int.from_bytes(reader.raw(2), "big")


def _value(reader: packets.Reader) -> str | None:
    size = reader.int32()
    return None if size == -1 else packets.decode(reader.raw(size))


class Lookup:
    """A connection that looks things up, one at a time; its user closes it."""

    def __init__(self, link: Link, early: bytes, settings: Mapping[str, str]) -> None:
        self._link = link
        self._pending = early
        self._settings = settings

    async def ask(self, sql: str, value: str) -> Answer:
        """Ask and return the whole answer; LostError: close it, ask another one."""
        self._link.send(question(sql, value, self._settings))
        answer = Answer()
        room = MAX_ANSWER_BYTES
        while True:
            at = 0
            while message := packets.read_message(self._pending, at, MAX_ANSWER_BYTES):
                at = message.end
                if take(answer, message):
                    self._pending = self._pending[at:]
                    return answer
            self._pending = self._pending[at:]
            data = await self._receive()
            room -= len(data)
            if room < 0:
                raise LostError("the answer is too long")
            self._pending += data

    async def _receive(self) -> bytes:
        try:
            data = await self._link.receive()
        except OSError as error:
            raise LostError(error.strerror or str(error)) from None
        if not data:
            raise LostError("the server has closed the connection")
        return data

    def close(self) -> None:
        """Close it; idempotent."""
        self._link.close()
