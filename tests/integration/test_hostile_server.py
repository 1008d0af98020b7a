# SPDX-License-Identifier: MIT
"""A server that is costly or an impostor, while it logs us in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from pooler.login import packets
from pooler.login.scram import KeyRequest, ScramKeys, ServerExchange, Verifier
from tests.integration.fake_server import (
    SELECT,
    FakeBackend,
    FakeServer,
    begin,
)
from tests.integration.harness import USER, InProcess, wait_until
from tests.wire_client import WireClient, codes, startup

pytestmark = pytest.mark.timeout(30)

PASSWORD = "a secret of the server"
VERIFIER = Verifier.from_password(PASSWORD, 2, b"salt" * 4)


@pytest.fixture
def listed(
    worker_in_process: Callable[..., InProcess],
    server: FakeServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> InProcess:
    """A worker that knows a password for the fake server."""
    auth_file = tmp_path_factory.mktemp("users") / "userlist.txt"
    auth_file.write_text(f'"{USER}" "{PASSWORD}"\n')
    return worker_in_process(
        server_port=server.port,
        default_pool_size=3,
        auth_file=auth_file,
        server_login_retry=0,
    )


class Derivations:
    """All derivations of keys stand still until they are let go."""

    def __init__(self) -> None:
        self.asked: list[KeyRequest] = []
        self.may_go = threading.Event()
        self._derive = KeyRequest.derive

    def derive(self, request: KeyRequest) -> ScramKeys:
        self.asked.append(request)
        assert self.may_go.wait(20)
        return self._derive(request)


@pytest.fixture
def derivations(monkeypatch: pytest.MonkeyPatch) -> Iterator[Derivations]:
    made = Derivations()
    monkeypatch.setattr(KeyRequest, "derive", lambda request: made.derive(request))
    yield made
    made.may_go.set()


def challenge(backend: FakeBackend) -> ServerExchange:
    """Go as far as to say which salt and how many iterations."""
    backend.read_startup()
    backend.send(packets.authentication_sasl(["SCRAM-SHA-256"]))
    exchange = ServerExchange(VERIFIER)
    _, first = packets.read_sasl_initial_response(backend.read().body)
    assert first is not None
    backend.send(packets.authentication_sasl_continue(exchange.first(first)))
    return exchange


def prove(backend: FakeBackend, exchange: ServerExchange) -> None:
    """Take the proof, give ours, and say that all is well."""
    signature = exchange.final(backend.read().body)
    backend.send(packets.authentication_sasl_final(signature), backend.greeting())


def ask_for(worker: InProcess, database: str) -> WireClient:
    client = WireClient(worker.port)
    client.send(startup(USER, database))
    return client


def test_costly_keys_hold_nobody_up(
    listed: InProcess, server: FakeServer, derivations: Derivations
) -> None:
    """Derived once in a thread, while others log in and run their queries."""
    one = ask_for(listed, "costly")
    exchange = challenge(costly := server.accept())
    wait_until(lambda: derivations.asked, "the keys are derived")
    with begin(listed) as other:
        quick = server.accept().greet()
        other.read_greeting()
        for _ in range(3):
            other.send(SELECT)
            quick.answer()
            assert codes(other.read_until("Z")) == "TDCZ"
    two = ask_for(listed, "as_costly")  # of the same user, so with the same secret
    exchange_two = challenge(costly_two := server.accept())
    derivations.may_go.set()
    prove(costly, exchange)
    prove(costly_two, exchange_two)
    one.read_greeting()
    two.read_greeting()
    assert derivations.asked == [KeyRequest(PASSWORD, VERIFIER.salt, 2)]
    one.close()
    two.close()


def test_a_server_that_leaves_while_keys_are_derived(
    listed: InProcess, server: FakeServer, derivations: Derivations
) -> None:
    client = ask_for(listed, "costly")
    challenge(backend := server.accept())
    wait_until(lambda: derivations.asked, "the keys are derived")
    backend.close()
    derivations.may_go.set()
    assert "server closed the connection during login" in client.read_fatal()["M"]
    client.close()
    again = ask_for(listed, "costly")
    exchange = challenge(backend := server.accept())
    prove(backend, exchange)
    again.read_greeting()
    assert len(derivations.asked) == 1
    again.close()
