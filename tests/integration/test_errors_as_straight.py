# SPDX-License-Identifier: MIT
"""Errors that a session alone would get, on a server that lacks the statement.

Whatever is put in front of a client's message to prepare it there may fail as well;
what the client hears, and when, is what PostgreSQL says to a session of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import DATABASE, USER, MakePooler, Pooler
from tests.wire_client import SYNC, Message, WireClient, messages_in, parse, query

pytestmark = pytest.mark.timeout(60)

ELSEWHERE = "another server serves the client from here on"
GONE = "ALTER TABLE rows RENAME TO moved"
BACK = "ALTER TABLE moved RENAME TO rows"
Step = bytes | str
FAILED = [query("begin"), query("select 1/0")]
PARSED = parse("select a from rows where a = $1", "p") + SYNC
PREPARED = query("prepare p(int) as select a from rows where a = $1")


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


def compare(pooler: Pooler, postgres: Postgres, steps: list[Step]) -> None:
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


@pytest.mark.parametrize("prepared", [PARSED, PREPARED], ids=["parse", "prepare"])
@pytest.mark.parametrize("asked", QUERIES.values(), ids=list(QUERIES))
def test_a_command_fails_in_its_turn(
    make_pooler: MakePooler, rows: Postgres, prepared: bytes, asked: list[bytes]
) -> None:
    """What is answered before an EXECUTE that fails is answered before its error."""
    steps: list[Step] = [prepared, ELSEWHERE, GONE, *asked, query("rollback"), BACK]
    steps += [query("execute p(1)")]
    compare(make_pooler(default_pool_size=2), rows, steps)
