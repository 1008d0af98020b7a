# SPDX-License-Identifier: MIT
"""Attacks on logins: replays, somebody in between, servers that mean harm."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pooler.demo.postgres import Postgres
from pooler.login.scram import Verifier
from tests.certificates import Certificates, make_certificates
from tests.integration.fake_server import (
    READY,
    SELECT,
    FakeServer,
    begin,
    log_in,
)
from tests.integration.harness import (
    DATABASE,
    HOST,
    SERVER_PASSWORD,
    USER,
    InProcess,
    MakePooler,
)
from tests.integration.middleman import Change, Middleman, unchanged, without_plus
from tests.integration.recorder import Recorder
from tests.wire_client import message, messages_in, startup

pytestmark = pytest.mark.timeout(60)

PASSWORD = "very secret"
BAD = "28P01"
SASL, SASL_CONTINUE, SASL_FINAL = 10, 11, 12
MakeWorker = Callable[..., InProcess]


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """The certificate of somebody in between."""
    return make_certificates(tmp_path_factory.mktemp("strangers"))


# ------------------------------------------------------------ replays


def cut_client(raw: bytes) -> list[bytes]:
    """The startup packet, then message by message."""
    size = int.from_bytes(raw[:4], "big")
    return [raw[:size], *(message(m.code, m.body) for m in messages_in(raw[size:]))]


@pytest.mark.parametrize("method", ["md5", "scram-sha-256"])
def test_a_recorded_login_of_a_client(make_pooler: MakePooler, method: str) -> None:
    """Who has heard a login, and says the same, is not let in."""
    pooler = make_pooler(
        {DATABASE: f"user={USER}"}, f'"joe" "{PASSWORD}"\n', auth_type=method
    )
    recorder = Recorder(pooler.port)
    straight, pooler.port = pooler.port, recorder.port
    try:
        with pooler.connect(user="joe", password=PASSWORD, sslmode="disable"):
            pass
    finally:
        pooler.port = straight
        recorder.close()
    [recorded] = recorder.connections
    first, *messages = cut_client(bytes(recorded.said))
    proofs = [one for one in messages if one[:1] == b"p"]
    assert len(proofs) == (1 if method == "md5" else 2)
    with pooler.wire() as client:
        client.send(first)
        for proof in proofs:
            asked = client.read()
            assert asked.code == "R"
            assert asked.body[:4] != bytes(4)
            client.send(proof)
        assert client.read_fatal()["C"] == ("08P01" if len(proofs) == 2 else BAD)
    pooler.wait_log("nonce does not match" if len(proofs) == 2 else "wrong password")


def test_a_recorded_login_of_a_server(
    make_pooler: MakePooler, secure_postgres: Postgres
) -> None:
    """Who has heard PostgreSQL, and says the same, gets no query."""
    recorder = Recorder(secure_postgres.port)
    databases = {
        DATABASE: f"host={HOST} port={recorder.port} password='{SERVER_PASSWORD}'"
    }
    pooler = make_pooler(databases, server_tls_sslmode="disable")
    try:
        with pooler.connect(user="by_scram") as link:
            link.execute("SELECT 1")
    finally:
        recorder.close()
    answers = list(messages_in(bytes(recorder.connections[0].answered)))
    kinds = [struct.unpack("!I", m.body[:4])[0] for m in answers if m.code == "R"]
    assert kinds == [SASL, SASL_CONTINUE, SASL_FINAL, 0]
    server = FakeServer()
    try:
        databases = {
            DATABASE: f"host={HOST} port={server.port} password='{SERVER_PASSWORD}'"
        }
        pooler = make_pooler(databases, server_tls_sslmode="disable")
        with pooler.wire() as client:
            client.send(startup("by_scram", DATABASE))
            backend = server.accept()
            backend.read_startup()
            for answer in answers:
                backend.send(message(answer.code, answer.body))
                if answer.code == "R" and answer.body[3] == SASL_CONTINUE:
                    break
                if answer.code == "R":
                    assert backend.read().code == "p"
            assert backend.is_closed()
            assert "nonce" in client.read_fatal()["M"]
    finally:
        server.close()


# ------------------------------------------------------------ somebody in between


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (unchanged, "SCRAM channel binding check failed"),
        (without_plus, "SCRAM channel binding negotiation error"),
    ],
)
def test_between_client_and_pooler(
    make_pooler: MakePooler,
    server_certificates: Certificates,
    strangers: Certificates,
    change: Change,
    why: str,
) -> None:
    """libpq does not look at the certificate here; the proof is worth nothing."""
    pooler = make_pooler(
        {DATABASE: f"user={USER}"},
        f'"joe" "{Verifier.from_password(PASSWORD, 4096).to_text()}"\n',
        auth_type="scram-sha-256",
        client_tls_sslmode="require",
        client_tls_cert_file=server_certificates.cert_file,
        client_tls_key_file=server_certificates.key_file,
    )
    middleman = Middleman(pooler.port, strangers, change)
    straight, pooler.port = pooler.port, middleman.port
    login: dict[str, Any] = {"user": "joe", "password": PASSWORD, "sslmode": "require"}
    try:
        with pytest.raises(psycopg.OperationalError, match=why):
            pooler.connect(**login)
        assert b"SCRAM-SHA-256" in middleman.heard
    finally:
        pooler.port = straight
        middleman.close()
    with pooler.connect(**login) as link:
        assert link.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (unchanged, "SCRAM channel binding check failed"),
        (without_plus, "SCRAM channel binding negotiation error"),
    ],
)
def test_between_pooler_and_server(
    make_pooler: MakePooler,
    secure_postgres: Postgres,
    strangers: Certificates,
    change: Change,
    why: str,
) -> None:
    """With ``require`` nobody looks at the certificate; PostgreSQL notices."""
    middleman = Middleman(secure_postgres.port, strangers, change)
    entry = f"host={HOST} port={middleman.port} password='{SERVER_PASSWORD}'"
    pooler = make_pooler({DATABASE: entry}, server_tls_sslmode="require")
    try:
        with pytest.raises(psycopg.OperationalError, match=why):
            pooler.connect(user="by_scram")
        assert b"SCRAM-SHA-256" in middleman.heard
        assert SERVER_PASSWORD.encode() not in middleman.heard
    finally:
        middleman.close()


# ------------------------------------------------------------ servers that mean harm

ERRORS = (
    b"",
    b"\0",
    b"SFATAL\0\0",
    b"SERROR\0C28\0Mshort\0\0",
    b"SERROR\0Mnot ended",
)


@pytest.mark.parametrize("where", ["login", "query", "idle"])
@pytest.mark.parametrize("body", ERRORS)
def test_an_error_without_its_code(
    worker_in_process: MakeWorker, server: FakeServer, where: str, body: bytes
) -> None:
    """CVE-2026-6666: ErrorResponse without SQLSTATE, or without anything."""
    worker = worker_in_process(server_port=server.port)
    error = message("E", body)
    if where == "login":
        client = begin(worker)
        backend = server.accept()
        backend.read_startup()
        backend.send(error)
        assert client.read_fatal()["C"] in ("08006", "08P01")
    else:
        client, backend = log_in(worker, server)
        if where == "query":
            client.send(SELECT)
            backend.read()
            backend.send(error, READY)
            if body:
                read = client.read_until("Z")
                assert [(m.code, m.body) for m in read] == [("E", body), ("Z", b"I")]
            else:  # not even the end of its fields: it is no server
                assert client.read_fatal()["C"] == "08P01"
        else:
            backend.send(error)
            assert backend.is_closed()
            client.send(SELECT)
            server.accept().greet().answer()
            client.read_until("Z")
    client.close()
