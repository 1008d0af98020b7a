# SPDX-License-Identifier: MIT
"""Errors that a session alone would get, on a server that lacks the statement.

Whatever is put in front of a client's message to prepare it there may fail as well;
what the client hears, and when, is what PostgreSQL says to a session of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import DATABASE, USER, InProcess
from tests.wire_client import (
    SYNC,
    Message,
    WireClient,
    bind,
    describe,
    execute,
    message,
    messages_in,
    parse,
    query,
    text,
)

pytestmark = pytest.mark.timeout(60)

ELSEWHERE = "another server serves the client from here on"
GONE = "ALTER TABLE rows RENAME TO moved"
BACK = "ALTER TABLE moved RENAME TO rows"
Step = bytes | str
FAILED = [query("begin"), query("select 1/0")]
PARSED = parse("select a from rows where a = $1", "p") + SYNC
PREPARED = query("prepare p(int) as select a from rows where a = $1")
OTHERS = query(
    "prepare q(int) as select b from rows where a = $1; prepare r as select 7"
)


@pytest.fixture
def rows(postgres: Postgres) -> Iterator[Postgres]:
    postgres.psql("CREATE TABLE rows AS SELECT 1 AS a, 'x' AS b", DATABASE)
    postgres.psql(f"ALTER TABLE rows OWNER TO {USER}", DATABASE)
    yield postgres
    postgres.psql("DROP TABLE IF EXISTS rows, moved", DATABASE)


def shown(answer: list[Message]) -> list[object]:
    """An answer, errors field by field but for the line in PostgreSQL's source."""
    return [
        {key: value for key, value in one.fields.items() if key != "L"}
        if one.code in "EN"
        else (one.code, one.body)
        for one in answer
        if one.code != "S"
    ]


def ask(client: WireClient, raw: bytes) -> list[object]:
    client.send(raw)
    said = []
    for one in messages_in(raw):
        if one.code in "QS":
            said += client.read_until("Z")
    return shown(said)


def compare(pooler: InProcess, postgres: Postgres, steps: list[Step]) -> None:
    """Hold the steps on both ways at once; SQL in a str is somebody else's."""
    with (
        WireClient(postgres.port).login(USER, DATABASE) as alone,
        pooler.client() as client,
        pooler.client() as other,
    ):
        for step in steps:
            if step == ELSEWHERE:
                other.ask(query("begin"))
            elif isinstance(step, str):
                postgres.psql(step, DATABASE)
            else:
                assert ask(client, step) == ask(alone, step), step


# ------------------------------------------------------- commands of one Query

QUERIES = {
    "behind rows": [query("select 1; execute p(1); select 2")],
    "alone": [query("execute p(1)")],
    "behind an error": [query("select 1/0; execute p(1)")],
    "behind a syntax error": [query("execute p(1); select from where")],
    "explained": [query("select 1; select 'é'; explain execute p(1)")],
    "behind begin": [query("begin; execute p(1)"), query("execute p(1)")],
    "behind rollback": [query("begin"), query("rollback; execute p(1)")],
    "alone in a block": [query("begin"), query("execute p(1)"), query("execute p(1)")],
    "in a failed block": [*FAILED, query("execute p(1)"), query("select 1")],
    "another name": [query("select 1; execute q(1); execute p(1)")],
    "twice": [query("select 1; execute p(1); execute p(2)"), query("select 2")],
}


IN_BLOCKS = {
    "rows": [query("select 1; execute p(1); select 2"), query("select 1")],
    "commit": [query("insert into kept values (1); commit; execute p(1)")],
    "begun again": [query("select 1; commit; begin; execute p(1)"), query("commit")],
    "savepoints": [
        query("savepoint a; execute p(1)"),
        query("rollback to a"),
        query("select 1; execute p(1)"),
    ],
    "first of two": [query("execute p(1); select 1; execute q(1)"), query("select 1")],
    "second of two": [query("select 1; execute r; execute p(1)"), query("select 1")],
    "a cursor": [
        query("declare c cursor for select generate_series(1, 9); fetch c"),
        query("fetch c; execute r; fetch c; execute p(1)"),
    ],
    "dropped before": [query("select 1; deallocate p; execute q(1)")],
    "settings": [query("set local timezone to 'Etc/GMT+3'; execute p(1)")],
}


@pytest.mark.parametrize("prepared", [PARSED, PREPARED], ids=["parse", "prepare"])
@pytest.mark.parametrize("asked", IN_BLOCKS.values(), ids=list(IN_BLOCKS))
def test_a_command_fails_in_its_turn_in_a_block(
    worker_in_process: Callable[..., InProcess],
    rows: Postgres,
    prepared: bytes,
    asked: list[bytes],
) -> None:
    """What is in front of it in its Query runs, and may end the block before."""
    last = [query("rollback"), query("table kept"), query("execute p(1)")]
    steps: list[Step] = [prepared, OTHERS]
    steps += [ELSEWHERE, GONE, query("begin"), *asked, *last[:1], BACK, *last[1:]]
    with WireClient(rows.port).login(USER, DATABASE) as keeper:
        keeper.ask(query("create table kept(n int)"))
        try:
            compare(worker_in_process(default_pool_size=2), rows, steps)
        finally:
            keeper.ask(query("drop table kept"))


@pytest.mark.parametrize("prepared", [PARSED, PREPARED], ids=["parse", "prepare"])
@pytest.mark.parametrize("asked", QUERIES.values(), ids=list(QUERIES))
def test_a_command_fails_in_its_turn(
    worker_in_process: Callable[..., InProcess],
    rows: Postgres,
    prepared: bytes,
    asked: list[bytes],
) -> None:
    """What is answered before an EXECUTE that fails is answered before its error."""
    steps: list[Step] = [prepared, ELSEWHERE, GONE, *asked, query("rollback"), BACK]
    steps += [query("execute p(1)")]
    compare(worker_in_process(default_pool_size=2), rows, steps)


# ------------------------------------------------------- EXECUTE by Parse

RUN_E = bind(statement="e") + execute() + SYNC
END = parse("rollback") + bind() + execute()

EXECUTES = {
    "described": [describe("e", "S") + SYNC],
    "run": [RUN_E],
    "in a Query": [query("select 1; execute e; select 2")],
    "first in a Query": [query("execute e; select 2")],
    "in a block": [query("begin"), query("select 1; execute e"), query("select 1")],
    "behind a commit": [query("begin"), query("commit; execute e"), query("select 1")],
    "described in a failed block": [*FAILED, describe("e", "S") + SYNC],
    "run in a failed block": [*FAILED, RUN_E],
    "in a Query of a failed block": [*FAILED, query("execute e"), query("select 1")],
    "behind the end of a failed block": [*FAILED, END + RUN_E],
    "described behind that end": [*FAILED, END + describe("e", "S") + SYNC],
    "a portal described": [bind(statement="e") + describe() + SYNC],
    "deallocated": [query("select 1; deallocate e; select 2"), RUN_E],
}


# Known, see docs/architecture.md: the Bind fails, before what PostgreSQL fails; and the
# place of an error in what SQL has prepared is another one where a batch needs it.
BINDS = ("run", "a portal described", "behind the end of a failed block")
DESCRIBES = ("described", "described behind that end")
CASES = [
    pytest.param(prepared, asked, state, id=f"{name}, {state}, {way}")
    for name, asked in EXECUTES.items()
    for way, prepared in (("parse", PARSED), ("prepare", PREPARED))
    for state in ("gone", "there")
    if state == "there" or name not in BINDS
    if state == "there" or name not in DESCRIBES or way == "parse"
]


@pytest.mark.parametrize(("prepared", "asked", "state"), CASES)
def test_what_an_execute_names_is_lacking(
    worker_in_process: Callable[..., InProcess],
    rows: Postgres,
    prepared: bytes,
    asked: list[bytes],
    state: str,
) -> None:
    """An EXECUTE fails for what it names, when PostgreSQL comes to it."""
    gone, back = (GONE, BACK) if state == "gone" else ("SELECT 1", "SELECT 1")
    steps: list[Step] = [prepared, parse("execute p(1)", "e") + SYNC, ELSEWHERE]
    steps += [gone, *asked, query("rollback"), back, RUN_E, query("execute p(1)")]
    compare(worker_in_process(default_pool_size=2), rows, steps)


def test_a_name_that_is_cut_of_an_execute(
    worker_in_process: Callable[..., InProcess], rows: Postgres
) -> None:
    """Its notice is told as for any other, where the name is replaced."""
    steps: list[Step] = [PARSED, parse("execute p(1)", "e" * 63) + SYNC, ELSEWHERE]
    steps += [query(f"select 1; execute {'e' * 70}"), query(f"execute {'e' * 70}")]
    steps += [query(f"deallocate {'e' * 70}"), query(f"deallocate {'e' * 70}")]
    compare(worker_in_process(default_pool_size=2), rows, steps)


# ------------------------------------------------------- Bind and Describe

TEXTS = {
    "select": ("select a from rows where a = $1 and b = $2", 2),
    "insert": ("insert into rows values ($1, $2)", 2),
    "returning": ("insert into rows values ($1, $2) returning a", 2),
    "set": ("set work_mem = '5MB'", 0),
    "begin": ("begin", 0),
    "rollback": ("/* the end */ rollback", 0),
    "commit": ("commit", 0),
    "empty": ("", 0),
}
INT, TEXT = 23, 25


def typed_parse(sql: str, name: str, *types: int) -> bytes:
    rest = struct.pack(f"!H{len(types)}I", len(types), *types)
    return message("P", text(name) + text(sql) + rest)


def asks(name: str, count: int) -> dict[str, bytes]:
    """What is asked of a statement with so many parameters."""
    right, more = [b"1"] * count, [b"1"] * (count + 1)
    return {
        "described": describe(name, "S") + SYNC,
        "bound": bind(*right, statement=name) + execute() + SYNC,
        "bound with one more": bind(*more, statement=name) + execute() + SYNC,
        "described and bound": (
            describe(name, "S") + bind(*right, statement=name) + execute() + SYNC
        ),
        "bound with none": bind(statement=name) + describe() + execute() + SYNC,
    }


@pytest.mark.parametrize("state", ["failed", "gone", "gone in a block", "there"])
@pytest.mark.parametrize("told", [True, False], ids=["told", "given"])
@pytest.mark.parametrize("asked", list(asks("", 0)))
def test_a_statement_that_the_server_lacks(
    worker_in_process: Callable[..., InProcess],
    rows: Postgres,
    told: bool,
    state: str,
    asked: str,
) -> None:
    """It needs not be read again for an answer that does not depend on its text."""
    begin = {"failed": FAILED, "gone in a block": [query("begin")]}.get(state, [])
    gone, back = (GONE, BACK) if "gone" in state else ("SELECT 1", "SELECT 1")
    steps: list[Step] = []
    for name, (sql, count) in TEXTS.items():
        types = [] if told else [INT, TEXT][:count]
        steps.append(typed_parse(sql, name, *types) + SYNC)
        if told:
            steps.append(describe(name, "S") + SYNC)
    steps.append(ELSEWHERE)
    for name, (_, count) in TEXTS.items():
        ask_for = asks(name, count)[asked]
        if not told and asked.startswith("described"):
            ask_for = asks(name, count)["bound"]  # whether it has rows nobody knows
        steps += [*begin, gone, ask_for, back, query("rollback"), ask_for]
        steps += [query("rollback")]
    compare(worker_in_process(default_pool_size=2), rows, steps)


def test_a_batch_that_ends_the_failed_transaction(
    worker_in_process: Callable[..., InProcess], rows: Postgres
) -> None:
    """What stands behind its ROLLBACK is carried out: nothing stands in for it."""
    end = parse("rollback") + bind() + execute()
    begin = query("begin") + query("select 1/0")
    run = bind(b"7", b"new", statement="i") + execute()
    wrong = bind(b"7", statement="i") + execute()
    steps: list[Step] = [
        typed_parse("insert into rows values ($1, $2)", "i", INT, TEXT) + SYNC,
        ELSEWHERE,
        begin,
        end + run + SYNC,
        begin,
        run + SYNC + end + SYNC + run + SYNC,
        begin + wrong + SYNC + run + end + SYNC + query("rollback"),
        query("table rows"),
    ]
    compare(worker_in_process(default_pool_size=2), rows, steps)


def test_a_bind_that_waits_for_a_description(
    worker_in_process: Callable[..., InProcess], rows: Postgres
) -> None:
    """Its client knows the rows already; the transaction has failed meanwhile."""
    fails = parse("select from where", "x") + SYNC
    steps: list[Step] = [PARSED + describe("p", "S") + SYNC, ELSEWHERE, query("begin")]
    steps += [fails + bind(b"1", statement="p") + SYNC, query("rollback")]
    compare(worker_in_process(default_pool_size=2), rows, steps)


def test_a_deallocate_needs_the_name_only(
    worker_in_process: Callable[..., InProcess], rows: Postgres
) -> None:
    """Also where what has it cannot be prepared any more."""
    steps: list[Step] = [PARSED, PARSED.replace(b"p\0", b"q\0", 1)]
    steps += [query("prepare r as select * from rows"), ELSEWHERE, GONE]
    steps += [query("select 1; deallocate p; deallocate r; select 2"), query("begin")]
    steps += [query("deallocate q; deallocate q"), query("rollback"), BACK]
    steps += [query(f"execute {name}(1)") for name in "pqr"]
    compare(worker_in_process(default_pool_size=2), rows, steps)


def test_one_prepare_too_many(
    worker_in_process: Callable[..., InProcess], rows: Postgres
) -> None:
    """It fails in its turn, as if its name were taken; its text is looked at first."""
    pooler = worker_in_process(default_pool_size=1, max_client_prepared_statements=1)
    asked = [
        "select 1; prepare q as select 2; select 3",
        "prepare q as select 2",
        "select 1/0; prepare q as select 2",
        "select 1; prepare q as select oops",
        "prepare q as select 2 oops oops",
        "begin; prepare q as select 2",
        "select 1",
        "rollback; prepare q as select 2; execute q",
        "execute q; deallocate p",
    ]
    with (
        WireClient(rows.port).login(USER, DATABASE) as alone,
        pooler.client() as client,
    ):
        for one in (alone, client):
            ask(one, query("prepare p as select 1"))
        ask(alone, query("prepare q as select 1"))  # here it is taken
        for sql in asked[:-1]:
            said, there = ask(client, query(sql)), ask(alone, query(sql))
            assert [limited(one) for one in said] == [limited(one) for one in there]
        assert "26000" in str(ask(client, query(asked[-1])))
        ask(client, query("deallocate p"))
        assert "42P05" not in str(ask(client, query("prepare q as select 2")))


def limited(one: object) -> object:
    """The error of the limit and that of a taken name are one."""
    if isinstance(one, dict) and one["C"] in ("53400", "42P05"):
        return "one too many"
    return one
