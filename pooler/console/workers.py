# SPDX-License-Identifier: MIT
"""Questions to all workers at once. Console layer.

An answer is a line of JSON; a list is any number of lines, each an array of rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any

from pooler.ipc.bus import Bus

# A worker answers between two turns of its loop.
ANSWER_S = 10.0
RECEIVE_BYTES = 262_144


async def ask_workers(
    bus: Bus, kind: str, payload: dict[str, Any], limit_s: float | None = ANSWER_S
) -> list[Any]:
    """The answers of the workers that live, in the order of their slots.

    One that dies, or does not answer in time, has no part in the sum. ``limit_s``:
    None: as long as it takes.
    """
    answers = await _ask_all(bus, kind, payload, limit_s)
    return [lines[0] for lines in answers if lines]


async def list_workers(bus: Bus, kind: str) -> list[list[Any]]:
    """The rows of all workers that live."""
    answers = await _ask_all(bus, kind, {}, ANSWER_S)
    return [row for lines in answers for rows in lines for row in rows]


async def _ask_all(
    bus: Bus, kind: str, payload: dict[str, Any], limit_s: float | None
) -> list[list[Any]]:
    return await asyncio.gather(
        *(_ask(bus, slot, kind, payload, limit_s) for slot in range(bus.slots))
    )


async def _ask(
    bus: Bus, slot: int, kind: str, payload: dict[str, Any], limit_s: float | None
) -> list[Any]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        with theirs:
            question = {**payload, "kind": kind}
            if not bus.send(slot, "ask", question, [theirs.fileno()]):
                return []
        ours.setblocking(False)
        lines: list[Any] = []
        with contextlib.suppress(TimeoutError, OSError, ValueError):
            async with asyncio.timeout(limit_s):
                await _read_lines(ours, lines)
        return lines


async def _read_lines(sock: socket.socket, lines: list[Any]) -> None:
    """Read up to the end; what has come whole by then is kept, whatever follows."""
    loop = asyncio.get_running_loop()
    rest = b""
    while part := await loop.sock_recv(sock, RECEIVE_BYTES):
        *whole, rest = (rest + part).split(b"\n")
        lines += map(json.loads, whole)
