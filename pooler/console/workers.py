# SPDX-License-Identifier: MIT
"""Questions to all workers at once. Console layer."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

from pooler.ipc.bus import Bus

# A worker answers between two turns of its loop.
ANSWER_S = 10.0
RECEIVE_BYTES = 262_144


async def ask_workers(bus: Bus, kind: str, payload: dict[str, Any]) -> list[Any]:
    """The answers of the workers that live, in the order of their slots.

    One that dies, or does not answer in time, has no part in the sum.
    """
    answers = await asyncio.gather(
        *(_ask(bus, slot, kind, payload) for slot in range(bus.slots))
    )
    return [answer for answer in answers if answer is not None]


async def _ask(bus: Bus, slot: int, kind: str, payload: dict[str, Any]) -> Any:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        with theirs:
            question = {**payload, "kind": kind}
            if not bus.send(slot, "ask", question, [theirs.fileno()]):
                return None
        ours.setblocking(False)
        try:
            async with asyncio.timeout(ANSWER_S):
                return json.loads(await _read_all(ours))
        except (TimeoutError, OSError, ValueError):
            return None


async def _read_all(sock: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    parts = []
    while part := await loop.sock_recv(sock, RECEIVE_BYTES):
        parts.append(part)
    return b"".join(parts)
