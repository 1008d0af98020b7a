# SPDX-License-Identifier: MIT
"""A server that is costly or an impostor, while it logs us in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from pooler import log
from pooler.login import packets
from pooler.login.scram import KeyRequest, Verifier
from tests.integration.fake_server import (
    SELECT,
    FakeBackend,
    FakeServer,
    begin,
)
from tests.integration.harness import USER, Derivations, InProcess, wait_until
from tests.server_exchange import ServerExchange
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
    exchange = challenge(backend := server.accept())  # its client has waited
    prove(backend, exchange)
    client.read_greeting()
    assert len(derivations.asked) == 1
    client.close()


def hostile(backend: FakeBackend, talk: bytes) -> None:
    """Say it in answer to a startup packet; the pooler may hang up meanwhile."""
    backend.read_startup()
    with contextlib.suppress(ConnectionError):
        backend.send(talk)


OK = packets.authentication_ok()
NOTICE = packets.notice_response("NOTICE", "00000", "n" * 60_000)


@pytest.mark.parametrize(
    ("talk", "told"),
    [
        (packets.message(b"R", b"\0\0\0\7"), "unsupported authentication request 7"),
        (NOTICE * 20, "the server's answer is too long"),
        (packets.message(b"N", b"\0") * 5_000, "the server's answer is too long"),
        (OK + packets.message(b"S", b"a\0b\0") * 5_000, "answer is too long"),
        (
            OK + packets.parameter_status("a", "v" * 60_000) * 2,
            "the server reports too many parameters",
        ),
        (OK + packets.backend_key_data(1, bytes(257)), "malformed BackendKeyData"),
        (packets.authentication_sasl(["SCRAM-SHA-256"]) * 2, "request 10 (SASL)"),
        (
            packets.authentication_sasl(["SCRAM-SHA-256"]) + OK,
            "request 0 (AuthenticationOk)",
        ),
        (packets.error_response("FATAL", "3D000", "e" * 60_000), "eee"),
        (b"R\xff\xff\xff\xff", "bad packet header"),
    ],
)
def test_hostile_logins(
    listed: InProcess, server: FakeServer, talk: bytes, told: str
) -> None:
    """Each ends with an error that says what it was; the worker goes on."""
    client = ask_for(listed, "hostile")
    hostile(server.accept(), talk)
    said = client.read_fatal()["M"]
    assert told in said
    assert len(said) < 1_100
    with begin(listed) as other:
        server.accept().greet()
        other.read_greeting()
    client.close()


def test_a_server_that_does_not_know_the_password(
    listed: InProcess, server: FakeServer
) -> None:
    client = ask_for(listed, "impostor")
    challenge(backend := server.accept())
    backend.read()
    wrong = packets.authentication_sasl_final(b"v=" + b"A" * 43 + b"=")
    backend.send(wrong, backend.greeting())
    assert "the server does not know the password" in client.read_fatal()["M"]
    client.close()


def test_an_endless_answer_to_connect_query(
    worker_in_process: Callable[..., InProcess],
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(log, "write", lambda _, line, **__: lines.append(line))
    worker = worker_in_process(server_port=server.port, server_login_retry=0)
    entry = worker.worker._pools.config.autodb
    object.__setattr__(entry, "connect_query", "SELECT 1")
    client = ask_for(worker, "hostile")
    backend = server.accept().greet()
    backend.read()
    errors = packets.error_response("ERROR", "22012", "e") * 1_000
    parameter = packets.parameter_status("a", "v" * 30_000)
    with contextlib.suppress(ConnectionError):
        backend.send(errors, parameter * 3)
    assert "connect_query changes too many parameters" in client.read_fatal()["M"]
    failed = [line for line in lines if line.startswith("exec_on_connect")]
    assert len(failed) == 16
    client.close()
