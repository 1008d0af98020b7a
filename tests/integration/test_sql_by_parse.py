# SPDX-License-Identifier: MIT
"""PREPARE and DEALLOCATE by the extended protocol, before a real PostgreSQL.

Whatever a session asks, it must be told what it is told straight, byte for byte. A
Parse only reads them. What they do to names they do each time that they are run.
"""

from __future__ import annotations

import pytest

from pooler.demo.postgres import Postgres
from tests.integration import test_sql_commands
from tests.integration.harness import MakePooler
from tests.integration.test_sql_commands import straight
from tests.wire_client import (
    FLUSH,
    SYNC,
    Message,
    bind,
    codes,
    describe,
    execute,
    message,
    parse,
    query,
    text,
)

pytestmark = pytest.mark.timeout(60)


def shown(answer: list[Message]) -> list[object]:
    """As there; the notice that a name is cut is not told by the extended protocol."""
    return [
        one
        for one in test_sql_commands.shown(answer)
        if not (isinstance(one, dict) and one["C"] == "42622")
    ]


def run(statement: str = "", portal: str = "") -> bytes:
    return bind(statement=statement, portal=portal) + execute(portal)


def ask(sql: str) -> bytes:
    return parse(sql) + bind() + describe() + execute() + SYNC


def close(name: str, kind: str = "S") -> bytes:
    return message("C", kind.encode() + text(name))


SESSIONS: dict[str, list[bytes]] = {
    "run twice": [
        parse("prepare p as select 1") + run() + SYNC,
        run() + SYNC,
        query("execute p"),
        parse("deallocate p", "d") + run("d") + SYNC,
        run("d") + SYNC,
        query("execute p"),
        parse("prepare p as select 2", "s") + run("s") + SYNC,
        query("execute p"),
        run("d") + run("s") + run("d") + run("s") + SYNC,
        query("execute p"),
        run("s") + SYNC,
        run("d") + run("d") + SYNC,
        query("execute p"),
        run("s") + SYNC + ask("execute p") + run("d") + SYNC + run("d") + SYNC,
    ],
    "by a driver": [
        ask("prepare p as select 1"),
        ask("execute p"),
        ask("prepare p as select 2"),
        ask("execute p"),
        ask("deallocate p"),
        ask("deallocate p"),
        ask("execute p"),
        ask("prepare p(int) as select $1 + 1"),
        bind(b"41", statement="p") + execute() + SYNC,
        ask("deallocate all"),
        ask("deallocate p"),
    ],
    "not run": [
        query("prepare p as select 1"),
        parse("deallocate p") + SYNC,
        query("execute p"),
        parse("prepare q as select 2", "s") + bind(statement="s") + SYNC,
        query("execute q"),
        query("select 1/0") + parse("deallocate p", "d") + SYNC,
        query("execute p"),
        parse("select oops") + parse("deallocate p") + run() + SYNC,
        parse("deallocate p") + bind() + parse("select oops") + execute() + SYNC,
        query("execute p"),
        run("d") + parse("select oops") + SYNC,
        query("execute p"),
        run("s") + parse("select oops") + SYNC,
        query("execute q"),
    ],
    "names of the protocol": [
        parse("deallocate s1", "s1") + SYNC,
        run("s1") + SYNC,
        run("s1") + SYNC,
        parse("select 1", "x") + SYNC,
        parse("prepare x as select 2") + run() + SYNC,
        parse("deallocate x") + run() + run("x") + SYNC,
        parse("prepare x as select 3") + run() + run("x") + SYNC,
        run("x") + SYNC,
        close("x") + SYNC,
        parse("deallocate x") + run() + SYNC,
        parse("prepare x as select 4") + run() + close("x") + run() + run("x") + SYNC,
        parse("prepare x as select 5") + run() + SYNC,
        run("x") + SYNC,
    ],
    "names that change under it": [
        parse("prepare p as select 1", "s") + parse("deallocate p", "d") + SYNC,
        query("prepare p as select 7"),
        run("s") + SYNC,
        run("d") + run("s") + SYNC,
        query("deallocate p; prepare p as select 8; execute p"),
        run("s") + SYNC,
        query("execute p"),
        run("d") + SYNC,
        query("execute p; select 1"),
        run("s") + SYNC + query("execute p") + run("d") + SYNC + query("execute p"),
        query("discard all"),
        run("s") + SYNC,
    ],
    "portals": [
        query("begin"),
        parse("prepare p as select 1", "s") + parse("deallocate p", "d") + SYNC,
        bind(statement="s", portal="a") + bind(statement="s", portal="b") + SYNC,
        bind(statement="d", portal="c") + bind(statement="d") + SYNC,
        execute("a") + SYNC,
        query("execute p"),
        execute("c") + FLUSH + SYNC,
        query("savepoint s; execute p"),
        query("rollback to s"),
        execute("b") + SYNC,
        query("execute p; savepoint s"),
        execute("b") + SYNC,
        query("rollback to s; execute p"),
        run("d") + close("a", "P") + SYNC,
        execute("a") + SYNC,
        query("rollback; execute p"),
        run("d") + SYNC,
    ],
    "errors": [
        parse("prepare   p as selct 1") + run() + SYNC,
        parse("prepare p as select oops") + run() + SYNC,
        parse("prepare é€ as select 'é', oops") + run() + SYNC,
        parse("deallocate p oops") + SYNC,
        query("prepare p as select 1"),
        parse("prepare p as select oops") + run() + SYNC,
        parse('prepare "p" as select 2') + run() + SYNC,
        parse('deallocate "No ""body"') + run() + SYNC,
        parse("deallocate pooler_0_1") + run() + SYNC,
        parse("select 1", "x") + parse("execute pooler_0_1") + run() + SYNC,
        parse("execute pooler_0_2 (oops)") + run() + SYNC,
        ask("explain execute pooler_0_1") + ask("create table t as execute pooler_0_2"),
        parse("prepare pooler_0_1 as select 1") + run() + SYNC,
        query("execute pooler_0_1"),
        parse("deallocate prepare " + "n" * 70) + run() + SYNC,
        parse("begin") + run() + parse("select 1/0") + run() + SYNC,
        parse("deallocate p") + SYNC,
        query("rollback"),
        query("execute p"),
    ],
}


def same_as_straight(
    make_pooler: MakePooler, postgres: Postgres, session: list[bytes], size: int
) -> None:
    pooler = make_pooler(default_pool_size=1)
    with straight(postgres) as alone, pooler.client() as client:
        for asked in session:
            syncs = sum(asked.count(one) for one in (SYNC, b"Q\0\0"))
            if size:
                client.send_split(asked, size)
            else:
                client.send(asked)
            alone.send(asked)
            for _ in range(syncs):
                answer = client.read_until("Z")
                assert shown(answer) == shown(alone.read_until("Z")), asked


@pytest.mark.parametrize("size", [0, pytest.param(1, marks=pytest.mark.full), 17])
@pytest.mark.parametrize("session", SESSIONS.values(), ids=list(SESSIONS))
def test_as_straight(
    make_pooler: MakePooler, postgres: Postgres, session: list[bytes], size: int
) -> None:
    same_as_straight(make_pooler, postgres, session, size)


def other_servers(
    make_pooler: MakePooler, postgres: Postgres, session: list[bytes], most: int
) -> None:
    """Outside of a transaction each meets the server that it met before last."""
    pooler = make_pooler(default_pool_size=3, max_prepared_statements=most)
    with (
        straight(postgres) as alone,
        pooler.client() as client,
        pooler.client() as one,
        pooler.client() as two,
    ):
        status = b"I"
        for i, asked in enumerate(session):
            if status == b"I":
                holder, other = (one, two) if i % 2 else (two, one)
                other.ask(query("commit"))
                holder.ask(query("begin"))
            client.send(asked)
            alone.send(asked)
            for _ in range(sum(asked.count(one) for one in (SYNC, b"Q\0\0"))):
                answer = client.read_until("Z")
                assert shown(answer) == shown(alone.read_until("Z")), asked
                status = answer[-1].body


@pytest.mark.parametrize("most", [1, pytest.param(2, marks=pytest.mark.full), 100])
@pytest.mark.parametrize("session", SESSIONS.values(), ids=list(SESSIONS))
def test_on_servers_that_change(
    make_pooler: MakePooler, postgres: Postgres, session: list[bytes], most: int
) -> None:
    other_servers(make_pooler, postgres, session, most)


def test_executed_by_sql(make_pooler: MakePooler) -> None:
    """PostgreSQL carries it out; here it is not found rather than not noticed."""
    with make_pooler(default_pool_size=1).client() as client:
        client.ask(parse("prepare p as select 1", "s") + SYNC)
        for asked in (query("execute s"), query("select 1; execute s")):
            answer = client.ask(asked)
            (error,) = (one.fields for one in answer if one.code == "E")
            assert error["C"] == "26000"
            assert error["M"] == 'prepared statement "s" does not exist'
        assert codes(client.ask(run("s") + SYNC)) == "2CZ"
        assert codes(client.ask(query("execute p"))) == "TDCZ"
