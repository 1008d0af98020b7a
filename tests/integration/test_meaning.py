# SPDX-License-Identifier: MIT
"""What a text means: read under the settings of the client's own Parse.

PostgreSQL reads a literal, a name of a table and much more under settings, a role and
a catalog, at the moment of Parse. A statement that clients share must not bring what
one of them had set to another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import DATABASE, USER, InProcess
from tests.wire_client import (
    SYNC,
    Message,
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

# A text, and how to change what it means: (text, before it, what it gives, after).
MOMENT = "SELECT extract(epoch from '2024-01-01 00:00'::timestamptz)::bigint"
UTC, TOKYO = b"1704067200", b"1704034800"
CONTEXTS: dict[str, tuple[str, str, bytes, bytes]] = {
    "TimeZone": (MOMENT, "SET timezone = 'Asia/Tokyo'", UTC, TOKYO),
    "DateStyle": (
        "SELECT extract(month from '1/2/2024'::date)",
        "SET DateStyle = 'ISO, DMY'",
        b"1",
        b"2",
    ),
    "standard_conforming_strings": (
        r"SELECT length('a\nb')",
        "SET standard_conforming_strings = off",
        b"4",
        b"3",
    ),
    "IntervalStyle": (
        "SELECT extract(hour from interval '-1 1:00:00')",
        "SET IntervalStyle = sql_standard",
        b"1",
        b"-1",
    ),
}
# How a setting is changed in front of something; {} is the SET.
WAYS = {
    "query": "{}",
    "in a transaction": "BEGIN; {}",
    "local": "BEGIN; {local}",
    "second command": "SELECT 1; {}",
    "set_config": "SELECT set_config('{name}', '{value}', false)",
    "hidden in DO": "DO $$ BEGIN {}; END $$",
    "hidden in a function": "SELECT meaning_set('{name}', '{value}')",
}


def change_sql(change: str, way: str) -> str:
    name, value = change.removeprefix("SET ").split(" = ")
    return WAYS[way].format(
        change,
        local=change.replace("SET", "SET LOCAL"),
        name=name,
        value=value.strip("'"),
    )


@pytest.fixture(scope="module", autouse=True)
def objects(postgres: Postgres) -> None:
    """What the cases use."""
    for sql in (
        "CREATE OR REPLACE FUNCTION meaning_set(text, text) RETURNS text LANGUAGE sql"
        " AS $$ SELECT set_config($1, $2, false) $$",
        "CREATE SCHEMA IF NOT EXISTS meaning_a; CREATE SCHEMA IF NOT EXISTS meaning_b",
        "DROP TABLE IF EXISTS meaning_a.t, meaning_b.t",
        "CREATE TABLE meaning_a.t AS SELECT 'a' AS a",
        "CREATE TABLE meaning_b.t AS SELECT 2 AS b",
        f"GRANT USAGE, CREATE ON SCHEMA meaning_a, meaning_b TO {USER}",
        "GRANT SELECT ON meaning_a.t, meaning_b.t TO PUBLIC",
        f"DO $$ BEGIN CREATE ROLE meaning_role; GRANT meaning_role TO {USER};"
        " EXCEPTION WHEN duplicate_object THEN NULL; END $$",
    ):
        postgres.psql(sql, DATABASE)


def values(answer: list[Message]) -> list[bytes | None]:
    """The first column of all rows."""
    assert "E" not in codes(answer), [one.fields for one in answer if one.code == "E"]
    return [one.row[0] for one in answer if one.code == "D"]


def run(name: str = "") -> bytes:
    return bind(statement=name) + execute()


class Others:
    """Two clients that decide which of two servers the next one gets."""

    def __init__(self, pooler: InProcess) -> None:
        self._pair = [pooler.client(TimeZone="UTC") for _ in range(2)]
        self._pair[0].ask(query("BEGIN"))

    def turn(self) -> None:
        """From now on the other server is free."""
        holding, idle = self._pair
        idle.ask(query("BEGIN"))
        holding.ask(query("COMMIT"))
        self._pair.reverse()

    def close(self) -> None:
        for client in self._pair:
            client.close()


@pytest.fixture
def pair(
    worker_in_process: Callable[..., InProcess],
) -> Iterator[tuple[InProcess, Others]]:
    """A worker of two servers, one of which is free."""
    pooler = worker_in_process(default_pool_size=2)
    others = Others(pooler)
    yield pooler, others
    others.close()


@pytest.mark.parametrize("what", CONTEXTS)
@pytest.mark.parametrize("way", WAYS)
def test_statement_that_another_server_lacks(
    pair: tuple[InProcess, Others], what: str, way: str
) -> None:
    """It is read as it was when its client has parsed it, whatever is set now."""
    pooler, others = pair
    text, change, before, _ = CONTEXTS[what]
    with pooler.client(TimeZone="UTC") as one, pooler.client(TimeZone="UTC") as other:
        one.ask(parse(text, "a"), SYNC)
        assert values(one.ask(run("a"), SYNC)) == [before]
        others.turn()
        one.ask(query(change_sql(change, way)))
        assert values(one.ask(run("a"), SYNC)) == [before]
        if way in ("in a transaction", "local"):
            one.ask(query("COMMIT"))
            assert values(one.ask(run("a"), SYNC)) == [before]
        # and nobody else has to do with it
        one.close()
        for _ in range(2):
            assert values(other.ask(parse(text), run(), SYNC)) == [before]
            assert values(other.ask(parse(text, "b"), run("b"), SYNC)) == [before]
            other.ask(query("DEALLOCATE b"))
            others.turn()


@pytest.mark.parametrize("what", CONTEXTS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", ["apart", "at once", "one batch"])
def test_parse_behind_a_change(
    pair: tuple[InProcess, Others], what: str, way: str, form: str
) -> None:
    """It has the new meaning for its client, and the old one for all others."""
    pooler, others = pair
    text, change, before, after = CONTEXTS[what]
    sql = change_sql(change, way)
    if form == "one batch" and "; " in sql and "DO" not in sql:
        pytest.skip("a prepared statement is one command")
    with pooler.client(TimeZone="UTC") as one, pooler.client(TimeZone="UTC") as other:
        if form == "apart":
            one.ask(query(sql))
            answer = one.ask(parse(text, "a"), run("a"), SYNC)
        elif form == "at once":
            one.send(query(sql), parse(text, "a"), run("a"), SYNC)
            one.read_until("Z")
            answer = one.read_until("Z")
        else:
            answer = one.ask(extended(sql), parse(text, "a"), run("a"), SYNC)
        assert values(answer)[-1] == after
        if way in ("in a transaction", "local"):
            assert values(one.ask(run("a"), SYNC)) == [after]
            one.ask(query("COMMIT"))
        for _ in range(2):
            assert values(other.ask(parse(text, "b"), run("b"), SYNC)) == [before]
            assert values(other.ask(parse(text), run(), SYNC)) == [before]
            other.ask(query("DEALLOCATE b"))
            if form != "one batch" and way not in ("local", "hidden in DO"):
                assert values(one.ask(run("a"), SYNC)) == [after]
            others.turn()


@pytest.mark.parametrize("what", CONTEXTS)
@pytest.mark.parametrize("way", WAYS)
def test_prepare_by_sql_behind_a_change(
    pair: tuple[InProcess, Others], what: str, way: str
) -> None:
    pooler, others = pair
    text, change, before, after = CONTEXTS[what]
    with pooler.client(TimeZone="UTC") as one, pooler.client(TimeZone="UTC") as other:
        one.send(
            query(change_sql(change, way)),
            query(f"PREPARE a AS {text}"),
            query("EXECUTE a"),
        )
        one.read_until("Z")
        assert "E" not in codes(one.read_until("Z"))
        assert values(one.read_until("Z")) == [after]
        one.ask(query("COMMIT"))
        for _ in range(2):
            other.ask(query(f"PREPARE a AS {text}"))
            assert values(other.ask(query("EXECUTE a"))) == [before]
            other.ask(query("DEALLOCATE a"))
            others.turn()


def test_sql_statement_that_another_server_lacks(
    pair: tuple[InProcess, Others],
) -> None:
    pooler, others = pair
    with pooler.client(TimeZone="UTC") as one:
        one.ask(query(f"PREPARE a AS {MOMENT}"))
        others.turn()
        one.ask(query("SET timezone = 'Asia/Tokyo'"))
        assert values(one.ask(query("EXECUTE a"))) == [UTC]
        assert one.value("SHOW timezone") == "Asia/Tokyo"
        others.turn()
        one.ask(query("BEGIN"), query("SET LOCAL timezone = 'Europe/Berlin'"))
        one.read_until("Z")
        assert values(one.ask(query("EXECUTE a"))) == [UTC]
        assert one.value("SHOW timezone") == "Europe/Berlin"
        one.ask(query("COMMIT"))
        assert one.value("SHOW timezone") == "Asia/Tokyo"


@pytest.mark.parametrize("what", CONTEXTS)
@pytest.mark.parametrize("form", ["in front of it", "and again, skipped"])
def test_change_behind_the_parse_in_its_batch(
    pair: tuple[InProcess, Others], what: str, form: str
) -> None:
    """It was read before: wherever it is prepared again, it means that."""
    pooler, others = pair
    text, change, before, _ = CONTEXTS[what]
    with pooler.client(TimeZone="UTC") as one:
        if form == "in front of it":
            one.ask(parse(text, "a"), extended(change), SYNC)
        else:
            one.ask(parse(text, "a"), SYNC)
            one.send(query(change), bind(statement="nobody"), parse(text, "a"), SYNC)
            one.read_until("Z")
            one.read_until("Z")
        for _ in range(3):
            assert values(one.ask(run("a"), SYNC)) == [before]
            others.turn()


@pytest.mark.parametrize("what", CONTEXTS)
@pytest.mark.parametrize(
    "first",
    [
        "DROP TABLE IF EXISTS nothing",
        "DO $$ BEGIN NULL; END $$",
        "BEGIN; SET LOCAL search_path = public",
    ],
)
def test_parse_behind_a_change_of_something_else(
    pair: tuple[InProcess, Others], what: str, first: str
) -> None:
    """What follows its client is known all the same, and the text is read under it."""
    pooler, others = pair
    text, change, before, _ = CONTEXTS[what]
    with pooler.client(TimeZone="UTC") as one:
        one.send(query(first), parse(text, "a"), SYNC, query("COMMIT"))
        for _ in range(3):
            one.read_until("Z")
        one.ask(query(change))
        for _ in range(3):
            assert values(one.ask(run("a"), SYNC)) == [before]
            others.turn()


def test_pipeline_of_a_driver(pair: tuple[InProcess, Others]) -> None:
    pooler, others = pair
    where = f"host=127.0.0.1 port={pooler.port} user={USER} dbname={DATABASE}"
    with psycopg.connect(
        f"{where} options='-c timezone=UTC'", prepare_threshold=0, autocommit=True
    ) as one:
        with one.pipeline():
            one.execute("SET timezone = 'Asia/Tokyo'")
            cursor = one.execute(MOMENT)
        assert cursor.fetchone() == (int(TOKYO),)
    with pooler.client(TimeZone="UTC") as other:
        for _ in range(2):
            assert values(other.ask(parse(MOMENT), run(), SYNC)) == [UTC]
            assert values(other.ask(parse(MOMENT, "a"), run("a"), SYNC)) == [UTC]
            other.ask(query("DEALLOCATE a"))
            others.turn()


@pytest.mark.parametrize("local", ["", "LOCAL "])
def test_search_path_of_a_transaction(
    pair: tuple[InProcess, Others], local: str
) -> None:
    pooler, others = pair
    text = "SELECT * FROM t"
    with pooler.client() as one, pooler.client() as other:
        for client, schema, value in (
            (one, "meaning_a", b"a"),
            (other, "meaning_b", b"2"),
        ) * 3:
            client.ask(query(f"BEGIN; SET {local}search_path = {schema}"))
            answer = client.ask(parse(text, "s"), describe("s", "S"), run("s"), SYNC)
            assert values(answer) == [value]
            assert values(client.ask(parse(text), run(), SYNC)) == [value]
            client.ask(query("DEALLOCATE s"))
            client.ask(query("COMMIT"))
            others.turn()


@pytest.mark.parametrize(
    "ahead",
    [
        "BEGIN",
        "BEGIN; SELECT 1",
        "BEGIN; UPDATE pgbench_branches SET filler = NULL",
        "BEGIN; SET LOCAL statement_timeout = 1000",
        "BEGIN; SAVEPOINT a",
    ],
)
def test_a_session_in_transactions_shares(
    worker_in_process: Callable[..., InProcess], ahead: str
) -> None:
    worker = worker_in_process(default_pool_size=1)
    for _ in range(3):
        with worker.client() as client:
            client.ask(query(ahead))
            client.ask(parse("SELECT 42", "mine"), run("mine"), SYNC)
            count = "SELECT count(*) FROM pg_prepared_statements"
            assert client.value(count) == "1"
            client.ask(query("COMMIT"))


def test_role_and_temporary_table(pair: tuple[InProcess, Others]) -> None:
    """Neither is known to the statement that others have of the same text."""
    pooler, others = pair
    cases = (
        ("SET LOCAL ROLE meaning_role", "SELECT current_user", b"meaning_role", b"app"),
        (
            "CREATE TEMP TABLE pgbench_branches ON COMMIT DROP AS SELECT 7 AS bid",
            "SELECT sum(bid) FROM pgbench_branches",
            b"7",
            b"1",
        ),
    )
    for sql, text, mine, common in cases:
        with pooler.client() as one, pooler.client() as other:
            assert values(other.ask(parse(text, "a"), run("a"), SYNC)) == [common]
            one.ask(query(f"BEGIN; {sql}"))
            assert values(one.ask(parse(text, "a"), run("a"), SYNC)) == [mine]
            one.ask(query("ROLLBACK"))
            for _ in range(2):
                assert values(other.ask(run("a"), SYNC)) == [common]
                assert values(other.ask(parse(text), run(), SYNC)) == [common]
                others.turn()


def evict(client: WireClient) -> None:
    """The only server has room for one statement."""
    client.ask(parse("SELECT 0", ""), SYNC)
    client.ask(parse("SELECT 'other'", "other"), SYNC)
    client.ask(bind(statement="other"), execute(), SYNC)
    client.ask(message("C", b"Sother\0"), SYNC)


def ran(answer: list[Message]) -> bytes | str | None:
    """The value of its row, or the SQLSTATE of its error."""
    for one in answer:
        if one.code == "E":
            return one.fields["C"]
        if one.code == "D":
            return one.row[0]
    return None


@pytest.mark.parametrize("context", CONTEXTS)
def test_read_behind_a_set_in_its_batch(
    worker_in_process: Callable[..., InProcess], context: str
) -> None:
    """It means the same wherever it is read again, whatever is set by then."""
    text, change, before, after = CONTEXTS[context]
    worker = worker_in_process(default_pool_size=1, max_prepared_statements=1)
    with worker.client() as client:
        client.ask(extended(change), parse(text, "p"), SYNC)
        client.ask(query(f"RESET {change.split()[1]}"))
        evict(client)
        assert ran(client.ask(bind(statement="p"), execute(), SYNC)) == after
        client.ask(query(f"{change}; PREPARE q AS {text}"))
        client.ask(query(f"RESET {change.split()[1]}"))
        evict(client)
        assert ran(client.ask(query("EXECUTE q"))) == after
        assert ran(client.ask(query(text))) == before


@pytest.mark.parametrize("context", CONTEXTS)
def test_prepared_in_a_query_that_sets_something(
    worker_in_process: Callable[..., InProcess], context: str
) -> None:
    """In front of a SET, behind it, and between two of them."""
    text, change, before, after = CONTEXTS[context]
    reset = f"RESET {change.split()[1]}"
    prepare = f"PREPARE p AS {text}"
    worker = worker_in_process(default_pool_size=1, max_prepared_statements=1)
    for sql, wanted in (
        (f"{prepare}; {change}", before),
        (f"{change}; {prepare}; SELECT 1", after),
        (f"{change}; {prepare}; {reset}", "26000"),
    ):
        with worker.client() as client:
            client.ask(query(sql))
            for now in (change, reset):
                client.ask(query(now))
                evict(client)
                assert ran(client.ask(query("EXECUTE p"))) == wanted, (sql, now)


# Behind these nobody can say what is set; {} is the SET, {reset} the way back.
UNKNOWN = {
    "for the transaction": ["SELECT set_config('{name}', '{value}', true)"],
    "twice": ["{}", "RESET {name}", "{}"],
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("way", UNKNOWN)
def test_what_nobody_can_read_again_fails(
    worker_in_process: Callable[..., InProcess], way: str, context: str
) -> None:
    """Never with another meaning; its own server still has the right one."""
    text, change, _, after = CONTEXTS[context]
    name, value = change.removeprefix("SET ").split(" = ")
    changes = b"".join(
        extended(one.format(change, name=name, value=value.strip("'")))
        for one in UNKNOWN[way]
    )
    worker = worker_in_process(default_pool_size=1, max_prepared_statements=1)
    with worker.client() as client:
        client.ask(changes, parse(text, "p"), SYNC)
        assert ran(client.ask(bind(statement="p"), execute(), SYNC)) == after
        client.ask(query(f"RESET {name}"))
        evict(client)
        assert ran(client.ask(bind(statement="p"), execute(), SYNC)) == "0A000"
        client.ask(message("C", b"Sp\0"), parse(text, "p"), SYNC)
        assert "E" not in codes(client.ask(bind(statement="p"), execute(), SYNC))


def test_what_means_the_same_everywhere_is_read_again(
    worker_in_process: Callable[..., InProcess],
) -> None:
    """A text without a literal, behind whatever."""
    worker = worker_in_process(default_pool_size=1, max_prepared_statements=1)
    with worker.client() as client:
        local = extended("SELECT set_config('DateStyle', 'German', true)")
        client.ask(local, parse("SELECT 1 + 1", "p"), SYNC)
        evict(client)
        assert ran(client.ask(bind(statement="p"), execute(), SYNC)) == b"2"


def test_who_parses_is_warned_each_time(
    worker_in_process: Callable[..., InProcess], postgres: Postgres
) -> None:
    """PostgreSQL warns of backslashes when it reads a text, not when it is bound."""
    text = parse(r"SELECT 'a\nb'", "p")
    worker = worker_in_process(default_pool_size=1)
    with (
        WireClient(postgres.port).login(USER, DATABASE) as real,
        worker.client() as client,
        worker.client() as other,
    ):
        for one in (real, client, other):
            one.ask(query("SET standard_conforming_strings = off"))
        script = (text + bind(statement="p") + execute(), message("C", b"Sp\0"))
        for piece in script * 3:
            expected = codes(real.ask(piece, SYNC))
            assert codes(client.ask(piece, SYNC)) == expected
            assert codes(other.ask(piece, SYNC)) == expected
