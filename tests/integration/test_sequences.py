# SPDX-License-Identifier: MIT
"""currval() and lastval() tell a client what it got itself, or that it got nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import DATABASE, USER, InProcess
from tests.wire_client import SYNC, WireClient, bind, execute, extended, parse, query

pytestmark = pytest.mark.timeout(60)

NOT_YET = "55000"
ASKS = {
    "currval": "SELECT currval('seq_one')",
    "lastval": "SELECT lastval()",
    "qualified": "SELECT pg_catalog.currval ('seq_one'::regclass)",
    "quoted": 'SELECT "lastval"()',
    "in an INSERT": "INSERT INTO seq_rows VALUES (currval('seq_one')) RETURNING 1",
    "in capitals": "SELECT 1, LASTVAL()",
}
WAYS = ("query", "extended", "prepared", "second", "pieces", "in a batch", "executed")
NEXT = query("SELECT nextval('seq_one')")


@pytest.fixture(scope="module", autouse=True)
def objects(postgres: Postgres) -> Iterator[None]:
    postgres.psql(
        "CREATE SEQUENCE seq_one; CREATE SEQUENCE seq_other; CREATE TABLE seq_rows"
        " (a bigint DEFAULT nextval('seq_other'));"
        f"GRANT ALL ON seq_one, seq_other, seq_rows TO {USER}",
        DATABASE,
    )
    yield
    postgres.psql("DROP TABLE seq_rows; DROP SEQUENCE seq_one, seq_other", DATABASE)


def said(client: WireClient, sql: str, way: str = "query") -> str:
    """What a client is told, or the SQLSTATE of the error."""
    if way == "extended":
        client.send(extended(sql), SYNC)
    elif way == "in a batch":
        client.send(extended("SHOW TimeZone"), extended(sql), SYNC)
    elif way == "prepared":
        client.ask(parse(sql, "p"), SYNC)
        client.send(bind(statement="p"), execute(), SYNC)
    elif way == "executed":
        client.ask(query(f"PREPARE q AS {sql}"))
        client.send(query("EXECUTE q"))
    elif way == "pieces":
        client.send_split(query(sql), 3)
    else:
        begin = "SET LOCAL work_mem = '1MB'; " if way == "second" else ""
        client.send(query(begin + sql))
    for one in client.read_until("Z"):
        if one.code == "E":
            return one.fields["C"]
        if one.code == "D":
            value = one.row[-1]
    return (value or b"").decode()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ASKS)
def test_nobody_is_told_what_another_got(
    worker_in_process: Callable[..., InProcess], what: str, way: str
) -> None:
    """The first that asks, unless it has done other things before; and all others."""
    worker = worker_in_process(default_pool_size=1)
    with worker.client() as one, worker.client() as other:
        one.ask(NEXT)
        if way != "in a batch":
            assert said(other, ASKS[what], way) == NOT_YET
        said(other, ASKS[what])
        one.ask(NEXT)
        assert said(other, ASKS[what], way) == NOT_YET
        one.ask(NEXT)
        other.ask(query("BEGIN"))
        assert said(other, ASKS[what], "query") == NOT_YET


@pytest.mark.parametrize("way", WAYS)
def test_what_it_got_itself_is_told(
    worker_in_process: Callable[..., InProcess], way: str
) -> None:
    """In its transaction, and behind it while nobody else needs its server."""
    worker = worker_in_process(default_pool_size=2)
    with worker.client() as one, worker.client() as other:
        got = one.value("SELECT nextval('seq_one')")
        assert said(one, ASKS["currval"], way) == got
        for _ in range(3):
            got = one.value("SELECT nextval('seq_one')")
            assert other.value("SELECT nextval('seq_one')") != got
            assert said(one, ASKS["currval"], "query") == got
            assert said(one, ASKS["lastval"], "extended") == got


def test_a_transaction_of_its_own(
    worker_in_process: Callable[..., InProcess],
) -> None:
    """Also the first in the pool that asks, on a server that others have used."""
    worker = worker_in_process(default_pool_size=1)
    with worker.client() as one, worker.client() as other:
        for _ in range(2):
            one.ask(NEXT)
            other.ask(query("BEGIN"))
            got = other.value("SELECT nextval('seq_one')")
            assert said(other, ASKS["currval"]) == got
            other.ask(query("INSERT INTO seq_rows DEFAULT VALUES"))
            assert said(other, ASKS["currval"]) == got
            assert said(other, ASKS["lastval"]) != got
            other.ask(query("COMMIT"))


def test_the_only_server_goes_to_whoever_needs_it(
    worker_in_process: Callable[..., InProcess],
) -> None:
    worker = worker_in_process(default_pool_size=1)
    with worker.client() as one, worker.client() as other:
        got = one.value("SELECT nextval('seq_one')")
        assert said(one, ASKS["lastval"]) == got
        assert said(other, ASKS["lastval"]) == NOT_YET
        assert said(one, ASKS["lastval"]) == NOT_YET
        assert worker.engine.pool_stats(0)["changed"] == 0


def test_a_client_that_goes_keeps_nothing(
    worker_in_process: Callable[..., InProcess],
) -> None:
    worker = worker_in_process(default_pool_size=2)
    with worker.client() as other:
        for _ in range(3):
            with worker.client() as one:
                one.ask(NEXT)
                assert said(one, ASKS["lastval"]) != NOT_YET
            assert said(other, ASKS["lastval"]) == NOT_YET


def test_session_mode_is_left_alone(
    worker_in_process: Callable[..., InProcess],
) -> None:
    worker = worker_in_process(default_pool_size=1, pool_mode="session")
    with worker.client() as one:
        got = one.value("SELECT nextval('seq_one')")
        assert said(one, ASKS["lastval"]) == got


def test_the_setting_turns_it_off(
    worker_in_process: Callable[..., InProcess],
) -> None:
    worker = worker_in_process(default_pool_size=1, clean_changed_servers=0)
    with worker.client() as one, worker.client() as other:
        got = one.value("SELECT nextval('seq_one')")
        assert said(other, ASKS["lastval"]) == got


def test_parameters_and_sequences_of_the_client(
    worker_in_process: Callable[..., InProcess],
) -> None:
    """Our SET and our DISCARD go in front of one message, and neither is seen."""
    worker = worker_in_process(default_pool_size=1)
    with worker.client() as one, worker.client(TimeZone="Asia/Tokyo") as other:
        said(one, ASKS["lastval"])
        for _ in range(2):
            one.ask(NEXT)
            assert other.value("SHOW TimeZone") == "Asia/Tokyo"
            other.ask(query("SET TimeZone = 'Europe/Rome'"))
            assert said(other, ASKS["lastval"]) == NOT_YET
            other.ask(query("SET TimeZone = 'Asia/Tokyo'"))


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_servers_may_forget_from_the_start(
    worker_in_process: Callable[..., InProcess], postgres: Postgres, mode: str
) -> None:
    """So the first asker is safe behind other commands, and what functions ask."""
    postgres.psql(
        "CREATE OR REPLACE FUNCTION seq_last() RETURNS bigint LANGUAGE sql"
        " AS 'SELECT lastval()'",
        DATABASE,
    )
    worker = worker_in_process(default_pool_size=1, pool_mode=mode, clean_sequences=1)
    with worker.client() as one, worker.client() as other:
        one.ask(NEXT)
        assert said(other, "SELECT 1; SELECT lastval()", "query") == NOT_YET
        one.ask(NEXT)
        assert said(other, "SELECT seq_last()", "extended") == NOT_YET
        got = one.value("SELECT nextval('seq_one')")
        assert said(one, "SELECT seq_last()", "query") == got
    postgres.psql("DROP FUNCTION seq_last()", DATABASE)
