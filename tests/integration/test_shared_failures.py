# SPDX-License-Identifier: MIT
"""What one worker has found out about a server that fails is known to all."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.integration.fake_server import FakeServer, error
from tests.integration.harness import HOST, USER, MakePooler, closing_all
from tests.wire_client import startup


class Refuser:
    """Refuses every login, and counts them; or greets, once it is told to."""

    def __init__(self, server: FakeServer, sqlstate: str) -> None:
        self._server = server
        self._sqlstate = sqlstate
        self.greets = False
        self.refused = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError, AssertionError, socket.timeout):
            while True:
                backend = self._server.accept()
                backend.read_startup()
                if self.greets:
                    backend.send(backend.greeting())
                    continue
                self.refused += 1
                backend.send(error("FATAL", self._sqlstate, "not here"))
                backend.close()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with contextlib.closing(FakeServer()) as made:
        yield made


@pytest.mark.parametrize(("sqlstate", "tries"), [("3D000", 1), ("28P01", 2)])
def test_a_refusal_is_known_to_all(
    make_pooler: MakePooler, server: FakeServer, sqlstate: str, tries: int
) -> None:
    """But one for the secret: each worker may have another one."""
    refuser = Refuser(server, sqlstate)
    pooler = make_pooler(
        {"shop": f"host={HOST} port={server.port}"},
        workers=2,
        server_login_retry=60,
    )
    with closing_all([pooler.wire() for _ in range(8)]) as clients:
        for client in clients:  # whoever is sent away hears why at once
            client.send(startup(USER, "shop"))
            told = client.read_fatal()
            assert (told["C"], "not here" in told["M"]) == (sqlstate, True)
        assert refuser.refused == tries
