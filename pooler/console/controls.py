# SPDX-License-Identifier: MIT
"""Commands that change something. Console layer."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pooler.config.model import RESERVED_DATABASE
from pooler.console.answers import Answer, ConsoleError
from pooler.console.grammar import Command, invalid
from pooler.console.pauses import PAUSES
from pooler.console.rows import Argument, Console, Row
from pooler.login import packets


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


async def _reconnect(console: Console, command: Command) -> Answer:
    name = command.argument
    if name == RESERVED_DATABASE:
        raise ConsoleError(f"cannot reconnect admin db: {name}")
    known = await console.ask_workers("reconnect", database=name)
    if not any(known):
        raise ConsoleError(f"no such database: {name}")
    return Answer("RECONNECT")


async def _takeover(console: Console, command: Command) -> Answer:
    problem = await console.ask_master("takeover", name=command.argument)
    if problem:
        raise ConsoleError(problem)
    return Answer("TAKEOVER")


async def _shutdown(console: Console, command: Command) -> Answer:
    how = command.argument.upper()
    if how not in ("", "WAIT_FOR_SERVERS", "WAIT_FOR_CLIENTS"):
        raise invalid(command.text)
    problem = await console.ask_master("shutdown", how=how)
    if problem:
        raise ConsoleError(problem)
    return Answer("SHUTDOWN")


async def _set_ignored(console: Console, command: Command) -> Answer:
    notice = packets.notice_response("NOTICE", "00000", "SET ignored")
    return Answer("SET", (), (notice,))


SET_IGNORED = Row(_set_ignored, admin=False)

CONTROLS: Mapping[str, Row] = MappingProxyType(
    {
        "SET": Row(_set, argument=Argument.REQUIRED),
        "RELOAD": Row(_reload),
        "RECONNECT": Row(_reconnect, argument=Argument.OPTIONAL, logged=True),
        **PAUSES,
        "TAKEOVER": Row(_takeover, argument=Argument.REQUIRED),
        "SHUTDOWN": Row(_shutdown, argument=Argument.OPTIONAL),
    }
)
