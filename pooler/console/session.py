# SPDX-License-Identifier: MIT
"""One session of the console, as a PostgreSQL server holds it. Console layer, sans-IO.

Give ``Session.receive`` what has come and send what it returns. It answers the simple
and the extended protocol: a statement is a text, a portal the same with formats.

Source: PostgreSQL documentation, "Message Flow".
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pooler import __version__
from pooler.console.answers import (
    Answer,
    Column,
    ConsoleError,
    command_complete,
    data_row,
    row_description,
)
from pooler.console.grammar import Command, parse
from pooler.errors import LoginError
from pooler.login import packets

MAX_MESSAGE_BYTES = 1024 * 1024
MAX_STATEMENTS = 1000
QUERY_CANCELED = "57014"
GREETING = {
    "server_version": f"{__version__}/bouncer",
    "client_encoding": "UTF8",
    "server_encoding": "UTF8",
    "DateStyle": "ISO",
    "TimeZone": "GMT",
    "standard_conforming_strings": "on",
    "is_superuser": "on",
}
# What drivers send around a command; the console has no transactions.
_TRANSACTION = {"BEGIN": b"T", "COMMIT": b"I", "ROLLBACK": b"I"}


class Commands(Protocol):
    """Who knows the commands and carries them out."""

    def columns(self, command: Command) -> Sequence[Column]:
        """The columns of its rows, () if it has none; ConsoleError: no command."""

    async def run(self, command: Command, *, admin: bool) -> Answer:
        """Carry it out; ConsoleError: it could not be, or may not be."""

    async def undo(self, command: Command) -> None:
        """It was cancelled while it waited."""


class EndOfSession(Exception):
    """The session is over; ``farewell`` is still to be sent."""

    def __init__(self, farewell: bytes = b"") -> None:
        super().__init__()
        self.farewell = farewell


@dataclass(frozen=True, slots=True)
class _Portal:
    command: Command
    formats: tuple[int, ...]


class Session:
    """From the greeting to Terminate."""

    def __init__(
        self,
        commands: Commands,
        *,
        admin: bool,
        backend_pid: int,
        on_error: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``on_error``: hears of each error before the client does."""
        self._commands = commands
        self._on_error = on_error
        self._admin = admin
        self._backend_pid = backend_pid
        self._status = b"I"
        self._skipping = False  # to the Sync, behind an error
        self._statements: dict[str, Command] = {}
        self._portals: dict[str, _Portal] = {}
        self._running: asyncio.Task[Answer] | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """A cancel request: the command that is being carried out is given up."""
        if self._running is not None:
            self._cancelled = True
            self._running.cancel()

    def greeting(self) -> bytes:
        """What is sent first: the session has been let in."""
        return b"".join(
            (
                packets.authentication_ok(),
                *(packets.parameter_status(*item) for item in GREETING.items()),
                packets.backend_key_data(self._backend_pid, b"\0\0\0\0"),
                packets.ready_for_query(),
            )
        )

    async def receive(self, data: bytes) -> tuple[int, bytes]:
        """Answer every whole message; returns bytes used up, and bytes to send.

        Raises EndOfSession.
        """
        used = 0
        sent: list[bytes] = []
        try:
            while message := packets.read_message(data, used, MAX_MESSAGE_BYTES):
                used = message.end
                sent.append(await self._answer(message))
        except LoginError as error:
            self._on_error(error.message)
            sent.append(packets.error_response("FATAL", error.sqlstate, error.message))
            raise EndOfSession(b"".join(sent)) from None
        except EndOfSession as end:
            raise EndOfSession(b"".join((*sent, end.farewell))) from None
        return used, b"".join(sent)

    async def _answer(self, message: packets.Message) -> bytes:
        handler = _HANDLERS.get(message.kind)
        if handler is None:
            text = f"unknown message type {message.kind!r}"
            self._on_error(text)
            raise EndOfSession(packets.error_response("FATAL", "08P01", text))
        if self._skipping and message.kind not in _NEVER_SKIPPED:
            return b""
        try:
            return await handler(self, message.body)
        except ConsoleError as error:
            self._skipping = message.kind != b"Q"
            self._on_error(error.message)
            report = packets.error_response("ERROR", error.sqlstate, error.message)
            return report + (b"" if self._skipping else self._ready())

    def _ready(self) -> bytes:
        return packets.ready_for_query(self._status)

    async def _query(self, body: bytes) -> bytes:
        command = parse(packets.Reader(body, "Query").cstring())
        described = self._columns(command)
        head = row_description(described) if described else b""
        return await self._run(command, described, (), head) + self._ready()

    async def _parse(self, body: bytes) -> bytes:
        reader = packets.Reader(body, "Parse")
        name, command = reader.cstring(), parse(reader.cstring())
        self._columns(command)
        if len(self._statements) >= MAX_STATEMENTS:
            raise ConsoleError("too many prepared statements", "53400")
        self._statements[name] = command
        return packets.message(b"1")

    async def _bind(self, body: bytes) -> bytes:
        reader = packets.Reader(body, "Bind")
        portal, name = reader.cstring(), reader.cstring()
        _int16s(reader)
        if _int16(reader):
            raise ConsoleError("a command of the console takes no parameters")
        formats = tuple(_int16s(reader))
        command = self._statement(name)
        wanted = len(self._columns(command))
        if len(formats) not in (0, 1, wanted) or not {0, 1}.issuperset(formats):
            raise ConsoleError(f"{len(formats)} result formats for {wanted} columns")
        if len(self._portals) >= MAX_STATEMENTS:
            raise ConsoleError("too many portals", "53400")
        self._portals[portal] = _Portal(command, formats)
        return packets.message(b"2")

    async def _describe(self, body: bytes) -> bytes:
        kind, name = body[:1], packets.Reader(body[1:], "Describe").cstring()
        if kind == b"S":
            head = packets.message(b"t", b"\0\0")
            portal = _Portal(self._statement(name), ())
        else:
            head, portal = b"", self._portal(name)
        described = self._columns(portal.command)
        if not described:
            return head + packets.message(b"n")
        return head + row_description(described, portal.formats)

    async def _execute(self, body: bytes) -> bytes:
        portal = self._portal(packets.Reader(body, "Execute").cstring())
        described = self._columns(portal.command)
        return await self._run(portal.command, described, portal.formats, b"")

    async def _close(self, body: bytes) -> bytes:
        name = packets.Reader(body[1:], "Close").cstring()
        (self._statements if body[:1] == b"S" else self._portals).pop(name, None)
        return packets.message(b"3")

    async def _sync(self, body: bytes) -> bytes:
        self._skipping = False
        self._portals.clear()
        return self._ready()

    async def _flush(self, body: bytes) -> bytes:
        return b""

    async def _terminate(self, body: bytes) -> bytes:
        raise EndOfSession

    async def _run(
        self,
        command: Command,
        described: Sequence[Column],
        formats: tuple[int, ...],
        head: bytes,
    ) -> bytes:
        if not command.verb:
            return packets.message(b"I")
        if command.verb in _TRANSACTION and not command.argument:
            self._status = _TRANSACTION[command.verb]
            return command_complete(command.verb)
        answer = await self._carry_out(command)
        rows = (data_row(described, row, formats) for row in answer.rows)
        return b"".join((*answer.notices, head, *rows, command_complete(answer.tag)))

    async def _carry_out(self, command: Command) -> Answer:
        """Run a command that may be cancelled."""
        self._cancelled = False
        self._running = asyncio.get_running_loop().create_task(
            _awaited(self._commands.run(command, admin=self._admin))
        )
        try:
            return await self._running
        except asyncio.CancelledError:
            if not self._cancelled:
                self._running.cancel()
                raise
            await self._commands.undo(command)
            text = "canceling statement due to user request"
            raise ConsoleError(text, QUERY_CANCELED) from None
        finally:
            self._running = None

    def _columns(self, command: Command) -> Sequence[Column]:
        if not command.verb or command.verb in _TRANSACTION:
            return ()
        return self._commands.columns(command)

    def _statement(self, name: str) -> Command:
        command = self._statements.get(name)
        if command is None:
            text = f'prepared statement "{name}" does not exist'
            raise ConsoleError(text, "26000")
        return command

    def _portal(self, name: str) -> _Portal:
        portal = self._portals.get(name)
        if portal is None:
            raise ConsoleError(f'portal "{name}" does not exist', "34000")
        return portal


_Handler = Callable[[Session, bytes], Awaitable[bytes]]
_HANDLERS: Mapping[bytes, _Handler] = {
    b"Q": Session._query,
    b"P": Session._parse,
    b"B": Session._bind,
    b"D": Session._describe,
    b"E": Session._execute,
    b"C": Session._close,
    b"S": Session._sync,
    b"H": Session._flush,
    b"X": Session._terminate,
}
# Query cannot be in a batch, but a client may give its batch up.
_NEVER_SKIPPED = frozenset((b"S", b"X"))


async def _awaited(run: Awaitable[Answer]) -> Answer:
    return await run


def _int16(reader: packets.Reader) -> int:
    return int(struct.unpack("!h", reader.raw(2))[0])


def _int16s(reader: packets.Reader) -> list[int]:
    return [_int16(reader) for _ in range(max(0, _int16(reader)))]
