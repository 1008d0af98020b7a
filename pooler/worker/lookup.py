# SPDX-License-Identifier: MIT
"""One query with one value, on a connection of its own. Worker layer, cold.

What ``auth_query`` is asked by: a link that a ``ServerOpener`` has logged in. Nothing
of any client goes over it but the name that is looked up, as a value.

Source: PostgreSQL documentation, "Message Flow", "Extended Query".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pooler.errors import LoginError
from pooler.io.links import Link
from pooler.login import packets

Row = tuple[str | None, ...]

# Two rows tell that there is more than one.
MAX_ROWS = 2
MAX_ANSWER_BYTES = 1_048_576


class LostError(LoginError):
    """The connection has ended, or is of no more use."""


@dataclass(slots=True)
class Answer:
    """What the server has said. ``columns`` None: the query returns no rows at all.

    ``error``: the fields of its ErrorResponse. ``begun``: it has said something about
    this question.
    """

    columns: int | None = None
    rows: list[Row] = field(default_factory=list, repr=False)
    error: dict[str, str] = field(default_factory=dict)
    begun: bool = field(default=False, compare=False)
    ended: bool = field(default=False, compare=False)


def settings_of(settings: Mapping[str, str]) -> bytes:
    """The messages in front of a question that set something for it alone.

    Up to its Sync all is one transaction. So they hold behind another pooler too, which
    would take none at the login.
    """
    texts = [text for item in settings.items() for text in item]
    calls = ", ".join(
        f"pg_catalog.set_config(${at}, ${at + 1}, true)"
        for at in range(1, len(texts), 2)
    )
    return _bound(f"SELECT {calls}", *texts) + packets.message(b"E", bytes(5))


def question(sql: str, value: str) -> bytes:
    """The messages that ask ``sql`` with ``value`` for its only parameter.

    The value travels apart from the text, as the bytes that a client has sent.
    """
    return _bound(sql, value) + _DESCRIBE_EXECUTE_SYNC


def _bound(sql: str, *values: str) -> bytes:
    """Parse and Bind, without names."""
    parameters = b"".join(
        struct.pack("!i", len(raw)) + raw for raw in map(packets.encode, values)
    )
    return packets.message(
        b"P", b"\0" + packets.cstring(sql) + bytes(2)
    ) + packets.message(
        b"B", bytes(4) + struct.pack("!h", len(values)) + parameters + bytes(2)
    )


_DESCRIBE_EXECUTE_SYNC = (
    packets.message(b"D", b"P\0")
    + packets.message(b"E", b"\0" + struct.pack("!i", MAX_ROWS))
    + packets.message(b"S")
)


# What the server says: one function a message. LostError for what leaves the connection
# in no state to go on with, such as COPY.


def take(answer: Answer, message: packets.Message) -> None:
    """Take one message of the answer."""
    handler = _HANDLERS.get(message.kind)
    if handler is None:
        raise LostError(f"unexpected message of type {message.kind!r}")
    handler(answer, message.body)


def _begin(answer: Answer, body: bytes) -> None:
    answer.begun = True


def _pass(answer: Answer, body: bytes) -> None:
    """It says nothing about the rows."""


def _take_columns(answer: Answer, body: bytes) -> None:
    answer.columns = _int16(packets.Reader(body, "RowDescription"))


def _take_row(answer: Answer, body: bytes) -> None:
    reader = packets.Reader(body, "DataRow")
    row = tuple(_value(reader) for _ in range(_int16(reader)))
    if answer.columns is not None:  # else it is that of the settings
        answer.rows.append(row)


def _take_error(answer: Answer, body: bytes) -> None:
    answer.begun = True
    answer.error = packets.read_report(body)
    if answer.error.get("V", answer.error.get("S")) != "ERROR":
        raise LostError(answer.error.get("M", "no reason given"))


def _take_ready(answer: Answer, body: bytes) -> None:
    if body != b"I":
        raise LostError("a transaction is left open")
    if not answer.begun:
        raise LostError("an answer that nobody has asked for")
    answer.ended = True


def _int16(reader: packets.Reader) -> int:
    return int.from_bytes(reader.raw(2), "big")


def _value(reader: packets.Reader) -> str | None:
    size = reader.int32()
    return None if size == -1 else packets.decode(reader.raw(size))


_HANDLERS: Mapping[bytes, Callable[[Answer, bytes], None]] = MappingProxyType(
    {
        b"1": _begin,  # ParseComplete
        b"2": _pass,  # BindComplete
        b"C": _pass,  # CommandComplete
        b"s": _pass,  # PortalSuspended
        b"n": _pass,  # NoData
        b"I": _pass,  # EmptyQueryResponse
        b"N": _pass,  # NoticeResponse
        b"S": _pass,  # ParameterStatus
        b"A": _pass,  # NotificationResponse
        b"T": _take_columns,
        b"D": _take_row,
        b"E": _take_error,
        b"Z": _take_ready,
    }
)


class Lookup:
    """A connection that looks things up, one at a time; its user closes it."""

    def __init__(self, link: Link, early: bytes, settings: Mapping[str, str]) -> None:
        self._link = link
        self._pending = early
        self._settings = settings_of(settings)

    async def ask(self, sql: str, value: str) -> Answer:
        """Ask and return the whole answer; LostError: close it, ask another one."""
        self._link.send(self._settings + question(sql, value))
        answer = Answer()
        room = MAX_ANSWER_BYTES
        while True:
            at = 0
            while message := packets.read_message(self._pending, at, MAX_ANSWER_BYTES):
                at = message.end
                take(answer, message)
                if answer.ended:
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
