# SPDX-License-Identifier: MIT
"""What programs do with a database, through two servers shared by everybody."""

from __future__ import annotations

import asyncio
import os
import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from pooler.demo.postgres import Postgres
from tests.integration.harness import DATABASE, HOST, USER, Pooler, backends, wait_until
from tests.wire_client import (
    FLUSH,
    SYNC,
    Message,
    bind,
    codes,
    describe,
    execute,
    extended,
    message,
    parse,
    query,
    text,
)

pytestmark = pytest.mark.timeout(30)

SERVERS = 2
CLIENTS = 20
PSQL_TIMEOUT_S = 20
BIG_VALUE_BYTES = 50 << 20
COPY_ROWS = 200_000  # of 100 bytes
COPY_DONE = message("c")


@pytest.fixture(scope="module")
def pooler(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pooler]:
    """One for all tests: what one leaves behind, the next one finds."""
    settings: dict[str, object] = {"default_pool_size": SERVERS}
    made = Pooler(tmp_path_factory.mktemp("queries"), postgres.port, {}, settings)
    try:
        yield made.start()
    finally:
        made.finish()


@pytest.fixture(autouse=True)
def _every_server_rests_afterwards(
    postgres: Postgres, pooler: Pooler
) -> Iterator[None]:
    yield
    busy = (
        "SELECT pid, state, query FROM pg_stat_activity WHERE state <> 'idle'"
        f" AND datname = '{DATABASE}' AND usename = '{USER}'"
    )
    wait_until(lambda: not postgres.psql(busy), "no server is in a transaction", 5)
    assert len(backends(postgres)) <= SERVERS


@pytest.fixture
def table(postgres: Postgres) -> Iterator[str]:
    """An empty table ``items (owner int, what text)``."""
    postgres.psql("CREATE TABLE items (owner int, what text)", DATABASE)
    postgres.psql(f"ALTER TABLE items OWNER TO {USER}", DATABASE)
    yield "items"
    postgres.psql("DROP TABLE items", DATABASE)


def psql(postgres: Postgres, pooler: Pooler, *commands: str, stdin: str = "") -> str:
    """Run psql with one -c for each command; what it prints."""
    program = postgres.installation.tool("psql")
    assert program is not None
    target = ["-X", "-A", "-t", "-q", "-h", HOST, "-p", str(pooler.port), "-U", USER]
    given = [part for command in commands for part in ("-c", command)]
    done = subprocess.run(
        [program, *target, *given, DATABASE],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PSQL_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


# Drivers


def test_psycopg_simple_and_extended(pooler: Pooler) -> None:
    with pooler.connect(autocommit=True) as link:
        assert link.execute("SELECT 1, 'a', NULL").fetchone() == (1, "a", None)
        values = (7, "it's", None, [1, 2], b"\0\xff", 1.5, True)
        for binary in (False, True):
            row = link.execute(
                "SELECT %s::int, %s::text, %s::text, %s::int[], %s::bytea,"
                " %s::float8, %s::bool",
                values,
                binary=binary,
            ).fetchone()
            assert row == values


def test_psycopg_pipeline(pooler: Pooler, table: str) -> None:
    with pooler.connect(autocommit=True) as link:
        with link.pipeline() as pipeline:
            cursors = [link.execute("SELECT %s::int", (n,)) for n in range(200)]
            pipeline.sync()
            cursors += [link.execute("SELECT %s::int", (n,)) for n in range(200, 400)]
        assert [c.fetchone() for c in cursors] == [(n,) for n in range(400)]
        with link.pipeline(), link.transaction():
            link.execute(f"INSERT INTO {table} VALUES (1, 'in a pipeline')")
        assert link.execute(f"SELECT what FROM {table}").fetchall() == [
            ("in a pipeline",)
        ]


def test_pipeline_with_an_error(pooler: Pooler) -> None:
    with pooler.client() as client:
        bad = extended("SELECT 1") + extended("SELECT 1/0") + extended("SELECT 2")
        client.send(bad, SYNC, extended("SELECT 3"), SYNC)
        assert codes(client.read_until("Z")) == "12TDC1EZ"
        assert codes(client.read_until("Z")) == "12TDCZ"


def test_psycopg_async(pooler: Pooler) -> None:
    async def one(number: int) -> list[int]:
        link = await psycopg.AsyncConnection.connect(
            pooler.dsn(), autocommit=True, prepare_threshold=None, connect_timeout=10
        )
        async with link:
            answers = []
            for turn in range(20):
                cursor = await link.execute("SELECT %s::int", (number * 100 + turn,))
                row = await cursor.fetchone()
                assert row is not None
                answers.append(row[0])
            return answers

    async def everybody() -> list[list[int]]:
        async with asyncio.timeout(20):
            return await asyncio.gather(*map(one, range(CLIENTS)))

    assert asyncio.run(everybody()) == [
        [number * 100 + turn for turn in range(20)] for number in range(CLIENTS)
    ]


def test_psql(postgres: Postgres, pooler: Pooler, table: str, tmp_path: Path) -> None:
    assert psql(postgres, pooler, "SELECT 1", "SELECT 2; SELECT 3") == "1\n2\n3\n"
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("".join(f"{n},item {n}\n" for n in range(5000)))
    psql(postgres, pooler, f"\\copy {table} FROM '{source}' CSV")
    psql(postgres, pooler, f"\\copy {table} TO '{target}' CSV")
    assert target.read_text() == source.read_text()
    assert psql(postgres, pooler, f"SELECT count(*) FROM {table}") == "5000\n"
    psql(postgres, pooler, f"\\copy {table} FROM STDIN CSV", stdin="1,x\n2,y\n")
    assert psql(postgres, pooler, f"SELECT count(*) FROM {table}") == "5002\n"


def test_large_objects(postgres: Postgres, pooler: Pooler, tmp_path: Path) -> None:
    """libpq does these by FunctionCall."""
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(os.urandom(1 << 20))
    psql(postgres, pooler, f"\\lo_import {source}")
    oid = psql(postgres, pooler, "SELECT max(oid) FROM pg_largeobject_metadata").strip()
    psql(postgres, pooler, f"\\lo_export {oid} {target}")
    assert target.read_bytes() == source.read_bytes()
    psql(postgres, pooler, f"\\lo_unlink {oid}")


# COPY


def test_copy_20_mb_both_ways(pooler: Pooler, table: str) -> None:
    block = b"".join(b"%d\t%092d\n" % (n % 1000, n) for n in range(1000))
    with pooler.connect() as link, link.cursor() as cursor:
        with cursor.copy(f"COPY {table} FROM STDIN") as sink:
            for _ in range(COPY_ROWS // 1000):
                sink.write(block)
        assert cursor.rowcount == COPY_ROWS
        with cursor.copy(f"COPY {table} TO STDOUT") as source:
            received = b"".join(bytes(part) for part in source)
        assert received == block * (COPY_ROWS // 1000)
        link.commit()
        assert link.execute(f"SELECT count(*) FROM {table}").fetchone() == (COPY_ROWS,)


def test_copy_that_fails_on_the_way(pooler: Pooler, table: str) -> None:
    def refused_by_the_server() -> Iterator[bytes]:
        yield b"not a number\tx\n"
        yield from (b"1\tx\n" * 20_000 for _ in range(100))

    def given_up_by_the_client() -> Iterator[bytes]:
        yield b"1\tx\n"
        raise RuntimeError

    def copy(parts: Iterator[bytes]) -> None:
        with link.cursor() as cursor, cursor.copy(into) as sink:
            for part in parts:
                sink.write(part)

    into = f"COPY {table} FROM STDIN"
    with pooler.connect(autocommit=True) as link:
        with pytest.raises(errors.InvalidTextRepresentation):
            copy(refused_by_the_server())
        with pytest.raises(RuntimeError):
            copy(given_up_by_the_client())
        assert link.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_copy_of_a_client_that_vanishes(pooler: Pooler, table: str) -> None:
    for _ in range(SERVERS + 1):
        with pooler.client() as gone:
            gone.send(query(f"COPY {table} FROM STDIN"))
            gone.read_until("G")
            gone.send(message("d", b"1\tx\n"))
            gone.reset()
    with pooler.client() as client:
        assert client.value(f"SELECT count(*) FROM {table}") == "0"


def test_copy_in_the_extended_protocol(pooler: Pooler, table: str) -> None:
    """PostgreSQL ignores the Sync before CopyDone."""
    copy = parse(f"COPY {table} FROM STDIN") + bind() + execute()
    with pooler.client() as client:
        client.send(copy, SYNC)
        assert codes(client.read_until("G")) == "12G"
        answer = client.ask(message("d", b"1\tx\n"), COPY_DONE, SYNC)
        assert codes(answer) == "CZ"
        assert client.value(f"SELECT what FROM {table}") == "x"
        out = extended(f"COPY {table} TO STDOUT") + SYNC
        assert codes(client.ask(out)) == "12nHdcCZ"


# Size


@pytest.mark.parametrize("protocol", ["simple", "extended"])
def test_a_value_of_50_mb(pooler: Pooler, protocol: str) -> None:
    with pooler.connect(autocommit=True) as link:
        value = "x" * BIG_VALUE_BYTES
        if protocol == "simple":
            sent = link.execute(f"SELECT length('{value}')")
            got = link.execute(f"SELECT repeat('x', {BIG_VALUE_BYTES})")
        else:
            sent = link.execute("SELECT length(%s)", (value,))
            got = link.execute("SELECT repeat('x', %s)", (BIG_VALUE_BYTES,))
        assert sent.fetchone() == (BIG_VALUE_BYTES,)
        assert got.fetchone() == (value,)


def test_a_big_result_for_a_slow_reader_holds_nobody_up(pooler: Pooler) -> None:
    """The pooler stores no more than the kernel's buffers, and others go on."""
    before = pooler.rss_bytes()
    with pooler.wire(receive_buffer=4096) as slow, pooler.client() as quick:
        slow.login(USER, DATABASE)
        slow.send(query(f"SELECT repeat('x', {BIG_VALUE_BYTES})"))
        slow.read_exactly(10_000)
        for number in range(200):
            assert quick.value(f"SELECT {number}") == str(number)
        assert pooler.rss_bytes() - before < 10 << 20
        slow.reset()


def test_many_small_rows(pooler: Pooler) -> None:
    count = 300_000
    with pooler.connect(autocommit=True) as link:
        rows = link.execute("SELECT generate_series(1, %s)", (count,)).fetchall()
        assert [n for (n,) in rows] == list(range(1, count + 1))


# Transactions


def test_each_transaction_sees_its_own_data(pooler: Pooler, table: str) -> None:
    def one(owner: int) -> set[int]:
        pids = set()
        with pooler.connect() as link:
            for turn in range(1, 11):
                with link.transaction():
                    (first,) = link.execute("SELECT pg_backend_pid()").fetchone() or ()
                    link.execute(f"SET LOCAL lock_timeout = {owner + 10001}")
                    link.execute(
                        f"INSERT INTO {table} VALUES (%s, %s)", (owner, f"{turn}")
                    )
                    seen = link.execute(
                        f"SELECT count(*), current_setting('lock_timeout'),"
                        f" pg_backend_pid() FROM {table} WHERE owner = %s",
                        (owner,),
                    ).fetchone()
                    assert seen == (turn, f"{owner + 10001}ms", first)
                    pids.add(first)
        return pids

    with ThreadPoolExecutor(CLIENTS) as threads:
        pids = set().union(*threads.map(one, range(CLIENTS), timeout=25))
    assert len(pids) <= SERVERS
    with pooler.client() as client:
        assert client.value(f"SELECT count(*) FROM {table}") == str(CLIENTS * 10)


def test_error_inside_a_transaction(pooler: Pooler, table: str) -> None:
    with pooler.connect() as link, pooler.client() as other:
        (pid,) = link.execute("SELECT pg_backend_pid()").fetchone() or ()
        link.execute(f"INSERT INTO {table} VALUES (1, 'kept')")
        link.execute("SAVEPOINT here")
        with pytest.raises(errors.DivisionByZero):
            link.execute("SELECT 1/0")
        with pytest.raises(errors.InFailedSqlTransaction):
            link.execute("SELECT 1")
        for _ in range(10):  # nobody gets the server of a failed transaction
            assert other.value("SELECT pg_backend_pid()") != str(pid)
        link.execute("ROLLBACK TO here")
        link.commit()
        with pytest.raises(errors.UndefinedTable):
            link.execute("SELECT * FROM nowhere")
        link.rollback()
        assert link.execute(f"SELECT what FROM {table}").fetchall() == [("kept",)]


# Messages that are rare


def test_notices(pooler: Pooler) -> None:
    said: list[str | None] = []
    with pooler.connect(autocommit=True) as link:
        link.add_notice_handler(lambda one: said.append(one.message_primary))
        link.execute("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$")
        assert said == ["one", "two"]


def test_notification_inside_a_transaction(pooler: Pooler) -> None:
    with pooler.client() as client:
        for sql in ("BEGIN", "LISTEN news", "NOTIFY news, 'hello'"):
            assert codes(client.ask(query(sql))) == "CZ"
        answer = client.ask(query("COMMIT"))
        assert codes(answer) == "CAZ"
        assert answer[1].body[4:] == text("news") + text("hello")
    # Both servers at once, so that the one that listens is among them.
    with pooler.client() as one, pooler.client() as other:
        for sql in ("BEGIN", "UNLISTEN *", "COMMIT"):
            one.ask(query(sql))
            other.ask(query(sql))


def test_parameter_status_after_set(pooler: Pooler) -> None:
    with pooler.client() as client, pooler.connect(autocommit=True) as link:
        answer = client.ask(query("SET TimeZone = 'Asia/Tokyo'"))
        assert sorted(codes(answer)) == ["C", "S", "Z"]
        assert client.parameters["TimeZone"] == "Asia/Tokyo"
        link.execute("SET application_name = 'me'")
        assert link.info.parameter_status("application_name") == "me"
        assert client.value("SHOW TimeZone") == "Asia/Tokyo"


def test_empty_queries(pooler: Pooler) -> None:
    with pooler.client() as client:
        for sql in ("", " ", ";", "-- nothing"):
            assert codes(client.ask(query(sql))) == "IZ"
            assert codes(client.ask(extended(sql), SYNC)) == "12nIZ"
        assert client.value("SELECT 1") == "1"


def test_flush_and_lone_sync(pooler: Pooler) -> None:
    with pooler.client() as client:
        assert codes(client.ask(SYNC)) == "Z"
        client.send(parse("SELECT 1"), describe(kind="S"), FLUSH)
        assert codes(client.read_until("T")) == "1tT"
        assert codes(client.ask(bind(), execute(), SYNC)) == "2DCZ"


def test_function_call(pooler: Pooler) -> None:
    def call(signature: str, *arguments: bytes) -> list[Message]:
        oid = int(client.value(f"SELECT '{signature}'::regprocedure::oid::int"))
        given = b"".join(struct.pack("!i", len(one)) + one for one in arguments)
        head = struct.pack("!IHH", oid, 0, len(arguments))  # everything as text
        return client.ask(message("F", head + given + struct.pack("!H", 0)))

    with pooler.client() as client:
        answer = call("int4abs(int4)", b"-5")
        assert codes(answer) == "VZ"
        assert answer[0].body == struct.pack("!i", 1) + b"5"
        assert codes(call("int4div(int4,int4)", b"1", b"0")) == "EZ"
        assert client.value("SELECT 1") == "1"
