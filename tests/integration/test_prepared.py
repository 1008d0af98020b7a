# SPDX-License-Identifier: MIT
"""Prepared statements in transaction mode, before a real PostgreSQL."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import (
    DATABASE,
    USER,
    InProcess,
    MakePooler,
    backends,
    closing_all,
    wait_until,
)
from tests.wire_client import (
    SYNC,
    Message,
    WireClient,
    bind,
    codes,
    execute,
    message,
    parse,
    query,
)

pytestmark = pytest.mark.timeout(60)

ADD = "SELECT $1::int + 1"
COUNT_SERVER = "SELECT count(*) FROM pg_prepared_statements"


def run(name: str, *values: bytes) -> bytes:
    return bind(*values, statement=name) + execute() + SYNC


def row_of(answer: list[Message]) -> list[bytes | None]:
    """The only row of an answer."""
    assert "E" not in codes(answer), [one.fields for one in answer if one.code == "E"]
    [row] = [one.row for one in answer if one.code == "D"]
    return row


def error_of(answer: list[Message]) -> dict[str, str]:
    [failed] = [one for one in answer if one.code == "E"]
    return failed.fields


@pytest.fixture
def table(postgres: Postgres) -> Iterator[str]:
    """A table that belongs to the clients' user."""
    postgres.psql(
        f"CREATE TABLE shape (a int); ALTER TABLE shape OWNER TO {USER}", DATABASE
    )
    yield "shape"
    postgres.psql("DROP TABLE IF EXISTS shape", DATABASE)


def hold(client: WireClient) -> None:
    """Take the server that would be used next, until ``let_go``."""
    client.ask(query("BEGIN"))


def let_go(client: WireClient) -> None:
    client.ask(query("COMMIT"))


# ------------------------------------------------------------ servers


def test_statement_follows_its_client(make_pooler: MakePooler) -> None:
    pooler = make_pooler(default_pool_size=2)
    with pooler.client() as one, pooler.client() as other:
        one.ask(parse(ADD, "a"), SYNC)
        hold(other)
        assert row_of(one.ask(run("a", b"1"))) == [b"2"]
        let_go(other)
        assert row_of(one.ask(run("a", b"2"))) == [b"3"]


def test_servers_that_are_replaced(make_pooler: MakePooler, postgres: Postgres) -> None:
    pooler = make_pooler(default_pool_size=2)
    with closing_all([pooler.client() for _ in range(4)]) as clients:
        for client in clients:
            client.ask(parse(ADD, "a"), SYNC)
            client.ask(query("PREPARE b AS SELECT 7"))
        for round_ in range(5):
            for pid in backends(postgres):
                postgres.psql(f"SELECT pg_terminate_backend({pid})")
            wait_until(lambda: not backends(postgres), "servers are gone")
            for client in clients:
                value = str(round_).encode()
                assert row_of(client.ask(run("a", value))) == [b"%d" % (round_ + 1)]
                assert client.value("EXECUTE b") == "7"


def test_a_server_keeps_no_more_than_it_may(make_pooler: MakePooler) -> None:
    pooler = make_pooler(default_pool_size=1, max_prepared_statements=5)
    with pooler.client() as client:
        for i in range(30):
            client.ask(parse(f"SELECT {i}, $1::int", f"s{i}"), SYNC)
            assert int(client.value(COUNT_SERVER)) <= 5
        for i in range(30):
            assert row_of(client.ask(run(f"s{i}", b"1")))[0] == str(i).encode()
            assert int(client.value(COUNT_SERVER)) <= 5


def test_session_mode_leaves_names_alone(make_pooler: MakePooler) -> None:
    pooler = make_pooler(pool_mode="session", default_pool_size=1)
    with pooler.client() as client:
        client.ask(parse(ADD, "mine"), SYNC)
        names = client.rows("SELECT name FROM pg_prepared_statements")
        assert names == [[b"mine"]]


def test_feature_that_is_off(make_pooler: MakePooler) -> None:
    pooler = make_pooler(default_pool_size=1, max_prepared_statements=0)
    with pooler.client() as client:
        client.ask(parse(ADD, "mine"), SYNC)
        names = client.rows("SELECT name FROM pg_prepared_statements")
        assert names == [[b"mine"]]


def test_reload_turns_it_on_and_off(make_pooler: MakePooler) -> None:
    pooler = make_pooler(default_pool_size=1, max_prepared_statements=0)
    for setting in (10, 0, 10):
        pooler.reload(max_prepared_statements=setting)

        def names_are_ours(expected: bool = setting > 0) -> bool:
            with pooler.client() as client:
                client.ask(parse(ADD, "mine"), SYNC)
                names = client.rows("SELECT name FROM pg_prepared_statements")
                client.ask(query("DEALLOCATE ALL"))
                return [b"mine"] not in names if expected else [b"mine"] in names

        wait_until(names_are_ours, f"max_prepared_statements = {setting}")


# ------------------------------------------------------------ leaks


def test_what_sql_prepares_inside_a_query_is_nobody_elses(
    make_pooler: MakePooler,
) -> None:
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as one, pooler.client() as other:
        # too long to be kept, so what follows its first command is not read
        one.ask(query(f"SELECT '{'x' * 2_000_000}'; PREPARE hidden AS SELECT 42"))
        said = other.ask(query("EXECUTE hidden"))
        assert error_of(said)["C"] == "26000"
        assert other.value(COUNT_SERVER) == "0"


def test_unnamed_statement_of_another_client(make_pooler: MakePooler) -> None:
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as one, pooler.client() as other:
        one.ask(parse("SELECT 'secret'"), SYNC)
        said = other.ask(bind(), execute(), SYNC)
        assert error_of(said)["C"] == "26000"
        assert row_of(one.ask(bind(), execute(), SYNC)) == [b"secret"]


def test_client_that_leaves_between_parse_and_sync(
    make_pooler: MakePooler, postgres: Postgres
) -> None:
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as one, pooler.client() as other:
        for text in (ADD, "SELECT oops"):
            one.send(parse(text, "a"), parse(ADD, "b"))
            one.reset()
            assert row_of(other.ask(parse(ADD, "a"), run("a", b"1"))) == [b"2"]
            other.ask(query("DEALLOCATE a"))
            one = pooler.client()
        one.close()
    assert len(backends(postgres)) <= 1


def test_everything_is_given_back(worker_in_process: Callable[..., InProcess]) -> None:
    worker = worker_in_process(default_pool_size=2, max_prepared_statements=20)
    texts = [f"SELECT {i}, $1::int" for i in range(10)]
    with closing_all([worker.client() for _ in range(40)]) as clients:
        for client in clients:
            for i, text in enumerate(texts):
                client.ask(parse(text, f"s{i}"), run(f"s{i}", b"1"))
        assert worker.engine.counters()["statements"] == len(texts)
    worker.wait_for_clients_to_leave()
    # What the servers have is left, and is gone when the worker has stopped.
    assert worker.engine.counters()["statements"] == len(texts)


# ------------------------------------------------------------ limits


def test_limits_of_a_client(make_pooler: MakePooler) -> None:
    pooler = make_pooler(
        max_client_prepared_statements=3, max_client_prepared_bytes=10_000
    )
    with pooler.client() as client:
        for i in range(3):
            client.ask(parse(ADD, f"s{i}"), SYNC)
        said = client.ask(parse(ADD, "s3"), SYNC)
        assert codes(said) == "EZ"
        assert error_of(said)["C"] == "53400"
        client.ask(query("DEALLOCATE s0"))
        assert codes(client.ask(parse(ADD, "s3"), SYNC)) == "1Z"
        client.ask(query("DEALLOCATE ALL"))
        said = client.ask(parse("SELECT '" + "x" * 20_000 + "'", "long"), SYNC)
        assert error_of(said)["C"] == "53400"
        said = client.ask(query("PREPARE q AS SELECT '" + "x" * 20_000 + "'"))
        assert error_of(said)["C"] == "53400"
        assert client.value("SELECT 1") == "1"


# ------------------------------------------------------------ stale plans


def test_table_that_changes_under_its_statement(
    make_pooler: MakePooler, postgres: Postgres, table: str
) -> None:
    """Straight, PostgreSQL would say "cached plan must not change result type"."""
    pooler = make_pooler(default_pool_size=2)
    postgres.psql(f"INSERT INTO {table} VALUES (1)", DATABASE)
    with pooler.client() as one, pooler.client() as other:
        one.ask(parse(f"SELECT * FROM {table}", "a"), SYNC)
        one.ask(query(f"PREPARE q AS SELECT * FROM {table}"))
        columns = 1
        for i in range(4):
            assert len(row_of(one.ask(run("a")))) == columns
            assert len(row_of(one.ask(query("EXECUTE q")))) == columns
            # a Parse that is answered by us may not bring the old shape back
            said = other.ask(parse(f"SELECT * FROM {table}", f"b{i}"), run(f"b{i}"))
            assert len(row_of(said)) == columns
            postgres.psql(f"ALTER TABLE {table} ADD COLUMN c{i} int", DATABASE)
            columns += 1
        one.ask(query("BEGIN"))
        assert error_of(one.ask(run("a")))["C"] == "0A000"
        one.ask(query("ROLLBACK"))
        assert len(row_of(one.ask(run("a")))) == columns


TEXTS = {
    "end": "rollback",
    "row": "SELECT 1",
    "syntax": "SELEC 1",
    "unknown": "SELECT nope FROM nowhere",
    "empty": "",
}


@pytest.mark.parametrize("lacks", [True, False], ids=["lacks", "has"])
@pytest.mark.parametrize("state", ["idle", "begun", "failed"])
@pytest.mark.parametrize("gone", [False, True], ids=["there", "gone"])
@pytest.mark.parametrize("together", [False, True], ids=["alone", "pipeline"])
def test_a_taken_name_is_found_taken(
    make_pooler: MakePooler,
    postgres: Postgres,
    table: str,
    lacks: bool,
    state: str,
    gone: bool,
    together: bool,
) -> None:
    """Also where the server lacks what has the name, and could not read it now."""
    pooler = make_pooler(default_pool_size=1, max_prepared_statements=2)
    begin = {
        "idle": (),
        "begun": (query("BEGIN"),),
        "failed": (query("BEGIN"), query("SELECT 1/0")),
    }[state]

    def errors_of(client: WireClient, second: str) -> list[object]:
        said: list[Message] = []
        client.ask(parse(f"SELECT * FROM {table}", "a"), SYNC)
        for name in ("b", "c") if lacks else ():
            client.ask(parse(f"SELECT '{name}'", name), SYNC)
        if gone:
            postgres.psql(f"ALTER TABLE {table} RENAME TO moved", DATABASE)
        raw = [*begin, parse(second, "a") + SYNC, query("SELECT 2"), query("ROLLBACK")]
        if together:
            client.send(*raw)
        for one in raw:
            if not together:
                client.send(one)
            said += client.read_until("Z")
        if gone:
            postgres.psql(f"ALTER TABLE moved RENAME TO {table}", DATABASE)
        said += client.ask(run("a"))
        return [
            {key: one.fields.get(key) for key in "CMP"} if one.code == "E" else one
            for one in said
        ]

    for text in TEXTS.values():
        with (
            pooler.client() as client,
            WireClient(postgres.port).login(USER, DATABASE) as alone,
        ):
            assert errors_of(client, text) == errors_of(alone, text), text


@pytest.mark.parametrize("order", ["ab", "ba", "abu", "uab", "bau", "b", "u"])
def test_an_error_names_what_the_request_has_named(
    make_pooler: MakePooler, postgres: Postgres, order: str
) -> None:
    """One text under two names and without one."""
    pooler = make_pooler(default_pool_size=1)
    names = {"a": "a", "b": "b", "u": ""}
    told = []
    with (
        pooler.client() as client,
        pooler.client() as other,
        WireClient(postgres.port).login(USER, DATABASE) as alone,
    ):
        for one in (client, alone):
            for name in names.values():
                assert codes(one.ask(parse(ADD, name), SYNC)) == "1Z"
            if one is client:  # the server's unnamed statement is another client's
                other.ask(parse("SELECT 2"), SYNC)
            for name in order:
                assert "C" in codes(one.ask(run(names[name], b"1")))
            told += [
                error_of(one.ask(run(names[name])))["M"] for name in (*order, *"abu")
            ]
    assert told[: len(told) // 2] == told[len(told) // 2 :]


def test_table_that_is_made_anew(
    make_pooler: MakePooler, postgres: Postgres, table: str
) -> None:
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as client:
        client.ask(parse(f"SELECT count(*) FROM {table}", "a"), SYNC)
        for _ in range(3):
            assert row_of(client.ask(run("a"))) == [b"0"]
            postgres.psql(f"DROP TABLE {table}", DATABASE)
            assert error_of(client.ask(run("a")))["C"] == "42P01"
            postgres.psql(
                f"CREATE TABLE {table} (other text); GRANT ALL ON {table} TO {USER}",
                DATABASE,
            )


def test_search_path_that_changes(make_pooler: MakePooler, postgres: Postgres) -> None:
    postgres.psql(
        f"CREATE SCHEMA s1 AUTHORIZATION {USER}; CREATE SCHEMA s2 AUTHORIZATION {USER}",
        DATABASE,
    )
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as client:
        client.ask(query("CREATE TABLE s1.t AS SELECT 1 AS a"))
        client.ask(query("CREATE TABLE s2.t AS SELECT 'two'::text AS a"))
        client.ask(query("SET search_path = s1"))
        client.ask(parse("SELECT a FROM t", "a"), SYNC)
        assert row_of(client.ask(run("a"))) == [b"1"]
        client.ask(query("SET search_path = s2"))
        assert row_of(client.ask(run("a"))) == [b"two"]
        client.ask(query("RESET search_path"))
    postgres.psql("DROP SCHEMA s1, s2 CASCADE", DATABASE)


def test_literal_that_its_client_reads_in_its_own_way(make_pooler: MakePooler) -> None:
    """The same text is another date for another DateStyle."""
    pooler = make_pooler(default_pool_size=1)
    text = "SELECT '01/02/2020'::date - '2020-01-01'::date"
    with (
        pooler.client(DateStyle="ISO, MDY") as us,
        pooler.client(DateStyle="ISO, DMY") as uk,
    ):
        for _ in range(3):
            for client, days in ((us, b"1"), (uk, b"31")):
                assert row_of(client.ask(parse(text, "a"), run("a"))) == [days]
                assert row_of(client.ask(run("a"))) == [days]
                assert row_of(client.ask(parse(text), run(""))) == [days]
                client.ask(query("DEALLOCATE a"))


def test_moment_that_is_read_anew(make_pooler: MakePooler) -> None:
    """'now' is a moment from when the text is read: it may not be read once for all."""
    pooler = make_pooler(default_pool_size=1)
    text = "SELECT 'now'::timestamptz"
    with pooler.client() as client:
        seen = {
            row_of(client.ask(parse(text), bind(), execute(), SYNC))[0]
            for _ in range(5)
        }
        assert len(seen) == 5


@pytest.mark.parametrize(
    "skipped",
    [b"", query("SELECT 1"), message("F", struct.pack("!IHHH", 1397, 0, 0, 0))],
    ids=["nothing", "query", "function call"],
)
def test_an_unnamed_statement_that_failed_is_none(
    make_pooler: MakePooler, postgres: Postgres, skipped: bytes
) -> None:
    """Whatever is skipped with it, and though its text could be read by now."""
    postgres.psql("DROP TABLE IF EXISTS comes_later", DATABASE)
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as client:
        client.ask(parse("SELECT 1 FROM comes_later"), skipped, SYNC)
        postgres.psql(
            "CREATE TABLE comes_later (); GRANT ALL ON comes_later TO PUBLIC", DATABASE
        )
        [failed] = [one for one in client.ask(bind(), SYNC) if one.code == "E"]
        assert failed.fields["C"] == "26000"
