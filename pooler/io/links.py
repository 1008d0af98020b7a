# SPDX-License-Identifier: MIT
"""Links: connections of the engine that Python talks on, awaitable. IO layer, cold.

A login to a server and a cancel request go the same way as everything else: through
the transports of the engine. asyncio sees no descriptor of theirs.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pooler.errors import TlsError

if TYPE_CHECKING:
    from pooler.io.engine import Engine
    from pooler.io.tls_context import TlsContext

# A Unix socket whose backlog is full says so instead of letting us wait (connect(2)).
BACKLOG_PAUSE_S = 0.01
NODELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
NOT_SECURE = ("", "", "", "", b"")


class Link:
    """One connection; close it, or give it up to the engine as a server."""

    def __init__(
        self, engine: Engine, links: Links, handle: int, local_address: Any
    ) -> None:
        self._engine = engine
        self._links = links
        self._handle = handle
        self.local_address = local_address
        self._arrived: deque[bytes] = deque()
        self._ended = False
        self._error = 0
        self._connected = False
        self._waiter: asyncio.Future[None] | None = None

    async def connected(self) -> None:
        """Return when the connection stands; raises OSError when it cannot be."""
        while not self._connected and not self._ended:
            await self._happens()
        self._raise_error()

    async def receive(self) -> bytes:
        """Return what has come, b"" at the end; raises OSError. One caller only."""
        while not self._arrived and not self._ended:
            await self._happens()
        if self._arrived:
            return self._arrived.popleft()
        self._raise_error()
        return b""

    def send(self, data: bytes) -> None:
        """Send in order; that the other side is gone is heard of by ``receive``."""
        self._engine.link_send(self._handle, data)

    async def start_tls(self, context: TlsContext, host: str, *, direct: bool) -> None:
        """Speak TLS from now on; returns when the handshake is over.

        OSError when the server leaves, ``TlsError`` with OpenSSL's reason when it
        cannot be.
        """
        if self._arrived:
            raise TlsError("received unencrypted data after SSL response")
        self._engine.link_start_tls(self._handle, context, host, direct)
        while not self._ended and not self._facts()[0]:
            await self._happens()
        if self._facts()[0]:
            return
        error = self._facts()[3]
        if error:
            raise TlsError(error)
        self._raise_error()
        raise TlsError("the server has closed the connection")

    @property
    def certificate_hash(self) -> bytes:
        """Of the certificate that the server has shown by TLS; b"" without."""
        return self._facts()[4]

    @property
    def protocol(self) -> str:
        """What was agreed on by ALPN; empty: nothing."""
        return self._facts()[2]

    @property
    def is_secure(self) -> bool:
        """Whether TLS is spoken."""
        return bool(self._facts()[0])

    def _facts(self) -> tuple[str, str, str, str, bytes]:
        return self._engine.link_tls(self._handle) or NOT_SECURE

    def close(self) -> None:
        """Close it; idempotent, and nothing when it has become a server."""
        if self._links.forget(self._handle):
            self._engine.link_close(self._handle)

    def give_up(self) -> tuple[int, bytes]:
        """Return the handle for ``Engine.server_adopt``, which takes the link over.

        And what has come that nobody has received.
        """
        self._links.forget(self._handle)
        return self._handle, b"".join(self._arrived)

    def happened(self) -> None:
        """The engine has news of this link."""
        data, ended, error = self._engine.link_take(self._handle)
        self._connected = self._connected or not error
        self._ended, self._error = ended, error
        if data:
            self._arrived.append(data)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _happens(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _raise_error(self) -> None:
        if self._error:
            raise OSError(self._error, os.strerror(self._error))


class Links:
    """All links of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._by_handle: dict[int, Link] = {}
        # Of each new TCP socket, as setsockopt takes them.
        self.tcp_options: Sequence[tuple[int, int, int]] = (NODELAY,)

    async def dial(self, family: int, address: Any) -> Link:
        """Connect to an address, as ``socket`` takes it; raises OSError."""
        link = await self._begin(family, address)
        try:
            await link.connected()
        except BaseException:
            link.close()
            raise
        return link

    async def adopt(self, sock: socket.socket) -> Link:
        """Talk on a stream socket that is connected already; raises OSError."""
        try:
            sock.setblocking(False)
            link = self._enter(sock)
        finally:
            sock.close()
        await link.connected()
        return link

    def happened(self, handle: int) -> None:
        """Pass a NOTICE_LINK on; the link may be closed by now."""
        link = self._by_handle.get(handle)
        if link is not None:
            link.happened()

    def forget(self, handle: int) -> bool:
        """Return whether the link was still ours."""
        return self._by_handle.pop(handle, None) is not None

    async def _begin(self, family: int, address: Any) -> Link:
        while True:
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                if family != socket.AF_UNIX:
                    for option in self.tcp_options:
                        sock.setsockopt(*option)
                code = sock.connect_ex(address)
                if code in (0, errno.EINPROGRESS):
                    return self._enter(sock)
            finally:
                sock.close()
            if code != errno.EAGAIN:
                raise OSError(code, os.strerror(code))
            await asyncio.sleep(BACKLOG_PAUSE_S)

    def _enter(self, sock: socket.socket) -> Link:
        """Give a socket to the engine."""
        handle = self._engine.link_open(sock.fileno())
        link = Link(self._engine, self, handle, sock.getsockname())
        sock.detach()
        self._by_handle[handle] = link
        return link
