# SPDX-License-Identifier: MIT
"""Clients that come and go all the time, and note how they were received."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from tests.integration.harness import DATABASE, DEADLINE_S, USER, wait_until
from tests.wire_client import (
    TERMINATE,
    ConnectionEnded,
    WireClient,
    query,
    startup,
)


def _ask(client: WireClient, question: bytes) -> str:
    """Read up to ReadyForQuery; the SQLSTATE of an error that comes instead, or ""."""
    with contextlib.suppress(BrokenPipeError):
        client.send(question)  # why it does not want it can be read
    while (one := client.read()).code not in "ZE":
        pass
    return one.fields["C"] if one.code == "E" else ""


class Visitors:
    """Connections in a row by TCP (two of them) and by a Unix socket, each used once.

    ``lost``: those that were refused, reset, or ended without a word; ``told``: those
    that heard why they could not be served.
    """

    def __init__(self, port: int, path: Path) -> None:
        self.count = 0
        self.lost: list[str] = []
        self.told: list[str] = []
        self._end = threading.Event()
        visits: list[Callable[[], WireClient]] = [
            lambda: WireClient(port),
            lambda: WireClient(port),
            lambda: WireClient(port, path=path),
        ]
        self._threads = [
            threading.Thread(target=self._run, args=(visit,), daemon=True)
            for visit in visits
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, visit: Callable[[], WireClient]) -> None:
        while not self._end.is_set():
            try:
                with visit() as client:
                    refusal = _ask(client, startup(USER, DATABASE)) or _ask(
                        client, query("SELECT 1")
                    )
                    with contextlib.suppress(OSError):
                        client.send(TERMINATE)
            except (OSError, ConnectionEnded) as problem:
                self.lost.append(repr(problem))
            else:
                self.told += [refusal] if refusal else []
            self.count += 1

    def wait_for(self, more: int) -> None:
        """Return when so many more have come."""
        goal = self.count + more
        wait_until(lambda: self.count >= goal, "visits")

    def stop(self) -> None:
        """No more of them."""
        self._end.set()
        for thread in self._threads:
            thread.join(DEADLINE_S)
