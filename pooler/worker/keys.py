# SPDX-License-Identifier: MIT
"""SCRAM keys of passwords, derived in a thread. Worker layer, cold.

A server may ask for as many hashes as it likes (600,000 are half a second); on the
relay's thread all clients of the worker would wait for them. Here each secret costs
them once for each salt, however many logins are under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor

from pooler.login.scram import KeyRequest, ScramKeys

MAX_SECRETS = 10_000
# A server has one salt for a user; the hosts of one entry may differ.
SALTS_OF_ONE_SECRET = 4
NICENESS = 10


def _become_modest() -> None:
    """Leave the cores to the relay; Linux knows a niceness of each thread."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class KeyRing:
    """The keys that this worker has derived.

    The secret that was asked for longest ago goes first when there are too many, and
    so does the salt of one secret: a server that changes it all the time takes from
    nobody else.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, OrderedDict[KeyRequest, ScramKeys]] = (
            OrderedDict()
        )
        self._under_way: dict[KeyRequest, asyncio.Future[ScramKeys]] = {}
        self._begun: set[asyncio.Future[ScramKeys]] = set()
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix="keys", initializer=_become_modest
        )

    def find(self, request: KeyRequest) -> ScramKeys | None:
        """The keys, if they are known."""
        of_secret = self._known.get(request.password)
        keys = None if of_secret is None else of_secret.get(request)
        if of_secret is not None and keys is not None:
            self._known.move_to_end(request.password)
            of_secret.move_to_end(request)
        return keys

    async def get(self, request: KeyRequest) -> ScramKeys:
        """The keys, once they are there; who gives up waiting disturbs nobody."""
        keys = self.find(request)
        if keys is not None:
            return keys
        under_way = self._under_way.get(request)
        if under_way is None:
            under_way = self._begin(request)
            self._under_way[request] = under_way
            under_way.add_done_callback(lambda done: self._derived(request, done))
        return await asyncio.shield(under_way)

    async def once(self, request: KeyRequest) -> ScramKeys:
        """The keys of what a client says: for it alone, and not kept."""
        return await self._begin(request)

    def _begin(self, request: KeyRequest) -> asyncio.Future[ScramKeys]:
        loop = asyncio.get_running_loop()
        begun = loop.run_in_executor(self._thread, request.derive)
        self._begun.add(begun)
        begun.add_done_callback(self._begun.discard)
        return begun

    def _derived(self, request: KeyRequest, done: asyncio.Future[ScramKeys]) -> None:
        del self._under_way[request]
        if done.cancelled() or done.exception() is not None:
            return  # those who wait for it hear of it
        of_secret = self._known.setdefault(request.password, OrderedDict())
        of_secret[request] = done.result()
        self._known.move_to_end(request.password)
        if len(of_secret) > SALTS_OF_ONE_SECRET:
            of_secret.popitem(last=False)
        if len(self._known) > MAX_SECRETS:
            self._known.popitem(last=False)

    def keep(self, secrets: Container[str]) -> None:
        """Forget the keys of all other secrets."""
        for secret in [known for known in self._known if known not in secrets]:
            del self._known[secret]

    def close(self) -> None:
        """The worker ends: nobody waits any more."""
        for begun in self._begun:
            begun.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)
