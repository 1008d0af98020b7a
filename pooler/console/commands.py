# SPDX-License-Identifier: MIT
"""THE table of commands of the console. Console layer.

A row says who may run the command, what it takes and what columns it answers with;
access is decided here, from the row, and by no command itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pooler.console.answers import Answer, Column, ConsoleError
from pooler.console.controls import CONTROLS, SET_IGNORED
from pooler.console.grammar import Command, invalid
from pooler.console.rows import Argument, Console, Row
from pooler.console.shows import OF_CONFIGURATION, PARAMETERS
from pooler.console.shows_of_handovers import OF_HANDOVERS
from pooler.console.shows_of_pools import OF_POOLS

SHOWS: Mapping[str, Row] = MappingProxyType(
    {**OF_CONFIGURATION, **OF_POOLS, **OF_HANDOVERS}
)


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
    elif command.verb == "SET" and command.argument in PARAMETERS:
        row = SET_IGNORED
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
