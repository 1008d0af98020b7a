# SPDX-License-Identifier: MIT
"""PAUSE, SUSPEND, RESUME, KILL, WAIT_CLOSE: all workers as one. Console layer.

What is paused is kept by the master, so that a worker's death changes nothing: it has
no servers any more, and its successor is born paused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from pooler.config.model import RESERVED_DATABASE
from pooler.console.answers import Answer, ConsoleError
from pooler.console.grammar import Command, invalid
from pooler.console.rows import Argument, Console, Row

MAX_ID = 0x7FFFFFFF
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)
_TO = {"WAIT_CLOSE": "wait in"}


def check_database(console: Console, command: Command) -> str:
    """The database that a command names, which exists; "" if it names none."""
    name, verb = command.argument, command.verb
    if name == RESERVED_DATABASE:
        raise ConsoleError(f"cannot {_TO.get(verb, verb.lower())} admin db: {name}")
    if name and console.config.database(name) is None:
        raise ConsoleError(f"no such database: {name}")
    return name


async def change_state(console: Console, verb: str, database: str) -> None:
    """Have the master change what is paused, in all workers; ConsoleError."""
    problem = await console.ask_master("state", verb=verb, database=database)
    if problem:
        raise ConsoleError(problem)


async def _pause(console: Console, command: Command) -> Answer:
    name = check_database(console, command)
    await change_state(console, "PAUSE", name)
    outcomes = await console.wait_for_workers("until_paused", database=name)
    if "resumed" in outcomes:
        raise ConsoleError("PAUSE was ended by RESUME")
    return Answer("PAUSE")


async def _unpause(console: Console, command: Command) -> None:
    """Whoever gives up waiting for PAUSE does not leave everybody else waiting."""
    await console.ask_master("state", verb="RESUME", database=command.argument)


async def _suspend(console: Console, command: Command) -> Answer:
    if command.argument:
        raise invalid(command.text)
    await change_state(console, "SUSPEND", "")
    outcomes = await console.wait_for_workers("until_suspended", database="")
    if "resumed" in outcomes:
        raise ConsoleError("SUSPEND was ended by RESUME")
    return Answer("SUSPEND")


async def _resume(console: Console, command: Command) -> Answer:
    name = command.argument
    if name and name != RESERVED_DATABASE:
        check_database(console, command)
    await change_state(console, "RESUME", name)
    return Answer("RESUME")


async def _kill(console: Console, command: Command) -> Answer:
    if not command.argument:
        raise ConsoleError("a database is required")
    name = check_database(console, command)
    await change_state(console, "KILL", name)
    await console.ask_workers("kill", database=name)
    return Answer("KILL")


async def _kill_client(console: Console, command: Command) -> Answer:
    found = _NUMBER.match(command.argument)
    if not found:
        raise ConsoleError("invalid client pointer supplied")
    number = int(found[0])
    known = number <= MAX_ID and await console.ask_workers(
        "kill_client", id=str(number)
    )
    if not known or not any(known):
        raise ConsoleError("client not found")
    return Answer("KILL_CLIENT")


async def _wait_close(console: Console, command: Command) -> Answer:
    name = check_database(console, command)
    await console.wait_for_workers("until_closed", database=name)
    return Answer("WAIT_CLOSE")


async def _disable(console: Console, command: Command) -> Answer:
    if not command.argument:
        raise ConsoleError("a database is required")
    name = check_database(console, command)
    await change_state(console, command.verb, name)
    return Answer(command.verb)


PAUSES: Mapping[str, Row] = MappingProxyType(
    {
        "PAUSE": Row(_pause, argument=Argument.OPTIONAL, undo=_unpause),
        "SUSPEND": Row(_suspend),
        "RESUME": Row(_resume, argument=Argument.OPTIONAL),
        "KILL": Row(_kill, argument=Argument.OPTIONAL),
        "KILL_CLIENT": Row(_kill_client, argument=Argument.OPTIONAL),
        "WAIT_CLOSE": Row(_wait_close, argument=Argument.OPTIONAL, logged=True),
        "DISABLE": Row(_disable, argument=Argument.OPTIONAL),
        "ENABLE": Row(_disable, argument=Argument.OPTIONAL),
    }
)
