# SPDX-License-Identifier: MIT
"""The same answers before every supported version of PostgreSQL."""

from __future__ import annotations

import struct
import threading

import psycopg
import pytest
from psycopg import errors

from pooler.demo.postgres import Installation, Postgres
from pooler.login import packets
from pooler.login.server import ServerGreeting, ServerLogin
from tests.conformance.bed import WAYS, Bed
from tests.conformance.script import Script
from tests.conformance.scripts import all_scripts
from tests.conformance.transcript import DATABASE, USER
from tests.integration.harness import Pooler, wait_until
from tests.wire_client import (
    Message,
    WireClient,
    cancel_request,
    query,
    startup,
)

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

VERSIONS = (16, 17, 18)
WITH_LONG_KEYS = 18  # the first with protocol 3.2
MODES = ("session", "transaction")
KEY_BYTES = 4
QUERY_CANCELED = "57014"
SLEEP = query("SELECT pg_sleep(60)")

each_version = pytest.mark.parametrize(
    "bed_of", VERSIONS, indirect=True, scope="session"
)
each_mode = pytest.mark.parametrize("mode", MODES)


def startup_3_2() -> bytes:
    """A StartupMessage of protocol 3.2."""
    old = startup(USER, DATABASE)
    return old[:4] + struct.pack("!I", packets.PROTOCOL_3_2) + old[8:]


def wait_sleeping(server: Postgres) -> None:
    sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    wait_until(lambda: server.psql(sql) == [(1,)], "it sleeps")


def send_cancel(port: int, key: bytes) -> None:
    with WireClient(port) as canceller:
        canceller.send(cancel_request(key))
        assert canceller.read_to_end() == []


def assert_can_cancel(server: Postgres, client: WireClient, port: int) -> None:
    """A query that would take a minute ends, and the connection goes on."""
    client.send(SLEEP)
    wait_sleeping(server)
    send_cancel(port, client.key)
    read = client.read_until("Z")
    assert [one.fields["C"] for one in read if one.code == "E"] == [QUERY_CANCELED]
    assert client.value("SELECT 1") == "1"


@each_version
@pytest.mark.parametrize(
    ("script", "way"),
    [
        pytest.param(script, way, id=f"{script.name}-{way}")
        for script in all_scripts()
        for way in WAYS
        if Bed.possible(script, way)
    ],
)
def test_pooler_answers_as_postgres(bed_of: Bed, script: Script, way: str) -> None:
    pooled, straight = bed_of.both(script, way)
    assert pooled == straight


@each_version
@each_mode
def test_driver(bed_of: Bed, mode: str) -> None:
    """psycopg: parameters, a transaction, an error, COPY both ways, a pipeline."""
    pooler = bed_of.pooler(mode)
    with connect(pooler) as connection, connection.cursor() as cursor:
        version = cursor.execute("SHOW server_version_num").fetchone()
        assert version == (str(connection.info.server_version),)
        assert connection.info.server_version // 10_000 == major_of(bed_of)
        with pytest.raises(errors.DivisionByZero), connection.transaction():
            cursor.execute("SELECT 1 / %s", (0,))
        with connection.transaction(force_rollback=True):
            cursor.execute("TRUNCATE conf")
            with cursor.copy("COPY conf FROM STDIN") as copy:
                for number in range(1000):
                    copy.write_row((number, f"row {number}"))
            with cursor.copy("COPY (SELECT a FROM conf ORDER BY a) TO STDOUT") as copy:
                copy.set_types(["int4"])
                assert list(copy.rows()) == [(number,) for number in range(1000)]
        with connection.pipeline():
            cursors = [connection.execute("SELECT %s::int", (n,)) for n in range(50)]
        assert [one.fetchall() for one in cursors] == [[(n,)] for n in range(50)]


@each_version
@each_mode
def test_driver_cancels(bed_of: Bed, mode: str) -> None:
    pooler = bed_of.pooler(mode)
    failures: list[BaseException] = []
    with connect(pooler) as connection:

        def sleep() -> None:
            try:
                connection.execute("SELECT pg_sleep(60)")
            except BaseException as error:
                failures.append(error)

        sleeper = threading.Thread(target=sleep, daemon=True)
        sleeper.start()
        wait_sleeping(bed_of.server)
        connection.cancel_safe(timeout=10)
        sleeper.join(10)
        assert not sleeper.is_alive()
        assert [type(error) for error in failures] == [errors.QueryCanceled]
        connection.rollback()
        assert connection.execute("SELECT 1").fetchone() == (1,)


@each_version
@each_mode
def test_client_of_protocol_3_2(bed_of: Bed, mode: str) -> None:
    """Whatever the server speaks: the pooler speaks 3.2 to a client that asks."""
    port = bed_of.pooler(mode).port
    with WireClient(port) as client:
        client.send(startup_3_2())
        client.read_greeting()
        assert len(client.key) > KEY_BYTES + KEY_BYTES
        assert_can_cancel(bed_of.server, client, port)


@each_version
@each_mode
def test_client_of_protocol_3_0(bed_of: Bed, mode: str) -> None:
    port = bed_of.pooler(mode).port
    with WireClient(port) as client:
        client.login(USER, DATABASE)
        assert len(client.key) == KEY_BYTES + KEY_BYTES
        assert_can_cancel(bed_of.server, client, port)


@each_version
def test_server_login_negotiates(bed_of: Bed) -> None:
    """3.2 with a long key where the server has it, else 3.0."""
    with WireClient(bed_of.server.port) as link:
        greeting = log_in(link)
        if major_of(bed_of) >= WITH_LONG_KEYS:
            assert greeting.minor_protocol == packets.NEWEST_MINOR
            assert len(greeting.cancel_key) > KEY_BYTES
        else:
            assert greeting.minor_protocol == 0
            assert len(greeting.cancel_key) == KEY_BYTES
        link.key = struct.pack("!I", greeting.backend_pid) + greeting.cancel_key
        assert_can_cancel(bed_of.server, link, bed_of.server.port)


def test_versions_are_those_asked_for(installations: dict[int, Installation]) -> None:
    assert set(VERSIONS) <= set(installations)
    for major, installation in installations.items():
        assert installation.major == major


def major_of(bed: Bed) -> int:
    return bed.server.installation.major


def connect(pooler: Pooler) -> psycopg.Connection[tuple[object, ...]]:
    return pooler.connect(DATABASE, USER, autocommit=True)


def log_in(link: WireClient) -> ServerGreeting:
    """Log in as the pooler does."""
    login = ServerLogin(USER, DATABASE, None, {})
    link.send(login.start())
    while login.greeting is None:
        one: Message = link.read()
        raw = one.code.encode() + struct.pack("!I", len(one.body) + 4) + one.body
        consumed, send = login.receive(raw)
        assert consumed == len(raw)
        link.send(send)
    return login.greeting
