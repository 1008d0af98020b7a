# SPDX-License-Identifier: MIT
"""Which server of a pool is used, and which goes: at one and at two workers."""

from __future__ import annotations

import time

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import (
    DATABASE,
    USER,
    MakePooler,
    Pooler,
    backends,
    many,
    wait_until,
)
from tests.wire_client import WireClient, query, startup

WORKERS = (1, 2)
PID = "SELECT pg_backend_pid()"


def command(pooler: Pooler, text: str) -> None:
    with pooler.connect("pgbouncer", "chief", autocommit=True) as operator:
        operator.execute(text)


def paused(pooler: Pooler) -> bool:
    with pooler.connect("pgbouncer", "chief", autocommit=True) as operator:
        rows = operator.execute("show state").fetchall()
    return ("paused", "yes") in {(row[0], row[1]) for row in rows}


def servers_of(clients: list[WireClient]) -> set[str]:
    """The server of each, all at the same time."""
    for client in clients:
        client.ask(query("BEGIN"))
    found = {client.value(PID) for client in clients}
    for client in clients:
        client.ask(query("COMMIT"))
    return found


# ---------------------------------------------------------------- in turn


@pytest.mark.parametrize("workers", WORKERS)
def test_servers_are_used_in_turn(make_pooler: MakePooler, workers: int) -> None:
    """server_round_robin; without it the one that was used last is used again."""
    pooler = make_pooler(
        workers=workers, default_pool_size=3 * workers, admin_users="chief"
    )
    with many(pooler, 3 * workers) as clients:
        assert len(servers_of(clients)) == 3 * workers
        client = clients[0]
        assert len({client.value(PID) for _ in range(6)}) == 1
        pooler.settings["server_round_robin"] = 1
        pooler.write()
        command(pooler, "reload")
        # one of them is where most servers are
        turns = [[one.value(PID) for _ in range(12)] for one in clients]
        seen = max(turns, key=lambda pids: len(set(pids)))
        turn = len(set(seen))
        assert turn > 1
        assert seen == (seen[:turn] * 12)[:12]


def test_one_is_checked_for_who_waits(
    make_pooler: MakePooler, postgres: Postgres
) -> None:
    """Not all of them, in turn, which have all been idle for long."""
    postgres.psql(
        f"CREATE SEQUENCE checks OWNED BY NONE; GRANT ALL ON SEQUENCE checks TO {USER}",
        DATABASE,
    )
    pooler = make_pooler(
        default_pool_size=3,
        server_round_robin=1,
        server_check_delay=0,
        server_check_query="SELECT nextval('checks')",
    )
    asked = "SELECT last_value FROM checks"
    try:
        with many(pooler, 3) as clients:
            assert len(servers_of(clients)) == 3
            before = int(clients[0].value(asked))
            assert len({clients[0].value(PID) for _ in range(3)}) == 3
            assert int(clients[0].value(asked)) == before + 4
    finally:
        postgres.psql("DROP SEQUENCE checks", DATABASE)


def test_what_a_client_has_left_is_used_by_others_last(make_pooler: MakePooler) -> None:
    pooler = make_pooler(default_pool_size=3, server_round_robin=1)
    with many(pooler, 3) as clients:
        assert len(servers_of(clients)) == 3
        owner, other, _ = clients
        owner.ask(query("CREATE TEMP TABLE mine (a int)"))
        kept = owner.value(PID)
        assert kept not in {other.value(PID) for _ in range(6)}
        assert owner.value("SELECT count(*) FROM mine") == "0"


# ---------------------------------------------------------------- server_fast_close


def sent_away(client: WireClient) -> bool:
    told = client.read_fatal()
    return (told["C"], told["M"]) == ("57P01", "database configuration changed")


@pytest.mark.parametrize("workers", WORKERS)
def test_sessions_end_with_their_transactions(
    make_pooler: MakePooler, workers: int
) -> None:
    """Where servers are replaced; without the setting, with the sessions."""
    pooler = make_pooler(
        {DATABASE: ""}, workers=workers, pool_mode="session", admin_users="chief"
    )
    with many(pooler, 4) as (idle, works, fails, late):
        before = {client.value(PID) for client in (idle, works, fails)}
        works.ask(query("BEGIN"))
        fails.ask(query("BEGIN"))
        command(pooler, "reconnect")
        assert idle.value(PID) in before
        pooler.settings["server_fast_close"] = 1
        pooler.write()
        command(pooler, "reload")  # counts for what has to go already
        assert sent_away(idle)
        assert works.value(PID) in before
        fails.send(query("SELECT 1/0"))
        assert fails.read_until("Z")[0].fields["C"] == "22012"
        works.send(query("COMMIT"))
        assert works.read_until("Z")[-1].body == b"I"
        assert sent_away(works)
        fails.ask(query("ROLLBACK"))
        assert sent_away(fails)
        assert late.value(PID) not in before


@pytest.mark.parametrize("workers", WORKERS)
def test_a_pause_sends_no_session_away(make_pooler: MakePooler, workers: int) -> None:
    """Nor does the end of it, though its server goes with the session."""
    pooler = make_pooler(
        {DATABASE: ""},
        workers=workers,
        pool_mode="session",
        admin_users="chief",
        server_fast_close=1,
    )
    with (
        pooler.client() as client,
        pooler.wire().login("chief", "pgbouncer") as operator,
    ):
        before = client.value(PID)
        operator.send(query("PAUSE"))
        wait_until(lambda: paused(pooler), "it is paused")
        assert client.value(PID) == before
        command(pooler, "resume")
        operator.read_until("Z")
        assert client.value(PID) == before


def test_a_replication_client_is_sent_away(
    primary: Postgres, make_pooler: MakePooler
) -> None:
    """It may never come to an end of itself."""
    pooler = make_pooler(
        {"*": f"host=127.0.0.1 port={primary.port}"}, admin_users="chief"
    )
    with pooler.wire() as client:
        client.send(startup("postgres", "postgres", replication="database"))
        client.read_greeting()
        client.ask(query("IDENTIFY_SYSTEM"))
        command(pooler, "reconnect")
        assert sent_away(client)


@pytest.mark.parametrize("workers", WORKERS)
def test_a_name_that_leads_elsewhere_by_another_entry(
    make_pooler: MakePooler, workers: int
) -> None:
    """It came from ``*``, and has an entry of its own now; and back again."""
    pooler = make_pooler(
        {"*": f"dbname={DATABASE}"}, workers=workers, admin_users="chief"
    )
    asked = "SELECT current_database()"
    with pooler.client("moves") as client:
        assert client.value(asked) == DATABASE
        for entries, where in (
            ({"*": f"dbname={DATABASE}", "moves": "dbname=postgres"}, "postgres"),
            ({"*": f"dbname={DATABASE}"}, DATABASE),
        ):
            pooler.databases = entries
            pooler.write()
            command(pooler, "reload")
            assert client.value(asked) == where


# ---------------------------------------------------------------- how many there are


@pytest.mark.parametrize("workers", WORKERS)
def test_being_idle_leaves_as_many_as_there_are_to_be(
    make_pooler: MakePooler, postgres: Postgres, workers: int
) -> None:
    """min_pool_size, of all workers together; a lower one counts at once."""
    pooler = make_pooler(
        workers=workers,
        default_pool_size=5,
        min_pool_size=2,
        server_idle_timeout=0.3,
        admin_users="chief",
    )
    with many(pooler, 5) as clients:
        kept = {int(pid) for pid in servers_of(clients)}
        wait_until(lambda: len(backends(postgres)) == 2, "idle ones go")
        left = set(backends(postgres))
        assert workers > 1 or left < kept  # two may close too many at the same time
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 0.5, "longer than that")
        assert set(backends(postgres)) == left
        command(pooler, "set min_pool_size = 0")
        wait_until(lambda: not backends(postgres), "all go")


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("setting", ["max_db_connections", "max_user_connections"])
def test_lower_limits_close_what_is_above(
    make_pooler: MakePooler, postgres: Postgres, workers: int, setting: str
) -> None:
    """Idle servers at once, the others as they become free; no more than needed."""
    pooler = make_pooler(workers=workers, default_pool_size=6, admin_users="chief")
    with many(pooler, 6) as clients:
        assert len(servers_of(clients)) == 6
        busy = clients[:2]
        for client in busy:
            client.ask(query("BEGIN"))
        command(pooler, f"set {setting} = 3")
        wait_until(lambda: len(backends(postgres)) == 3, "idle ones go")
        command(pooler, f"set {setting} = 1")
        wait_until(lambda: len(backends(postgres)) == 2, "the last idle one goes")
        for client in busy:
            client.ask(query("COMMIT"))
        wait_until(lambda: len(backends(postgres)) < 2, "what was at work goes")
        assert clients[3].value("SELECT 1") == "1"


@pytest.mark.parametrize("workers", WORKERS)
def test_logins_that_wait_may_use_the_reserve(
    make_pooler: MakePooler, workers: int
) -> None:
    """One that waits for the first word of a server waits as long as a query."""
    pooler = make_pooler(
        {DATABASE: ""},
        workers=workers,
        default_pool_size=1,
        reserve_pool_size=1,
        reserve_pool_timeout=0.2,
        query_wait_timeout=10,
        admin_users="chief",
    )
    with pooler.client() as holder:
        holder.ask(query("BEGIN"))
        command(pooler, "reconnect")  # and what servers say is forgotten
        with pooler.client() as late:
            assert late.value("SELECT 1") == "1"
        assert "taking connection from reserve_pool" in pooler.log()


def test_a_replication_client_waits_for_others_as_a_query(
    primary: Postgres, make_pooler: MakePooler
) -> None:
    """Up to query_wait_timeout: the time of a login is for what a login does."""
    pooler = make_pooler(
        {"*": f"host=127.0.0.1 port={primary.port}"},
        default_pool_size=1,
        client_login_timeout=0.5,
        query_wait_timeout=2,
    )
    with pooler.wire().login("postgres", "postgres") as holder:
        holder.ask(query("BEGIN"))
        with pooler.wire() as waits:
            began = time.monotonic()
            waits.send(startup("postgres", "postgres", replication="database"))
            assert waits.read_fatal()["M"] == "query_wait_timeout"
            assert time.monotonic() - began > 1
        with pooler.wire() as waits:
            began = time.monotonic()
            waits.send(startup("postgres", "postgres", replication="database"))
            wait_until(lambda: time.monotonic() - began > 0.8, "a login's time")
            holder.ask(query("COMMIT"))
            waits.read_greeting()
            assert waits.ask(query("IDENTIFY_SYSTEM"))[-1].code == "Z"
