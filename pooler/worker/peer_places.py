# SPDX-License-Identifier: MIT
"""How many cancel requests are on their way to a peer. Worker layer, cold.

``pool_size`` of [peers], over all workers: each request is a connection, and takes a
place by the account of its peer on the page that all workers share.

Source: PgBouncer documentation, "[peers] section", pool_size.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from pooler.board.page import Verdict
from pooler.config.model import Config
from pooler.config.settings import Peer
from pooler.worker.accounts import Accounts, Limits


class PeerPlaces:
    """The places of all peers."""

    def __init__(self, accounts: Accounts, config: Callable[[], Config]) -> None:
        self._accounts = accounts
        self._config = config

    @contextlib.asynccontextmanager
    async def one(self, peer: Peer) -> AsyncIterator[None]:
        """A place at a peer, as soon as there is one; the caller limits the wait.

        LoginError: there is no room to count it.
        """
        places = self._accounts.open_peer(peer.peer_id)
        try:
            while True:
                limits = Limits(self._config().peer_pool_size(peer), 0, 0)
                room = asyncio.Event()
                if self._accounts.take(places, limits, room.set) is Verdict.TAKEN:
                    break
                await room.wait()
            try:
                yield
            finally:
                self._accounts.give(places)
        finally:
            self._accounts.close(places)
