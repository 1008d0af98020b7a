# SPDX-License-Identifier: MIT
"""What a client leaves in a server's session is nobody else's.

Each case changes something in the session of the only server, straight before another
client asks. Before PostgreSQL alone the other client would not see it.
"""

from __future__ import annotations

import contextlib
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import (
    DATABASE,
    USER,
    InProcess,
    MakePooler,
    Pooler,
    backends,
    wait_until,
)
from tests.wire_client import (
    SYNC,
    TERMINATE,
    WireClient,
    bind,
    codes,
    describe,
    execute,
    extended,
    message,
    parse,
    query,
)

pytestmark = pytest.mark.timeout(60)

# How it is done, and what another client would see of it: (what, sql, question, clean).
LEFT: dict[str, tuple[str, str, str]] = {
    "search_path": ("SET search_path = nowhere", "SHOW search_path", '"$user", public'),
    "comments": (
        "/* a; */ -- b;\n set /**/ session search_path = nowhere",
        "SHOW search_path",
        '"$user", public',
    ),
    "schema": ("SET SCHEMA 'nowhere'", "SHOW search_path", '"$user", public'),
    "set_config": (
        "SELECT pg_catalog.set_config('search_path', '', false)",
        "SHOW search_path",
        '"$user", public',
    ),
    "set_config in a CTE": (
        "WITH a AS (SELECT SET_CONFIG ('search_path', '', false)) SELECT * FROM a",
        "SHOW search_path",
        '"$user", public',
    ),
    "set_config of a column": (
        "SELECT set_config(name, value, false)"
        " FROM (VALUES ('search_path', 'x')) AS v (name, value)",
        "SHOW search_path",
        '"$user", public',
    ),
    "update of pg_settings": (
        "UPDATE pg_settings SET setting = 'nowhere' WHERE name = 'search_path'",
        "SHOW search_path",
        '"$user", public',
    ),
    "work_mem": ("SET work_mem = '7MB'", "SHOW work_mem", "4MB"),
    "role": ("SET ROLE left_role", "SELECT current_user", USER),
    "session characteristics": (
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SHOW transaction_isolation",
        "read committed",
    ),
    "in a transaction": (
        "BEGIN; SET search_path = nowhere; COMMIT",
        "SHOW search_path",
        '"$user", public',
    ),
    "second command": (
        "SELECT ';'; SET search_path = nowhere",
        "SHOW search_path",
        '"$user", public',
    ),
    "hidden in DO": (
        "DO $$ BEGIN PERFORM set_config('search_path', 'x', false); END $$",
        "SHOW search_path",
        '"$user", public',
    ),
    "procedure": ("CALL left_procedure()", "SHOW search_path", '"$user", public'),
    "temporary table": (
        "CREATE TEMP TABLE left_table AS SELECT 1",
        "SELECT to_regclass('pg_temp.left_table')",
        "",
    ),
    "select into": (
        "SELECT 1 AS a INTO TEMPORARY TABLE left_table",
        "SELECT to_regclass('pg_temp.left_table')",
        "",
    ),
    "select into local": (
        "SELECT 1 AS a INTO LOCAL\n temp left_table",
        "SELECT to_regclass('pg_temp.left_table')",
        "",
    ),
    "explained": (
        "EXPLAIN (ANALYZE, COSTS off) CREATE TEMP TABLE left_table AS SELECT 1",
        "SELECT to_regclass('pg_temp.left_table')",
        "",
    ),
    "pg_temp": (
        "CREATE TABLE pg_temp.left_table (a int)",
        "SELECT to_regclass('pg_temp.left_table')",
        "",
    ),
    "listen": ("LISTEN ear", "SELECT count(*) FROM pg_listening_channels()", "0"),
    "cursor": (
        "DECLARE held CURSOR WITH HOLD FOR SELECT 1",
        "SELECT count(*) FROM pg_cursors WHERE is_holdable",
        "0",
    ),
    "lock": (
        "SELECT pg_advisory_lock(4711)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
        "0",
    ),
    "lock tried": (
        "SELECT pg_try_advisory_lock_shared(1, 2)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
        "0",
    ),
}
WAYS = ("query", "extended", "prepared", "pieces", "long")


def leave(client: WireClient, sql: str, way: str) -> None:
    """Run it in one of the ways in which SQL comes."""
    if way == "extended":
        parts = sql.split("; ") if sql.startswith("BEGIN") else [sql]
        answer = [one for part in parts for one in client.ask(extended(part), SYNC)]
    elif way == "prepared":
        client.ask(parse(sql, "p"), SYNC)
        answer = client.ask(bind(statement="p"), execute(), SYNC)
    elif way == "pieces":
        client.send_split(query(sql), 3)
        answer = client.read_until("Z")
    elif way == "long":  # more than one read brings
        answer = client.ask(query(f"/* {'x' * 300_000} */ {sql}"))
    else:
        answer = client.ask(query(sql))
    assert "E" not in codes(answer), [one.fields for one in answer if one.code == "E"]


@pytest.fixture(scope="module", autouse=True)
def objects(postgres: Postgres) -> None:
    """What the cases use."""
    for sql in (
        f"DO $$ BEGIN CREATE ROLE left_role; GRANT left_role TO {USER};"
        " EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "CREATE OR REPLACE PROCEDURE left_procedure() LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM set_config('search_path', 'x', false); END $$",
    ):
        postgres.psql(sql, DATABASE)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", LEFT)
def test_nobody_else_sees_it(
    worker_in_process: Callable[..., InProcess], what: str, way: str
) -> None:
    sql, question, clean = LEFT[what]
    commands = 2 if "; SET" in sql else 1
    if commands > 1 and (
        way == "prepared" or (way, what) == ("extended", "second command")
    ):
        pytest.skip("a prepared statement is one command")
    worker = worker_in_process(default_pool_size=1)
    with worker.client() as one, worker.client() as other:
        leave(one, sql, way)
        [[value]] = other.rows(question)
        assert (value or b"").decode() == clean
        # in a Query nobody knows the name: it may be one that stays, so it is closed
        closed = what == "set_config of a column" and way in ("query", "pieces", "long")
        assert worker.engine.pool_stats(0)["cleaned"] == (not closed)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "sql",
    [
        "SET my.own = 'x'",
        "SELECT set_config('my.own', '', false)",
        "RESET my.own",
        "SET my.own TO DEFAULT",
        "SET LOCAL my.own = 'x'",
        'SET LOCAL "my"."own" TO DEFAULT',
        "SELECT set_config('my.own', 'x', true)",
        "DO $$ BEGIN SET LOCAL my.own = 'x'; END $$",
    ],
)
def test_a_parameter_of_ones_own_is_unknown_to_others(
    worker_in_process: Callable[..., InProcess], sql: str, way: str
) -> None:
    """PostgreSQL remembers its name to the end of the session: NULL, not ''."""
    pooler = worker_in_process(default_pool_size=1)
    with pooler.client() as one, pooler.client() as other:
        leave(one, sql, way)
        sql = "SELECT current_setting('my.own', true) IS NULL"
        assert other.value(sql) == "t"


# What functions of the users' own do: (what, sql, question, clean).
HIDDEN = {
    "setting": (
        "SELECT left_run('SET search_path = nowhere')",
        "SHOW search_path",
        '"$user", public',
    ),
    "table": (
        "SELECT left_run('CREATE TEMP TABLE left_table (a int)')",
        "SELECT to_regclass('pg_temp.left_table')",
        "",
    ),
    "statement": (
        "SELECT left_run('PREPARE left_plan AS SELECT 1')",
        "SELECT count(*) FROM pg_prepared_statements WHERE name = 'left_plan'",
        "0",
    ),
}


@pytest.mark.parametrize("what", HIDDEN)
def test_what_functions_leave_goes_where_servers_are_always_reset(
    worker_in_process: Callable[..., InProcess], postgres: Postgres, what: str
) -> None:
    """No text tells it: server_reset_query_always is the safe side."""
    postgres.psql(
        "CREATE OR REPLACE FUNCTION left_run(sql text) RETURNS int LANGUAGE plpgsql"
        " AS $$ BEGIN EXECUTE sql; RETURN 1; END $$",
        DATABASE,
    )
    sql, question, clean = HIDDEN[what]
    pooler = worker_in_process(default_pool_size=1, server_reset_query_always=1)
    with pooler.client() as one, pooler.client() as other:
        one.ask(query(sql))
        [[value]] = other.rows(question)
        assert (value or b"").decode() == clean


MADE = "SELECT current_setting('my.own', true) IS NULL"
TENANT = query("BEGIN; SET LOCAL my.own = 'x'; COMMIT")


def test_a_parameter_of_ones_own_is_known_again(
    worker_in_process: Callable[..., InProcess], postgres: Postgres
) -> None:
    """On another server as well: there it is made, and an empty string."""
    pooler = worker_in_process(default_pool_size=2)
    with pooler.client() as one, pooler.client() as other, pooler.client() as third:
        one.ask(TENANT)
        other.ask(query("BEGIN"))
        third.ask(query("BEGIN"))
        other.ask(query("COMMIT"))  # which has a server of its own
        assert one.value(MADE) == "f"
        assert one.ask(query("SHOW my.own"))[1].row == [b""]
        assert other.value(MADE) == "t"


def test_who_has_made_the_same_shares(
    worker_in_process: Callable[..., InProcess], postgres: Postgres
) -> None:
    """A server is replaced once for each client, not with each transaction."""
    pooler = worker_in_process(default_pool_size=1)
    with pooler.client() as one, pooler.client() as other:
        one.ask(TENANT)
        other.ask(TENANT)
        [kept] = backends(postgres)
        for _ in range(3):
            for client in (one, other):
                client.ask(TENANT)
                assert client.value(MADE) == "f"
        assert backends(postgres) == [kept]
        with pooler.client() as third:
            assert third.value(MADE) == "t"
            assert backends(postgres) != [kept]


def test_nobody_knows_what_a_failed_transaction_has_made(
    worker_in_process: Callable[..., InProcess],
) -> None:
    """It is its client's server until another needs it, and closed then.

    But for what was answered in front of the error.
    """
    pooler = worker_in_process(default_pool_size=1)
    with pooler.client() as one, pooler.client() as other:
        one.ask(query("BEGIN; SET LOCAL my.own = 'x'; SELECT 1/0"))
        one.ask(query("ROLLBACK; SELECT set_config('a.b', 'c', true) FROM nowhere"))
        assert one.value(MADE) == "f"
        assert other.value(MADE) == "t"
        assert one.value(MADE) == "f"
        assert one.value("SELECT current_setting('a.b', true) IS NULL") == "t"


VALUES = {
    "literal": query(
        "SELECT set_config(a, 'b', true) FROM (VALUES ('My.own')) AS v (a)"
    ),
    "computed": query("SELECT set_config('my.' || 'own', 'b', true)"),
    "value": parse("SELECT set_config($1, $2, true)")
    + bind(b"My.own", b"b")
    + execute()
    + SYNC,
    "value of a named one": parse("SELECT set_config($2, $1, true)", "p")
    + bind(b"b", b"my.own", statement="p", portal="q")
    + execute("q")
    + SYNC,
}


@pytest.mark.parametrize("way", VALUES)
def test_a_parameter_of_ones_own_whose_name_is_a_value(
    worker_in_process: Callable[..., InProcess], postgres: Postgres, way: str
) -> None:
    worker = worker_in_process(default_pool_size=1)
    with worker.client() as one, worker.client() as other:
        assert "E" not in codes(one.ask(VALUES[way]))
        assert other.value(MADE) == "t"
        if way == "computed":
            return
        for client in (one, other):
            client.ask(VALUES[way])
        kept = backends(postgres)
        for client in (one, other):
            assert client.value(MADE) == "f"
        assert backends(postgres) == kept


def test_parameters_of_ones_own_may_be_shared(
    worker_in_process: Callable[..., InProcess], postgres: Postgres
) -> None:
    pooler = worker_in_process(default_pool_size=1, clean_custom_parameters=0)
    with pooler.client() as one, pooler.client() as other:
        one.ask(TENANT)
        before = backends(postgres)
        assert other.value(MADE) == "f"
        assert backends(postgres) == before


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_the_same_client_finds_it_again(make_pooler: MakePooler, mode: str) -> None:
    pooler = make_pooler(default_pool_size=2, pool_mode=mode)
    with pooler.client() as one, pooler.client() as other:
        one.ask(query("SET search_path = mine"))
        for _ in range(3):
            assert other.value("SHOW search_path") == '"$user", public'
            assert one.value("SHOW search_path") == "mine"


def test_its_server_is_cleaned_when_another_needs_it(make_pooler: MakePooler) -> None:
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as one, pooler.client() as other:
        one.ask(query("SET search_path = mine"))
        assert one.value("SHOW search_path") == "mine"
        assert other.value("SHOW search_path") == '"$user", public'
        assert one.value("SHOW search_path") == '"$user", public'


def test_somebody_waits_while_it_is_left(make_pooler: MakePooler) -> None:
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as one, pooler.client() as other:
        one.ask(query("BEGIN; SET search_path = mine; SELECT pg_advisory_lock(1)"))
        other.send(query("SHOW search_path"))
        one.ask(query("COMMIT"))
        answer = other.read_until("Z")
        assert [m.row for m in answer if m.code == "D"] == [[b'"$user", public']]


@pytest.mark.parametrize("how", ["goodbye", "close", "reset"])
def test_what_a_client_left_ends_with_it(
    make_pooler: MakePooler, postgres: Postgres, how: str
) -> None:
    """Locks above all: somebody straight at PostgreSQL may wait for them."""
    pooler = make_pooler(default_pool_size=1)
    one = pooler.client()
    one.ask(query("SELECT pg_advisory_lock(4711)"))
    locks = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"
    assert postgres.psql(locks, DATABASE)
    if how == "goodbye":
        one.send(TERMINATE)
    if how == "reset":
        one.reset()
    else:
        one.close()
    wait_until(lambda: not postgres.psql(locks, DATABASE), "the lock is gone")
    assert len(backends(postgres)) == 1


@pytest.mark.parametrize(
    "sql", ["LOAD 'plpgsql'", "SELECT setseed(0.5)"], ids=["load", "setseed"]
)
def test_what_cannot_be_cleaned_closes(
    make_pooler: MakePooler, postgres: Postgres, sql: str
) -> None:
    if sql.startswith("LOAD"):
        postgres.psql(f"ALTER ROLE {USER} SUPERUSER")
    try:
        pooler = make_pooler(default_pool_size=1)
        with pooler.client() as one, pooler.client() as other:
            one.ask(query(sql))
            before = backends(postgres)
            assert one.value("SELECT 1") == "1"
            assert backends(postgres) == before
            assert other.value("SELECT 1") == "1"
            assert backends(postgres) != before
    finally:
        postgres.psql(f"ALTER ROLE {USER} NOSUPERUSER")


PLAIN = (
    "SELECT 1",
    "SELECT 'set_' || 'temp', 1 AS temp, 2 AS set_a;",
    "INSERT INTO left_rows VALUES (1), (2)",
    "UPDATE left_rows SET a = 3",
    "DELETE FROM left_rows",
    "BEGIN; SELECT 1; COMMIT",
    "BEGIN; SET LOCAL search_path = x; SET LOCAL my.own = 'y'; COMMIT",
    "BEGIN; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; COMMIT",
    "BEGIN; SELECT set_config('search_path', 'x', true); ROLLBACK",
    "BEGIN; CREATE TEMP TABLE gone (a int) ON COMMIT DROP; COMMIT",
    "BEGIN; DECLARE c CURSOR FOR SELECT 1; FETCH c; COMMIT",
    "BEGIN; SELECT pg_advisory_xact_lock(1); COMMIT",
    "SET TimeZone = 'Asia/Tokyo'",
    "SET DateStyle = 'German'",
    "SET TIME ZONE 'UTC'",
    "SET NAMES 'latin1'",
    "RESET TimeZone",
    "RESET ALL",
    "SET application_name = 'me'",
    "NOTIFY ear",
    "EXPLAIN SELECT 1",
    "VALUES (1)",
    "TABLE left_rows",
)


def test_what_leaves_nothing_costs_nothing(
    worker_in_process: Callable[..., InProcess], postgres: Postgres
) -> None:
    postgres.psql(
        "CREATE TABLE IF NOT EXISTS left_rows (a int);"
        f"ALTER TABLE left_rows OWNER TO {USER}",
        DATABASE,
    )
    worker = worker_in_process(default_pool_size=1)
    with worker.client() as one, worker.client() as other:
        for sql in PLAIN:
            leave(one, sql, "query")
            other.ask(query("SELECT 1"))
            assert worker.engine.pool_stats(0)["changed"] == 0, sql


@pytest.mark.parametrize("sql", ["DO $$ BEGIN END $$", "DISCARD ALL"])
def test_described_and_bound_later(make_pooler: MakePooler, sql: str) -> None:
    """A text that makes all statements doubtful is run nevertheless, and once."""
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as one:
        one.ask(parse(sql, "a"), describe("a", "S"), SYNC)
        answer = one.ask(bind(statement="a"), execute(), SYNC)
        assert codes(answer).replace("S", "") == "2CZ"


@pytest.mark.parametrize("way", ["query", "extended", "second command"])
def test_what_a_statement_prepared_by_sql_leaves(
    make_pooler: MakePooler, way: str
) -> None:
    """Its text was looked at when it was prepared, and counts when it is executed."""
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as one, pooler.client() as other:
        one.ask(query("PREPARE p AS SELECT set_config('search_path', 'x', false)"))
        other.ask(query("SELECT 1"))
        leave(one, "SELECT 1; EXECUTE p" if way[0] == "s" else "EXECUTE p", way)
        assert other.value("SHOW search_path") == '"$user", public'


def test_discard_all_of_the_client_itself(
    worker_in_process: Callable[..., InProcess],
) -> None:
    worker = worker_in_process(default_pool_size=1)
    with worker.client() as one, worker.client() as other:
        one.ask(query("SET search_path = mine"))
        one.ask(query("DISCARD ALL"))
        assert other.value("SHOW search_path") == '"$user", public'
        assert worker.engine.pool_stats(0)["cleaned"] == 0


def test_function_call(worker_in_process: Callable[..., InProcess]) -> None:
    """set_config by its number, as the fast path calls it."""
    worker = worker_in_process(default_pool_size=1)
    arguments = b"".join(
        struct.pack("!i", len(text)) + text for text in (b"search_path", b"x", b"f")
    )
    call = message(
        "F", struct.pack("!IHH", 2078, 0, 3) + arguments + struct.pack("!H", 0)
    )
    with worker.client() as one, worker.client() as other:
        assert "E" not in codes(one.ask(call))
        assert other.value("SHOW search_path") == '"$user", public'


def test_the_log_says_once_what_is_left(make_pooler: MakePooler) -> None:
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as one, pooler.client() as other:
        for _ in range(3):
            one.ask(query("SET search_path = mine"))
            other.ask(query("SELECT 1"))
        one.ask(query("LISTEN ear"))
        other.ask(query("SELECT 1"))
    said = [line for line in pooler.log().splitlines() if "clients leave" in line]
    assert len(said) == 2
    assert f"{DATABASE}/{USER}" in said[0]
    assert "settings" in said[0]
    assert "LISTEN" in said[1]
    assert "settings" not in said[1]


def test_the_setting_turns_it_off(make_pooler: MakePooler) -> None:
    pooler = make_pooler(default_pool_size=1, clean_changed_servers=0)
    with pooler.client() as one, pooler.client() as other:
        one.ask(query("SET search_path = mine"))
        assert other.value("SHOW search_path") == "mine"


def test_session_mode_is_left_alone(
    worker_in_process: Callable[..., InProcess],
) -> None:
    worker = worker_in_process(default_pool_size=1, pool_mode="session")
    with worker.client() as one:
        one.ask(query("SET search_path = mine"))
        assert one.value("SHOW search_path") == "mine"
        assert worker.engine.pool_stats(0)["changed"] == 0
    with worker.client() as other:
        assert other.value("SHOW search_path") == '"$user", public'


@pytest.fixture
def dumped(postgres: Postgres) -> Iterator[str]:
    """A table of the clients' user, to be dumped and restored."""
    postgres.psql(
        "CREATE TABLE dumped (id int PRIMARY KEY, note text DEFAULT 'x');"
        "INSERT INTO dumped SELECT g, 'n' || g FROM generate_series(1, 2000) g;"
        f"ALTER TABLE dumped OWNER TO {USER}",
        DATABASE,
    )
    yield "dumped"
    postgres.psql("DROP TABLE IF EXISTS dumped", DATABASE)


@contextlib.contextmanager
def asked_meanwhile(pooler: Pooler) -> Iterator[None]:
    """Another client asks, all the time, for what it would see of a search_path."""
    seen: list[str] = []
    over = threading.Event()

    def ask() -> None:
        with pooler.client() as other:
            while not over.is_set() or len(seen) < 10:
                seen.append(other.value("SHOW search_path"))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert set(seen) == {'"$user", public'}


def run_tool(postgres: Postgres, name: str, *arguments: str) -> None:
    tool = postgres.installation.tool(name)
    if tool is None:
        pytest.skip(f"no {name}")
    done = subprocess.run([tool, *arguments], capture_output=True, timeout=50)
    assert done.returncode == 0, done.stderr


def test_pg_dump_and_pg_restore_leave_nothing(
    make_pooler: MakePooler, postgres: Postgres, dumped: str, tmp_path: Path
) -> None:
    pooler = make_pooler(default_pool_size=3)
    archive = str(tmp_path / "archive")
    rows = "SELECT count(*), sum(id), min(note) FROM dumped"
    with asked_meanwhile(pooler), pooler.client() as other:
        before = other.rows(rows)
        run_tool(postgres, "pg_dump", "-s", "-d", pooler.dsn())
        run_tool(
            postgres, "pg_dump", "-Fc", "-t", dumped, "-f", archive, "-d", pooler.dsn()
        )
        other.ask(query("DELETE FROM dumped"))
        run_tool(
            postgres,
            "pg_restore",
            "--clean",
            "--if-exists",
            "-d",
            pooler.dsn(),
            archive,
        )
        assert other.rows(rows) == before
