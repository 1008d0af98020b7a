# SPDX-License-Identifier: MIT
"""SQL that names prepared statements, before a real PostgreSQL and straight to it.

Whatever a session asks, it must be told the same, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import (
    DATABASE,
    ENVIRONMENT,
    USER,
    MakePooler,
    Pooler,
)
from tests.wire_client import Message, WireClient, codes, query

pytestmark = pytest.mark.timeout(60)

LONG = "x" * 200_000

SESSIONS: dict[str, list[str]] = {
    "behind begin": [
        "begin; prepare p(int) as select $1 + 1; execute p(1); commit",
        "set work_mem = '5MB'; execute p(1); reset work_mem",
        "execute p(1); select 1/0; deallocate p",
        "execute p(2)",
    ],
    "psqlODBC": [
        'prepare "_PLAN0" as select 1',
        'begin;savepoint s1;execute "_PLAN0";release s1',
        'savepoint s1;deallocate "_PLAN0";release s1',
        'savepoint s1;execute "_PLAN0";release s1',
        "rollback to s1;release s1",
        'prepare "_PLAN0" as select 2; commit',
        'execute "_PLAN0"',
    ],
    "execute_batch": [
        "prepare p(int, text) as select $1, $2",
        ";".join(f"execute p({i}, 'a;b')" for i in range(500)),
    ],
    "literals": [
        r"select ';', 'it''s; \', E'\';', U&'d!0061;' uescape '!', $$;$$, $a$;$b$;$a$;"
        ' prepare a as select 1 /* ; /* */ ; */ as ";" -- ;\n; execute a',
        "select 'a'\n'b;\\'; execute a",
        "set standard_conforming_strings = off; set escape_string_warning = off",
        r"select 'it\'s; execute a'; execute a",
        r"select E'a'" + "\n" + r"'\'; execute a'; execute a; select B'101', N'\';'",
        "reset standard_conforming_strings; reset escape_string_warning",
        r"select '\'; execute a; select '\'",
    ],
    "names": [
        r'prepare U&"d\0061t\+000061" as select 1; execute data; deallocate "data"',
        'prepare U&"!00e9!!" uescape \'!\' as select 2; execute "é!"',
        "prepare " + "n" * 62 + "é as select 3; execute " + "n" * 62,
        "execute " + "n" * 62 + "è; deallocate " + "N" * 62 + "ééé",
        'prepare a$1_ü as select 4; execute A$1_ü; execute "a$1_ü"',
        'prepare "q""x" as select 5; execute "q""x"; deallocate prepare "q""x"',
        "prepare select as select 1",
        "prepare left as select 1",
        'prepare "left" as select 6; execute "left"; execute left',
        "prepare abs as select 7; execute abs; prepare transaction as select 8",
        "execute transaction; deallocate prepare; deallocate transaction",
        r'execute U&"\00"',
        'execute "abs',
        'execute ""',
        'execute U&"abs""',
    ],
    "long names, not replaced": [
        "execute " + "n" * 70 + "; deallocate " + "n" * 70,
        "prepare " + "n" * 70 + " as select oops",
        "begin; prepare " + "m" * 70 + " as select 1",
        "select 1/0",
        "execute " + "m" * 70,
        "rollback; set client_min_messages = warning",
        "execute " + "m" * 80,
        "reset client_min_messages; select 1; execute " + "m" * 64,
        'deallocate "' + "m" * 64 + '"; execute ' + "m" * 64,
    ],
    "what has semicolons": [
        "create temp table t (a int); prepare a as select count(*) from t",
        "create rule r as on insert to t where new.a > 5 do (delete from t where a = 1;"
        " delete from t where a = 2); execute a; insert into t values (1), (7)",
        "execute a; drop table t",
        "execute a",
    ],
    "create table as": [
        "prepare p(int) as select $1 as x; create temp table t as execute p(7)",
        "select x + 0 as y from t; create temp table if not exists t as execute p(8);"
        "drop table t",
        "explain (costs off) create temp table t as execute p(9)",
        "explain (costs off) execute p(1); explain execute nobody",
        "create temp table t as execute p(10) with no data; select x + 0 as y from t",
        "drop table t; create temp table t(as_ int) as execute p(1); drop table t",
    ],
    "one text, two names": [
        "prepare a as select 1; prepare b as select 1; deallocate a; execute b",
        "execute a",
        "prepare a as select 1; execute a; execute b; deallocate b; deallocate a",
        "execute b",
        "prepare a as select 1; deallocate a; prepare a as select 1; execute a",
    ],
    "taken": [
        "prepare a as select 1",
        "select 0; prepare a as select 2; select 3",
        "select 0; prepare a as select oops; select 3",
        "execute a; execute a(1)",
        "prepare a as select 1",
    ],
    "fails in the middle": [
        "prepare a as select 1; prepare b as select 2; select 1/0;"
        "prepare c as select 3",
        "execute a; execute b; execute c",
        "prepare c as select 3; execute c",
        "deallocate a; select 1/0; deallocate b",
        "execute b; execute a",
        "deallocate all; select 1/0",
        "execute b",
        "prepare a as select 1; select 1/0; deallocate all",
        "execute a; discard all",
        "execute a",
    ],
    "in a transaction that fails": [
        "begin; prepare a as select 1; select 1/0; execute a",
        "execute a",
        "rollback; execute a",
        "begin; savepoint s; deallocate a; select 1/0",
        "rollback to s; execute a",
        "commit",
    ],
    "like ours": [
        "prepare a as select 1; select 'pooler_0_1'::int",
        "execute pooler_0_1",
        "select pooler_0_1; execute a",
        "do $$ begin raise 'prepared statement \"pooler_0_1\" is mine'"
        " using errcode = '26000', detail = 'pooler_0_1'; end $$",
        "execute a(1)",
    ],
    "positions": [
        "prepare a(int) as select $1",
        "select 'é€'; execute a(1); execute a(oops); execute a(1)",
        "execute a(oops)",
        "execute a(1); execute a(1, 2)",
        "execute a(1); oops",
        "prepare é as select oops",
        "execute a(1) oops",
        "select 1; prepare b as select oops; execute a(1)",
        "execute a(1); select oops; execute a(1)",
    ],
    "long": [
        f"select length('{LONG}'); prepare a as select length('{LONG}'); execute a",
        "execute a; deallocate a; execute a",
    ],
    "nothing": ["", " ; ;", "-- ;", "/* ; */;"],
}


@contextmanager
def straight(postgres: Postgres) -> Iterator[WireClient]:
    with WireClient(postgres.port).login(USER, DATABASE) as client:
        yield client


def shown(answer: list[Message]) -> list[object]:
    """An answer, errors field by field.

    Left out are parameters, told to the client when it is given another server.
    """
    return [
        one.fields if one.code in "EN" else (one.code, one.body)
        for one in answer
        if one.code != "S"
    ]


def compare(pooler: Pooler, postgres: Postgres, session: list[str], size: int) -> None:
    with straight(postgres) as alone, pooler.client() as client:
        for asked in session:
            raw = query(asked)
            if size:
                client.send_split(raw[:200], size)
                raw = raw[200:]
            client.send(raw)
            answer = client.read_until("Z")
            assert shown(answer) == shown(alone.ask(query(asked))), asked[:300]
        for name in ("a", "b"):
            last = query(f"deallocate {name}")
            assert codes(client.ask(last)) == codes(alone.ask(last))


@pytest.mark.parametrize("size", [0, 1, 17])
@pytest.mark.parametrize("session", SESSIONS.values(), ids=list(SESSIONS))
def test_as_straight(
    make_pooler: MakePooler, postgres: Postgres, session: list[str], size: int
) -> None:
    compare(make_pooler(default_pool_size=1), postgres, session, size)


@pytest.mark.parametrize("session", SESSIONS.values(), ids=list(SESSIONS))
def test_as_straight_on_servers_that_change(
    make_pooler: MakePooler, postgres: Postgres, session: list[str]
) -> None:
    """Each Query outside of a transaction meets the server that it met before last."""
    pooler = make_pooler(default_pool_size=3, max_prepared_statements=2)
    with (
        straight(postgres) as alone,
        pooler.client() as client,
        pooler.client() as one,
        pooler.client() as two,
    ):
        if any("temp table" in asked for asked in session):
            pytest.skip("a temporary table is one server's")
        status = b"I"
        for i, asked in enumerate(session):
            if status == b"I":
                holder, other = (one, two) if i % 2 else (two, one)
                other.ask(query("commit"))
                holder.ask(query("begin"))
            answer = client.ask(query(asked))
            assert shown(answer) == shown(alone.ask(query(asked))), asked[:300]
            status = answer[-1].body


def test_a_long_query_cannot_guess_the_name_of_another_clients_statement(
    make_pooler: MakePooler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind its first command a Query that is too long to be kept is not read."""
    monkeypatch.delitem(ENVIRONMENT, "POOLER_STATEMENT_NAMES")
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as client, pooler.client() as other:
        other.ask(query("prepare mine as select 'mine'; execute mine"))
        name = other.value("select name from pg_prepared_statements")
        assert re.fullmatch(r"pooler_[a-z0-9]{6}_[A-Za-z0-9_-]{22}", name)
        asked = f"select 1 /* {'x' * (1 << 20)} */; execute pooler_0_1"
        answer = client.ask(query(asked))
        assert [one.fields["C"] for one in answer if one.code == "E"] == ["26000"]
