# SPDX-License-Identifier: MIT
"""Where TLS is a must, nothing is said in the clear: all bytes are looked at."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from pooler.demo.postgres import Postgres
from tests.certificates import Certificates
from tests.integration.harness import (
    DATABASE,
    HOST,
    SERVER_PASSWORD,
    MakePooler,
    Pooler,
    wait_until,
)
from tests.integration.recorder import Recorder, in_the_clear
from tests.wire_client import SSL_REQUEST, cancel_request, messages_in, startup

pytestmark = pytest.mark.timeout(60)

USER = "by_scram"
CONNECT_QUERY = "select 'the connect query'"
PLAIN_LOGINS = ("any", "trust", "plain", "md5", "scram-sha-256", "cert")


@pytest.fixture
def recorded() -> Iterator[Callable[[int], Recorder]]:
    """Put a recorder in front of a port."""
    made: list[Recorder] = []

    def record(port: int) -> Recorder:
        made.append(Recorder(port))
        return made[-1]

    yield record
    for one in made:
        one.close()


def entry(port: int) -> dict[str, str]:
    return {
        DATABASE: f"host={HOST} port={port} password='{SERVER_PASSWORD}'"
        f" connect_query='{CONNECT_QUERY.replace(chr(39), chr(39) * 2)}'"
    }


def use_all(pooler: Pooler, postgres: Postgres, **how: Any) -> None:
    """Queries of both protocols, COPY, a cancel request, a client that vanishes."""
    with contextlib.closing(pooler.connect(user=USER, autocommit=True, **how)) as link:
        assert link.execute("SELECT 'very secret'").fetchone() == ("very secret",)
        got = link.execute("SELECT %s::text", ("very secret",), prepare=True).fetchone()
        assert got == ("very secret",)
        with link.cursor().copy("COPY (SELECT 'very secret') TO STDOUT") as copy:
            assert b"".join(copy) == b"very secret\n"

        def cancel() -> None:
            wait_until(lambda: sleepers(postgres), "the query runs")
            link.cancel_safe(timeout=10)

        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(cancel)
            with pytest.raises(psycopg.errors.QueryCanceled):
                link.execute("SELECT pg_sleep(30)")
            done.result()
        link.pgconn.send_query(b"SELECT pg_sleep(30)")
        link.pgconn.flush()
        wait_until(lambda: sleepers(postgres), "the query runs")
        with socket.socket(fileno=os.dup(link.fileno())) as vanishing:
            vanishing.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: not sleepers(postgres), "what the client has left is cancelled")


def sleepers(postgres: Postgres) -> list[Any]:
    return postgres.psql(
        "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        f" AND usename = '{USER}'"
    )


def check(recorder: Recorder, fewest: int) -> None:
    """Each connection: the question, the answer, and then TLS and nothing else."""
    assert len(recorder.connections) >= fewest
    for one in recorder.connections:
        assert in_the_clear(one.said) == SSL_REQUEST
        assert in_the_clear(one.answered) == b"S"
        for word in (b"secret", USER.encode(), b"select", b"SELECT"):
            assert word not in one.said + one.answered


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_to_servers(
    make_pooler: MakePooler,
    secure_postgres: Postgres,
    server_certificates: Certificates,
    recorded: Callable[[int], Recorder],
    mode: str,
) -> None:
    """No login, connect_query, query or cancel request of ours in the clear."""
    recorder = recorded(secure_postgres.port)
    pooler = make_pooler(
        entry(recorder.port),
        server_tls_sslmode=mode,
        server_tls_ca_file=server_certificates.ca_file if mode != "require" else "",
    )
    use_all(pooler, secure_postgres)
    check(recorder, fewest=3)  # a server, a cancel request, one of our own


def test_to_clients(
    make_pooler: MakePooler,
    secure_postgres: Postgres,
    server_certificates: Certificates,
    recorded: Callable[[int], Recorder],
) -> None:
    pooler = make_pooler(
        entry(secure_postgres.port),
        client_tls_sslmode="require",
        client_tls_cert_file=server_certificates.cert_file,
        client_tls_key_file=server_certificates.key_file,
    )
    recorder = recorded(pooler.port)
    pooler.port, straight = recorder.port, pooler.port
    try:
        use_all(pooler, secure_postgres, sslmode="require")
    finally:
        pooler.port = straight
    check(recorder, fewest=2)


@pytest.mark.parametrize("method", PLAIN_LOGINS)
def test_who_comes_without_is_asked_nothing(
    make_pooler: MakePooler, server_certificates: Certificates, method: str
) -> None:
    """No challenge (its answer would be in the clear), and nothing about who exists."""
    pooler = make_pooler(
        {DATABASE: ""},
        f'"{USER}" "secret"\n',
        auth_type=method,
        client_tls_sslmode="verify-full" if method == "cert" else "require",
        client_tls_cert_file=server_certificates.cert_file,
        client_tls_key_file=server_certificates.key_file,
        client_tls_ca_file=server_certificates.ca_file,
    )
    answers = set()
    for user, database in ((USER, DATABASE), ("nobody", DATABASE), (USER, "nowhere")):
        with pooler.wire() as client:
            client.send(startup(user, database))
            [only] = client.read_to_end()
            assert (only.code, only.fields["C"]) == ("E", "08P01")
            answers.add(only.body)
    assert len(answers) == 1
    with pooler.wire() as client:  # a key is a secret, but it is not ours to keep
        client.send(cancel_request(bytes(8)))
        assert list(messages_in(b"".join(m.body for m in client.read_to_end()))) == []
