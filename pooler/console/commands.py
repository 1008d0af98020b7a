# SPDX-License-Identifier: MIT
"""THE table of commands of the console. Console layer.

A row says who may run the command, what it takes and what columns it answers with;
access is decided here, from the row, and by no command itself.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from pooler import VERSION_TEXT
from pooler.config.kinds import Reload, format_value
from pooler.config.loading import Config
from pooler.config.settings import Settings, rows
from pooler.console.answers import Answer, Column, ConsoleError, Value, columns
from pooler.console.grammar import Command, invalid
from pooler.login import packets

USAGE = """
\tSHOW HELP|CONFIG|DATABASES|USERS|PEERS|STATE|VERSION
\tSET key = arg
\tRELOAD
\tSHUTDOWN [ WAIT_FOR_SERVERS | WAIT_FOR_CLIENTS ]
"""


class Argument(enum.Enum):
    """Whether a command takes one."""

    NONE = enum.auto()
    OPTIONAL = enum.auto()
    REQUIRED = enum.auto()


class Console(Protocol):
    """What commands work on."""

    @property
    def config(self) -> Config:
        """The running configuration."""

    async def ask_master(self, kind: str, **payload: str) -> str:
        """Have the master do something; returns what was wrong, "" for nothing."""


Run = Callable[[Console, Command], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Row:
    """One command."""

    run: Run
    columns: tuple[Column, ...] = ()
    admin: bool = True
    argument: Argument = Argument.NONE


class CommandTable:
    """The commands, and what they work on."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def columns(self, command: Command) -> Sequence[Column]:
        """The columns of the answer's rows; ConsoleError: no such command."""
        return _row_of(command).columns

    async def run(self, command: Command, *, admin: bool) -> Answer:
        """Carry a command out; ConsoleError: it may not be, or has failed."""
        row = _row_of(command)
        if row.admin and not admin:
            raise ConsoleError("admin access needed")
        return await row.run(self._console, command)


def _row_of(command: Command) -> Row:
    if command.verb == "SHOW":
        row = SHOWS.get(command.argument.upper())
    elif command.verb == "SET" and command.argument in _PARAMETERS:
        row = _SET_IGNORED
    else:
        row = CONTROLS.get(command.verb)
        if row is not None:
            _check_argument(row, command)
    if row is None:
        raise invalid(f"{command.verb} {command.argument}")
    return row


def _check_argument(row: Row, command: Command) -> None:
    wrong = {
        Argument.NONE: bool(command.argument),
        Argument.OPTIONAL: False,
        Argument.REQUIRED: not command.argument,
    }
    if wrong[row.argument]:
        raise invalid(f"{command.verb} {command.argument}")


# ---------------------------------------------------------------------------
# SHOW


def _shown(found: Iterable[Sequence[Value]]) -> Answer:
    return Answer("SHOW", tuple(found))


async def _show_help(console: Console, command: Command) -> Answer:
    notice = packets.notice_response("NOTICE", "00000", "Console usage", detail=USAGE)
    return Answer("SHOW", (), (notice,))


async def _show_version(console: Console, command: Command) -> Answer:
    return _shown([(VERSION_TEXT,)])


async def _show_state(console: Console, command: Command) -> Answer:
    return _shown([("active", "yes"), ("paused", "no"), ("suspended", "no")])


async def _show_config(console: Console, command: Command) -> Answer:
    settings, default = console.config.settings, Settings()

    def shown(values: Settings, name: str) -> Value:
        row = known[name]
        value = getattr(values, name)
        if value is None:
            return None
        # PgBouncer prints every integer in decimal, though it reads octal.
        return str(value) if type(value) is int else format_value(row, value)

    known = {row.name: row for row in rows(Settings)}
    return _shown(
        (
            name,
            "****" if row.secret and getattr(settings, name) else shown(settings, name),
            shown(default, name),
            "no" if row.reload is Reload.RESTART else "yes",
        )
        for name, row in sorted(known.items())
    )


async def _show_peers(console: Console, command: Command) -> Answer:
    return _shown(
        (peer.peer_id, peer.host, peer.port, peer.pool_size)
        for peer in console.config.peers.values()
    )


def _fixed(text: str) -> Run:
    """A parameter that drivers ask a server for."""

    async def show(console: Console, command: Command) -> Answer:
        return _shown([(text,)])

    return show


_PARAMETERS = {
    "client_encoding": "UTF-8",
    "default_transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
    "datestyle": "ISO",
    "timezone": "GMT",
}

SHOWS: Mapping[str, Row] = MappingProxyType(
    {
        "HELP": Row(_show_help, admin=False),
        "VERSION": Row(_show_version, columns("version"), admin=False),
        "STATE": Row(_show_state, columns("key, value"), admin=False),
        "CONFIG": Row(
            _show_config, columns("key, value, default, changeable"), admin=False
        ),
        "PEERS": Row(
            _show_peers, columns("peer_id i, host, port i, pool_size i"), admin=False
        ),
        **{
            name.upper(): Row(_fixed(text), columns(name), admin=False)
            for name, text in _PARAMETERS.items()
        },
    }
)


# ---------------------------------------------------------------------------
# What changes something


async def _set(console: Console, command: Command) -> Answer:
    problem = await console.ask_master(
        "set", name=command.argument, value=command.value
    )
    if problem:
        raise ConsoleError(f"SET failed: {problem}")
    return Answer(f"SET {command.argument}={command.value}")


async def _reload(console: Console, command: Command) -> Answer:
    if await console.ask_master("reload"):
        raise ConsoleError("RELOAD failed, see logs for additional details", "F0000")
    return Answer("RELOAD")


async def _shutdown(console: Console, command: Command) -> Answer:
    how = command.argument.upper()
    if how not in ("", "WAIT_FOR_SERVERS", "WAIT_FOR_CLIENTS"):
        raise invalid(f"SHUTDOWN {command.argument}")
    problem = await console.ask_master("shutdown", how=how)
    if problem:
        raise ConsoleError(problem)
    return Answer("SHUTDOWN")


async def _set_ignored(console: Console, command: Command) -> Answer:
    notice = packets.notice_response("NOTICE", "00000", "SET ignored")
    return Answer("SET", (), (notice,))


_SET_IGNORED = Row(_set_ignored, admin=False)

CONTROLS: Mapping[str, Row] = MappingProxyType(
    {
        "SET": Row(_set, argument=Argument.REQUIRED),
        "RELOAD": Row(_reload),
        "SHUTDOWN": Row(_shutdown, argument=Argument.OPTIONAL),
    }
)
