# SPDX-License-Identifier: MIT
"""A host that leads to a PostgreSQL, and that can be down, full or mute."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from types import TracebackType
from typing import Any, Self

from pooler.demo.postgres import Postgres
from tests.integration.harness import HOST

TIMEOUT_S = 20.0
AUTHENTICATION_OK = b"R\0\0\0\x08\0\0\0\0"


class HostStandIn:
    """An address whose connections are passed on to a server.

    Without one it says ``said`` to whoever says something, and closes; "": nothing.
    """

    def __init__(
        self,
        address: Any,
        target: Postgres | None = None,
        *,
        said: bytes = b"",
        family: int = socket.AF_INET,
    ) -> None:
        self._target = target
        self._said = said
        self._address = address
        self._family = family
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._pipes: list[threading.Thread] = []
        self._stuffing: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self.accepted = 0
        self.logged_in = 0  # servers that have let somebody in

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Listen and serve."""
        self._listener = self._listen(128)
        self._thread = threading.Thread(target=self._serve, args=(self._listener,))
        self._thread.start()
        return self

    def start_hole(self) -> Self:
        """Listen with a queue that is full: whoever connects waits for ever."""
        self._listener = self._listen(0)
        for _ in range(3):
            caller = socket.socket(self._family)
            caller.setblocking(False)
            caller.connect_ex(self._address)
            self._stuffing.append(caller)
        return self

    def _listen(self, backlog: int) -> socket.socket:
        listener = socket.socket(self._family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(self._address)
        listener.listen(backlog)
        return listener

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            far = near
            if self._target is not None:
                far = socket.create_connection((HOST, self._target.port), TIMEOUT_S)
            self._pairs.append((near, far))
            if self._said:
                near.recv(65536)
                near.sendall(self._said)
                near.shutdown(socket.SHUT_RDWR)
            elif far is not near:
                pipe = threading.Thread(target=self._pass_on, args=(near, far))
                self._pipes.append(pipe)
                pipe.start()

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        has_ended = False
        with contextlib.suppress(OSError, ValueError):
            while not has_ended:
                for one in select.select((near, far), (), ())[0]:
                    data = one.recv(65536)
                    has_ended = has_ended or not data
                    self.logged_in += one is far and AUTHENTICATION_OK in data
                    (far if one is near else near).sendall(data)
        for one in (near, far):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Be down: nobody listens, and all connections end."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        if self._thread is not None:
            self._thread.join()
        for pair in self._pairs:
            for one in pair:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        for pipe in self._pipes:
            pipe.join()
        for one in (*self._stuffing, *(one for pair in self._pairs for one in pair)):
            one.close()
        self._stuffing.clear()
        self._pairs.clear()
