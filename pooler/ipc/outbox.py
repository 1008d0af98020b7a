# SPDX-License-Identifier: MIT
"""Messages to one inbox that may not be lost. Layer: ipc.

A full inbox takes nothing, and nobody waits in ``Bus.send``. Here a message waits for
its turn instead, in order, and is tried again until the inbox takes it. Only when
nobody will ever read it, because its owner is gone, what waits is dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pooler.ipc.bus import Bus

AGAIN_S = 0.01


@dataclass(slots=True, eq=False)
class _Row:
    kind: str
    payload: dict[str, Any]
    fds: Sequence[int] = ()
    sent: asyncio.Future[None] | None = None


class Outbox:
    """What one process has for the inbox of ``slot``."""

    def __init__(self, bus: Bus, slot: int) -> None:
        self._bus = bus
        self._slot = slot
        self._rows: deque[_Row] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def put(self, kind: str, payload: dict[str, Any]) -> None:
        """Send a message now or later."""
        self._rows.append(_Row(kind, payload))
        self._flush()

    async def deliver(
        self, kind: str, payload: dict[str, Any], fds: Sequence[int] = ()
    ) -> None:
        """Return when the message is in the inbox; when cancelled it never will be.

        The caller keeps its own copies of ``fds``, and open until then.
        """
        row = _Row(kind, payload, fds, asyncio.get_running_loop().create_future())
        self._rows.append(row)
        self._flush()
        assert row.sent is not None  # noqa: S101 - made above
        try:
            await row.sent
        finally:
            if row in self._rows:
                self._rows.remove(row)

    def _flush(self) -> None:
        while self._rows:
            row = self._rows[0]
            if not self._is_done_with(row):
                self._later()
                return
            self._rows.popleft()
            if row.sent is not None and not row.sent.done():
                row.sent.set_result(None)

    def _is_done_with(self, row: _Row) -> bool:
        """Whether it is sent, or nobody will ever read it."""
        return self._bus.send(
            self._slot, row.kind, row.payload, row.fds
        ) or not self._bus.is_read(self._slot)

    def _later(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(AGAIN_S, self._again)

    def _again(self) -> None:
        self._timer = None
        self._flush()
