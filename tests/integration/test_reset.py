# SPDX-License-Identifier: MIT
"""RESET brings back what the client asked for at its login, not the server's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import DATABASE, USER, InProcess
from tests.wire_client import (
    FLUSH,
    SYNC,
    Message,
    WireClient,
    bind,
    extended,
    query,
)

pytestmark = pytest.mark.timeout(60)

GIVEN = {
    "TimeZone": "Asia/Tokyo",
    "DateStyle": "German",
    "application_name": "me",
    "IntervalStyle": "iso_8601",
}
SHOW = [
    query(f"SHOW {name}")
    for name in ("TimeZone", "DateStyle", "application_name", "IntervalStyle")
]
# What a client does; a piece is sent when the one before is answered.
SCRIPTS: dict[str, list[bytes]] = {
    "reset": [query("SET TimeZone = 'America/New_York'"), query("RESET TimeZone")],
    "reset what is not set": [query("RESET TimeZone")],
    "to default": [
        query("SET TimeZone = 'America/New_York'"),
        query("SET timezone TO DEFAULT"),
    ],
    "= default": [query("SET DateStyle = 'ISO, YMD'"), query("SET DateStyle=default")],
    "time zone": [query("SET TIME ZONE 'UTC'"), query("SET TIME ZONE DEFAULT")],
    "local time zone": [query("SET TIME ZONE 'UTC'"), query("SET TIME ZONE LOCAL")],
    "all": [
        query("SET TimeZone = 'America/New_York'"),
        query("SET IntervalStyle = postgres; SET application_name = 'you'"),
        query("RESET ALL"),
    ],
    "discard": [query("SET TimeZone = 'America/New_York'"), query("DISCARD ALL")],
    "discard only": [query("DISCARD ALL")],
    "extended": [
        query("SET TimeZone = 'America/New_York'"),
        extended("RESET TimeZone") + SYNC,
    ],
    "application_name": [
        query("SET application_name = 'you'"),
        query("RESET application_name"),
    ],
    "in a transaction": [
        query("BEGIN; SET TimeZone = 'UTC'"),
        query("RESET TimeZone"),
        query("SHOW TimeZone"),
        query("COMMIT"),
    ],
    "rolled back": [
        query("SET TimeZone = 'America/New_York'"),
        query("BEGIN; RESET TimeZone"),
        query("SHOW TimeZone"),
        query("ROLLBACK"),
    ],
    "failed": [
        query("SET TimeZone = 'America/New_York'"),
        query("RESET TimeZone; SELECT 1/0"),
    ],
    "pipelined": [
        query("SET TimeZone = 'UTC'")
        + query("RESET TimeZone")
        + query("SELECT '2024-01-01 00:00'::timestamptz"),
    ],
    "and set again": [query("RESET ALL; SET TimeZone = 'America/New_York'")],
    "and set again in the batch": [
        extended("RESET TimeZone")
        + extended("SET TimeZone = 'America/New_York'")
        + SYNC,
    ],
    "batches": [
        extended("SET TimeZone = 'UTC'")
        + SYNC
        + extended("RESET TimeZone")
        + SYNC
        + extended("SELECT '2024-01-01 00:00'::timestamptz")
        + SYNC,
    ],
    "behind a failure": [query("SELECT 1/0") + query("RESET TimeZone")],
    "behind a batch that fails": [
        query("SET TimeZone = 'UTC'"),
        bind(statement="nobody") + SYNC + extended("RESET TimeZone") + SYNC,
    ],
    "in a batch that goes on": [
        query("SELECT 1") + extended("RESET TimeZone") + FLUSH,
        SYNC,
    ],
    "in a batch behind a failure": [
        query("SELECT 1/0") + extended("RESET TimeZone") + FLUSH,
        SYNC,
    ],
    "in a batch that a Query ends": [
        query("SET TimeZone = 'UTC'"),
        extended("RESET TimeZone") + query("SELECT 1") + query("SHOW TimeZone"),
    ],
    "skipped": [
        query("SET TimeZone = 'UTC'"),
        bind(statement="nobody") + query("SELECT 1") + query("RESET ALL") + SYNC,
    ],
}


def test_a_query_in_pieces_behind_a_reset_without_a_sync(
    worker_in_process: Callable[..., InProcess],
) -> None:
    """It is read to its end before anything is waited for."""
    worker = worker_in_process(default_pool_size=1)
    with worker.client(**GIVEN) as client:
        client.send(extended("RESET TimeZone"), query("SHOW TimeZone")[:7])
        client.send(query("SHOW TimeZone")[7:], SYNC)
        client.read_until("Z")
        client.read_until("Z")


def answers(client: WireClient, script: list[bytes]) -> list[list[Message]]:
    """All answers, but for where in PostgreSQL's sources an error was made."""
    said = []
    for piece in [*script, *SHOW]:
        client.send(piece)
        for _ in range(max(1, piece.count(SYNC) or piece.count(b"Q\0\0"))):
            answer = client.read_until("Z")
            for one in answer:
                client.note(one)
            said.append([one for one in answer if one.code != "S"])
    return said


@pytest.mark.parametrize("what", SCRIPTS)
def test_reset_is_as_before_postgresql_alone(
    worker_in_process: Callable[..., InProcess], postgres: Postgres, what: str
) -> None:
    worker = worker_in_process(default_pool_size=1)
    with (
        WireClient(postgres.port).login(USER, DATABASE, **GIVEN) as real,
        worker.client(**GIVEN) as client,
        worker.client() as other,
    ):
        expected = answers(real, SCRIPTS[what])
        assert answers(client, SCRIPTS[what]) == expected
        for name in ("TimeZone", "DateStyle", "application_name", "IntervalStyle"):
            assert client.parameters[name] == real.parameters[name]
        assert other.value("SHOW TimeZone") == other.parameters["TimeZone"]
        assert client.value("SHOW TimeZone") == real.value("SHOW TimeZone")


def test_each_value_is_told_when_its_command_is_answered(
    worker_in_process: Callable[..., InProcess], postgres: Postgres
) -> None:
    """What is set in front of a RESET, in one send, is told as PostgreSQL tells it."""
    piece = query("SET TimeZone = 'UTC'") + query("RESET TimeZone")
    worker = worker_in_process(default_pool_size=1)
    with (
        WireClient(postgres.port).login(USER, DATABASE, **GIVEN) as real,
        worker.client(**GIVEN) as client,
    ):
        real.send(piece)
        client.send(piece)
        for _ in range(2):
            assert client.read_until("Z") == real.read_until("Z")


def test_what_is_reset_is_told_in_postgresqls_order(
    worker_in_process: Callable[..., InProcess], postgres: Postgres
) -> None:
    """Also where one is the server's own default and another the client's wish."""
    set_both = query("SET application_name = 'you'; SET TimeZone = 'Asia/Tokyo'")
    worker = worker_in_process(default_pool_size=1)
    with (
        WireClient(postgres.port).login(USER, DATABASE) as real,
        worker.client() as client,
    ):
        for piece in (set_both, query("DISCARD ALL"), set_both, query("RESET ALL")):
            real.send(piece)
            client.send(piece)
            assert client.read_until("Z") == real.read_until("Z")
