# SPDX-License-Identifier: MIT
"""SUSPEND in one worker. Worker layer, cold.

What the operator wants is part of the configuration (``RunState``), so a reload does
not undo it and a successor is born with it.
"""

from __future__ import annotations

import time

from pooler.io.engine import Engine
from pooler.worker.pools import Pools


class Suspension:
    """Whether this worker rests, and since when."""

    def __init__(self, engine: Engine, pools: Pools) -> None:
        self._engine = engine
        self._pools = pools
        self._since_s: float | None = None

    def apply(self) -> None:
        """Rest, or go on, as the configuration says by now.

        Sessions of the console go on: one of them has to say when this is to end.
        """
        wanted = self._pools.config.state.suspended
        if wanted and self._since_s is None:
            self._since_s = time.monotonic()
            consoles = (p.pool_id for p in self._pools.all() if p.is_console)
            self._engine.suspend(consoles)
        elif not wanted and self._since_s is not None:
            self._since_s = None
            self._engine.resume()

    def outcome(self) -> str:
        """ "gone" when all buffers are empty, "resumed" if nobody wants that any more.

        "": neither yet.
        """
        if self._since_s is None:
            return "resumed"
        return "" if self._engine.unflushed() else "gone"

    def on_time(self) -> None:
        """Close those whose buffers are not empty when ``suspend_timeout`` is over."""
        limit_s = self._pools.config.settings.suspend_timeout
        if self._since_s is None or not limit_s:
            return
        if time.monotonic() - self._since_s >= limit_s and self._engine.unflushed():
            self._engine.close_unflushed()
