# SPDX-License-Identifier: MIT
"""Cancel requests, also for clients of another worker or host. Worker layer, cold.

A key tells who can find its client:

    byte 0      low seven bits: the worker's slot (the sign bit stays clear, because
                some clients print the process id as a signed number)
    bytes 1, 2  with peering, the ``peer_id`` of the host, low byte first
    byte 7      with peering, low two bits: how often the request may still be forwarded

Everything else is random. The layout of peering is PgBouncer's. The connection that
brought a request is closed when the cancel is done, as PostgreSQL does: libpq waits.

Source: PostgreSQL documentation, "Canceling Requests in Progress".
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from pooler import log
from pooler.config.settings import Peer
from pooler.errors import LoginError
from pooler.io.engine import Engine
from pooler.io.links import Links
from pooler.ipc.bus import MASTER, Bus, BusMessage
from pooler.session.records import CloseReason
from pooler.worker.peer_places import PeerPlaces
from pooler.worker.pool import Pool
from pooler.worker.pools import Pools
from pooler.worker.servers import Way, send_cancel

SLOT_BITS = 0x7F
HOP_BITS = 0x03
HOP_BYTE = 7
KEY_BYTES = 8
LONG_KEY_BYTES = 36
ANSWER_TIMEOUT_S = 10.0
# Cancel connections of this worker at once; more requests wait their turn.
CANCELS_AT_ONCE = 64
# Of SHOW POOLS.
CANCEL_COLUMNS = (
    "cl_active_cancel_req",
    "cl_waiting_cancel_req",
    "sv_active_cancel",
    "sv_being_canceled",
)


NO_PLACE = contextlib.nullcontext()


class UnderWay:
    """How many cancel requests are under way, by where they go."""

    def __init__(self) -> None:
        self.states: dict[int, str] = {}
        self._counts: dict[int | str, Counter[str]] = {}

    def of(self, target: int | str) -> dict[str, int]:
        """The columns of a target: a pool's id, or a peer."""
        counts = self._counts.get(target, Counter())
        return {name: counts[name] for name in CANCEL_COLUMNS}

    @contextlib.contextmanager
    def one(self, target: int | str, asker: int | None) -> Iterator[Callable[[], None]]:
        """One request: it waits for its turn until the caller says that it begins."""
        counts = self._counts.setdefault(target, Counter())
        waits = "cl_waiting_cancel_req" if asker is not None else ""
        held = [waits] if waits else []
        counts.update(held)

        def begun() -> None:
            nonlocal held
            counts.subtract(held)
            held = ["sv_active_cancel", "sv_being_canceled"]
            held += ["cl_active_cancel_req"] if waits else []
            counts.update(held)
            if asker:
                self.states[asker] = "active_cancel_req"

        try:
            yield begun
        finally:
            counts.subtract(held)
            if not any(counts.values()):
                self._counts.pop(target, None)


def _why(error: Exception) -> str:
    """Why the connection of a request is given up; a time limit says nothing itself."""
    return f"closing because: {str(error) or 'cancel_wait_timeout'}"


class Cancels:
    """The cancel requests of one worker."""

    def __init__(
        self,
        engine: Engine,
        links: Links,
        pools: Pools,
        bus: Bus,
        slot: int,
        workers: int,
        *,
        follows: bool = False,
    ) -> None:
        """``follows``: another pooler, which may still have clients."""
        self._follows = follows
        self._engine = engine
        self._links = links
        self._pools = pools
        self._bus = bus
        self._slot = slot
        self._workers = workers
        self._ids = itertools.count()
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._budget = asyncio.Semaphore(CANCELS_AT_ONCE)
        self._under_way = UnderWay()
        self._peer_places = PeerPlaces(pools.accounts, lambda: pools.config)

    @property
    def states(self) -> Mapping[int, str]:
        """By its handle, how a client that has brought a request is shown."""
        return self._under_way.states

    def of_pool(self, pool: Pool) -> dict[str, int]:
        """Requests for servers of a pool, as SHOW POOLS counts them."""
        return self._under_way.of(pool.pool_id)

    def of_peers(self) -> dict[str, dict[str, int]]:
        """Requests that are passed on to other hosts, by their peer_id."""
        peers = self._pools.config.peers
        return {str(peer): self._under_way.of(f"peer {peer}") for peer in peers}

    def new_key(self, minor_protocol: int) -> bytes:
        """Return a key for a client of this worker: process id and secret."""
        key = bytearray(os.urandom(LONG_KEY_BYTES if minor_protocol else KEY_BYTES))
        key[0] = self._slot & SLOT_BITS
        peer_id = self._pools.config.settings.peer_id
        if peer_id:
            key[1:3] = peer_id.to_bytes(2, "little")
            key[HOP_BYTE] |= HOP_BITS
        return bytes(key)

    def requested(self, handle: int, key: bytes) -> None:
        """A connection has brought a cancel request; it is closed afterwards."""
        self._under_way.states[handle] = "waiting_cancel_req"
        self._spawn(self._serve(handle, key))

    def abandoned(self, handle: int) -> None:
        """A server runs what a vanished client asked for."""
        self._spawn(self._cancel_on(handle, None))

    def heard(self, message: BusMessage) -> None:
        """Another worker has got a request that may be for a client of ours."""
        key = bytes.fromhex(str(message.payload.get("key", "")))
        self._spawn(self._serve_other(message.sender, message.payload.get("id"), key))

    def answered(self, message: BusMessage) -> None:
        """Another worker has dealt with a request that we passed on."""
        answer = self._answers.get(message.payload.get("id", -1))
        if answer is not None and not answer.done():
            answer.set_result(None)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, handle: int, key: bytes) -> None:
        try:
            peer = self._peer_of(key)
            if peer is not None:
                await self._forward(handle, peer, key)
            elif not await self._cancel_here(self._own(key), handle):
                await self._pass_on(self._own(key))
        finally:
            self._under_way.states.pop(handle, None)
            self._engine.client_close(handle, CloseReason.CLOSE_CLIENT_REQUEST)

    async def _serve_other(self, sender: int, request_id: object, key: bytes) -> None:
        try:
            await self._cancel_here(key, 0)
        finally:
            self._bus.send(sender, "cancelled", {"id": request_id})

    async def _cancel_here(self, key: bytes, asker: int) -> bool:
        """Cancel for a client of this worker; False when the key is not ours.

        ``asker``: the connection that has brought the request; 0: another worker's.
        """
        handle = self._engine.cancel_begin(key)
        if handle is None:
            return False
        if handle:
            await self._cancel_on(handle, asker)
        return True

    async def _cancel_on(self, handle: int, asker: int | None) -> None:
        """Send a server its cancel request; then the engine may use it again.

        ``asker``: as of ``_cancel_here``; None: nobody has asked.
        """
        server = self._pools.launches.servers.get(handle)
        uncertain = False
        try:
            # a server that gave no key cannot be asked
            if server is not None and server.pool.is_console:
                self._pools.door.cancel(server.backend_pid)
            elif server is not None and server.cancel_key:
                with self._under_way.one(server.pool.pool_id, asker) as begun:
                    async with self._turn():
                        begun()
                        await send_cancel(
                            self._links,
                            server.way,
                            server.backend_pid,
                            server.cancel_key,
                        )
        except (OSError, TimeoutError, LoginError) as error:
            uncertain = isinstance(error, TimeoutError)
            tag = "" if server is None else f"S-{server.backend_pid}: {server.pool.tag}"
            log.write(log.WARNING, f"cancel request failed, {_why(error)}", tag=tag)
        finally:
            self._engine.cancel_end(handle, uncertain)

    @contextlib.asynccontextmanager
    async def _turn(
        self, place: AbstractAsyncContextManager[None] = NO_PLACE
    ) -> AsyncIterator[None]:
        """A place in the budget, and the time limit of one request.

        ``place``: what it needs first; who waits for that takes nothing of the budget.
        """
        limit_s = self._pools.config.settings.cancel_wait_timeout
        async with asyncio.timeout(limit_s or None), place, self._budget:
            yield

    # ------------------------------------------------------------ other workers

    async def _pass_on(self, key: bytes) -> None:
        """Ask all that the key can belong to, and wait for their answers.

        The master answers for a pooler whose place this one has taken.
        """
        loop = asyncio.get_running_loop()
        waiting: dict[int, asyncio.Future[None]] = {}
        likely = (
            slot
            for slot in range(self._workers)
            if slot != self._slot and slot & SLOT_BITS == key[0]
        )
        for slot in (*likely, *([MASTER] if self._follows else [])):
            request_id = next(self._ids)
            if self._bus.send(slot, "cancel", {"id": request_id, "key": key.hex()}):
                waiting[request_id] = loop.create_future()
        if not waiting:
            return
        self._answers.update(waiting)
        try:
            await asyncio.wait(waiting.values(), timeout=ANSWER_TIMEOUT_S)
        finally:
            for request_id in waiting:
                del self._answers[request_id]

    # ------------------------------------------------------------ other hosts

    def _own(self, key: bytes) -> bytes:
        """The key as this host gave it out, whatever hops it has made since."""
        if not self._pools.config.settings.peer_id or len(key) <= HOP_BYTE:
            return key
        whole = bytearray(key)
        whole[HOP_BYTE] |= HOP_BITS
        return bytes(whole)

    def _peer_of(self, key: bytes) -> Peer | None:
        """The other host that a key belongs to, if peering is on and knows it."""
        own = self._pools.config.settings.peer_id
        if not own or len(key) < KEY_BYTES:
            return None
        peer_id = int.from_bytes(key[1:3], "little")
        return None if peer_id == own else self._pools.config.peers.get(peer_id)

    async def _forward(self, handle: int, peer: Peer, key: bytes) -> None:
        """Send a request on to its host, unless it has been forwarded too often."""
        hops = key[HOP_BYTE] & HOP_BITS
        if hops == 0:
            log.write(log.WARNING, "cancel request dropped: forwarded too often")
            return
        onward = bytearray(key)
        onward[HOP_BYTE] -= 1
        try:
            with self._under_way.one(f"peer {peer.peer_id}", handle) as begun:
                async with self._turn(self._peer_places.one(peer)):
                    begun()
                    await self._forward_to(peer, bytes(onward))
        except (OSError, TimeoutError, LoginError) as error:
            log.write(
                log.WARNING,
                f"cancel request to peer {peer.peer_id} failed, {_why(error)}",
            )

    async def _forward_to(self, peer: Peer, key: bytes) -> None:
        """Send a key to the first address of a host that takes it; raises OSError."""
        found = await self._pools.opener.hosts.addresses(peer.host, peer.port)
        pid = int.from_bytes(key[:4], "big")
        for address in found:
            try:
                way = Way(address, peer.host)
                await send_cancel(self._links, way, pid, key[4:])
            except OSError:
                if address is found[-1]:
                    raise
            else:
                return
