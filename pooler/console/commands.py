# SPDX-License-Identifier: MIT
"""THE table of commands of the console. Console layer.

A row says who may run the command, what it takes and what columns it answers with;
access is decided here, from the row, and by no command itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pooler import log
from pooler.config.run_state import issued
from pooler.console.answers import Answer, Column, ConsoleError
from pooler.console.controls import CONTROLS, SET_IGNORED
from pooler.console.grammar import Command, invalid
from pooler.console.rows import Argument, Console, Row
from pooler.console.shows import OF_CONFIGURATION, PARAMETERS
from pooler.console.shows_of_handovers import OF_HANDOVERS
from pooler.console.shows_of_latency import OF_LATENCY
from pooler.console.shows_of_pools import OF_POOLS
from pooler.console.shows_of_sizes import OF_SIZES
from pooler.console.shows_of_sockets import OF_SOCKETS
from pooler.console.shows_of_statements import OF_STATEMENTS
from pooler.console.shows_of_stats import OF_STATS

SHOWS: Mapping[str, Row] = MappingProxyType(
    {
        **OF_CONFIGURATION,
        **OF_POOLS,
        **OF_HANDOVERS,
        **OF_LATENCY,
        **OF_SOCKETS,
        **OF_STATEMENTS,
        **OF_SIZES,
        **OF_STATS,
    }
)


class CommandTable:
    """The commands, and what they work on."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def columns(self, command: Command) -> Sequence[Column]:
        """The columns of the answer's rows; ConsoleError: no such command or column."""
        found = _row_of(command).columns
        return [found[at] for at in _wanted(found, command)]

    async def run(self, command: Command, *, admin: bool) -> Answer:
        """Carry a command out; ConsoleError: it may not be, or has failed."""
        row = _row_of(command)
        if row.admin and not admin:
            raise ConsoleError("admin access needed")
        self._console.stats.own.update(queries=1, xacts=1)
        if row.logged:
            log.write(log.LOG, issued(command.verb, command.argument))
        begun_s = time.monotonic()
        try:
            answer = await row.run(self._console, command)
        finally:
            spent_us = int(1e6 * (time.monotonic() - begun_s))
            self._console.stats.own.update(query_us=spent_us, xact_us=spent_us)
        if not command.columns:
            return answer
        places = _wanted(row.columns, command)
        rows = [[one[at] for at in places] for one in answer.rows]
        return Answer(answer.tag, rows, answer.notices)

    async def undo(self, command: Command) -> None:
        """A client has cancelled a command that was waiting."""
        row = _row_of(command)
        if row.undo is not None:
            await row.undo(self._console, command)


def _wanted(found: Sequence[Column], command: Command) -> Sequence[int]:
    """Places of the columns that a command wants, in its order."""
    places = {column.name: at for at, column in enumerate(found)}
    for name in command.columns:
        if name not in places:
            raise ConsoleError(f'column "{name}" does not exist', "42703")
    return [places[name] for name in command.columns] or range(len(found))


def _row_of(command: Command) -> Row:
    if command.verb == "SHOW":
        row = SHOWS.get(command.argument.upper())
    elif command.verb == "SET" and command.argument in PARAMETERS:
        row = SET_IGNORED
    else:
        row = CONTROLS.get(command.verb)
        if row is not None:
            _check_argument(row, command)
    if row is None:
        raise invalid(command.text)
    return row


def _check_argument(row: Row, command: Command) -> None:
    wrong = {
        Argument.NONE: bool(command.argument),
        Argument.OPTIONAL: False,
        Argument.REQUIRED: not command.argument,
    }
    if wrong[row.argument]:
        raise invalid(command.text)
