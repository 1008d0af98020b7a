# SPDX-License-Identifier: MIT
"""Several commands in one Query: what they do to names, each in its turn."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from pooler.session.records import ServerState
from tests.reference.backend_ref import Backend
from tests.unit.test_prepare import World, error_of
from tests.wire_client import (
    SYNC,
    bind,
    codes,
    execute,
    message,
    messages_in,
    parse,
    query,
)

Make = Callable[..., World]


@pytest.fixture
def make(probe: ModuleType) -> Make:
    def world(clients: int = 2, servers: int = 1, most: int = 100) -> World:
        return World(probe.Bench(8, (), most), clients, servers)

    return world


def sent_to_server(world: World, raw: bytes, piece: int = 1 << 20) -> bytes:
    for at in range(0, len(raw), piece):
        world.bench.client_feed(0, raw[at : at + piece])
    sent = world.bench.take_sent()
    return b"".join(data for kind, _, data in sent if kind == "server")


# Each is a session: what it asks, one Query after the other.
SESSIONS = {
    "behind begin": ["prepare p as one", "begin; execute p; commit"],
    "behind anything": ["prepare p as one", "two; execute p;; execute p; three"],
    "made and used": ["one; prepare p as two; execute p", "execute p"],
    "made, dropped, made": [
        "prepare a as one; execute a; deallocate a; prepare a as two; execute a",
        "execute a",
    ],
    "same text again": [
        "prepare a as one; execute a; deallocate a; prepare a as one; execute a",
        "execute a; deallocate a",
        "execute a",
    ],
    "one text, two names": [
        "prepare a as one; prepare b as one; execute a; execute b",
        "deallocate a; execute b; execute b",
        "execute b",
        "execute a",
    ],
    "one text, dropped twice": [
        "prepare a as one",
        "prepare b as one",
        "execute a; deallocate a; execute b; deallocate b; execute b",
        "execute a",
    ],
    "name is taken": [
        "prepare a as one",
        "two; prepare a as three; execute a; prepare b as two",
        "execute a",
        "execute b",
    ],
    "name is taken behind a use": [
        "prepare a as one; execute a; prepare a as one; two",
        "execute a",
    ],
    "fails in the middle": [
        "prepare a as one; prepare b as two; fail; prepare c as three",
        "execute a",
        "execute b",
        "execute c",
        "prepare c as four; execute c",
    ],
    "dropped before it fails": [
        "prepare a as one; prepare b as two",
        "deallocate a; fail; deallocate b",
        "execute b",
        "execute a",
        "prepare a as three",
        "execute a",
    ],
    "dropped and made, fails before": [
        "prepare a as one",
        "fail; deallocate a; prepare a as two; execute a",
        "execute a",
    ],
    "dropped and made, fails between": [
        "prepare a as one",
        "deallocate a; fail; prepare a as two",
        "execute a",
        "prepare a as two; execute a",
    ],
    "syntax error": [
        "prepare a as one",
        "deallocate a; prepare b as two; bad",
        "execute a",
        "execute b",
    ],
    "prepare of a syntax error": ["one; prepare a as bad", "execute a"],
    "all are forgotten": [
        "prepare a as one; prepare b as two; deallocate all; prepare a as three; "
        "execute a",
        "execute a",
        "execute b",
    ],
    "all are forgotten, fails before": [
        "prepare a as one; prepare b as two",
        "fail; deallocate all; prepare a as three",
        "execute a; execute b",
    ],
    "all are forgotten, fails behind": [
        "prepare a as one; prepare b as two",
        "prepare c as three; deallocate all; prepare b as three; fail; prepare d as x",
        "execute b",
        "execute a",
        "execute c",
        "execute d",
    ],
    "in a transaction": [
        "begin; prepare a as one; fail",
        "execute a; rollback",
        "rollback; execute a",
        "execute a; begin",
        "savepoint s; deallocate a; release s",
        "commit",
        "execute a",
    ],
    "in a failed transaction": [
        "prepare a as one",
        "begin; prepare b as two; prepare c as three; fail",
        "prepare a as bad",
        "prepare a as one",
        "execute a",
        "deallocate a",
        "deallocate a; deallocate b",
        "rollback",
        "execute a; execute b",
    ],
    "unknown names": ["one; execute nobody; two", "one; deallocate nobody; two"],
    "like ours": ["one; execute p_1; two", "one; deallocate p_1; two"],
    "nothing": ["", ";", " ; ; "],
    "drop and again, many times": [
        "; ".join("prepare a as one; execute a; deallocate a" for _ in range(40)),
        "execute a",
    ],
}


@pytest.mark.parametrize("most", [1, 2, 100])
@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize("session", SESSIONS.values(), ids=list(SESSIONS))
def test_answers_are_those_of_a_session_alone(
    make: Make, session: list[str], piece: int, most: int
) -> None:
    world = make(most=most)
    alone = Backend()
    for asked in session:
        said = b""
        raw = query(asked)
        for at in range(0, len(raw), piece):
            said += world.ask(0, raw[at : at + piece])
        assert said == alone.feed(raw), asked
        assert set(world.bench.client_names(0)) == {
            name.encode() for name in alone.named
        }
        known = {name.decode() for name in world.bench.server_names(0)}
        assert known <= set(world.backends[0].named)
        assert world.bench.effects(0) == 0
    names = [query(f"deallocate {name}") for name in alone.named]
    for raw in [query("rollback"), *names]:
        assert world.ask(0, raw) == alone.feed(raw)
    assert world.bench.stray(0) is False


@pytest.mark.parametrize("session", SESSIONS.values(), ids=list(SESSIONS))
def test_answers_in_one_pipeline(make: Make, session: list[str]) -> None:
    world = make()
    raw = b"".join(map(query, session))
    assert world.ask(0, raw) == Backend().feed(raw)


@pytest.mark.parametrize("session", SESSIONS.values(), ids=list(SESSIONS))
def test_answers_on_ever_other_servers(make: Make, session: list[str]) -> None:
    """Another client takes the server each time that it is free."""
    world = make(clients=3, servers=2)
    alone = Backend()
    for i, asked in enumerate(session):
        if alone.status == "I":
            world.ask(1 + i % 2, query("rollback"))
            world.ask(2 - i % 2, query("begin"))
        assert world.ask(0, query(asked)) == alone.feed(query(asked)), asked


@pytest.mark.parametrize("session", SESSIONS.values(), ids=list(SESSIONS))
@pytest.mark.parametrize("cut", [1, 5, 9, 14])
def test_client_leaves_in_the_middle(make: Make, session: list[str], cut: int) -> None:
    """Nothing of its names is left, however far the server has come."""
    world = make(clients=2, servers=1)
    for asked in session[:-1]:
        world.ask(0, query(asked))
    world.bench.client_feed(0, query(session[-1]))
    answer = b""
    for kind, _, data in world.bench.take_sent():
        if kind == "server":
            answer += world.backends[0].feed(data)
    world.bench.server_feed(0, answer[:cut])
    world.bench.drop_client(0)
    world.bench.drop_server(0)
    world.bench.drop_client(1)
    assert world.bench.statement_counts() == (0, 0)


@pytest.mark.parametrize("count", [17, 2000])
def test_as_many_names_as_there_are(make: Make, count: int) -> None:
    """psycopg2's execute_batch."""
    world = make()
    world.ask(0, query("prepare p as one"))
    raw = query("; ".join(["execute p"] * count))
    assert codes(messages_in(world.ask(0, raw))) == "DC" * count + "Z"
    raw = query("; ".join(f"prepare a{i} as x{i}; execute a{i}" for i in range(count)))
    assert codes(messages_in(world.ask(0, raw))) == "CDC" * count + "Z"
    assert len(world.bench.client_names(0)) == count + 1
    world.ask(0, query("deallocate all"))
    assert world.bench.client_names(0) == {}


def test_more_statements_than_a_server_may_have(make: Make) -> None:
    """What the Query needs is not dropped in front of it."""
    world = make(most=2)
    for i in range(9):
        world.ask(0, query(f"prepare a{i} as x{i}"))
    raw = query("; ".join(f"execute a{i}" for i in range(9)))
    said = world.ask(0, raw)
    assert codes(messages_in(said)) == "DC" * 9 + "Z"
    world.ask(0, query("execute a0"))
    world.ask(0, query("prepare b as y"))
    assert len(world.bench.server_names(0)) == 2


@pytest.mark.parametrize("piece", [1, 13, 1 << 20])
def test_what_the_server_is_sent(make: Make, piece: int) -> None:
    world = make()
    world.ask(0, query("prepare a as one"))
    asked = "begin; select 'execute a'; execute A(1) ; commit"
    sent = "begin; select 'execute a'; execute \"p_1\"(1) ; commit"
    assert sent_to_server(world, query(asked), piece) == query(sent)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("execute b", "b"),
        ("one; execute b", "b"),
        ("execute a; execute b", "b"),
        ("execute b; execute a", "a"),
        ("execute a; deallocate a; execute b", "b"),
        ("deallocate b", "b"),
    ],
)
def test_error_names_what_its_own_command_names(
    make: Make, asked: str, name: str
) -> None:
    """Though two names are of one text."""
    world = make()
    world.ask(0, query("prepare a as one"))
    world.ask(0, query("prepare b as one"))
    raw = sent_to_server(world, query(asked))
    sent = raw.decode().split('"')
    before = asked.count(";")
    fields = f'SERROR\0C42601\0Mof "{sent[-2]}"\0REvaluateParams\0\0'
    ready = message("Z", b"I")
    ours = list(messages_in(raw))[:-1]  # PREPAREs in front of it
    answer = (message("C", b"PREPARE\0") + ready) * len(ours)
    answer += b"".join(
        message("C", b"DEALLOCATE\0" if "deall" in one else b"SELECT 1\0")
        for one in asked.split(";")[:before]
    )
    answer += message("E", fields.encode()) + ready
    _, said, _ = world.bench.server_feed(0, answer)
    assert error_of(said)["M"] == f'of "{name}"'


@pytest.mark.parametrize(
    "asked",
    [
        "execute a(@)",
        'é; execute "a"(1) ; execute a(@); execute a',
        "@; execute a; execute a",
        "execute a; execute @a",
        'prepare "é" as @',
        "é€; prepare b as x; @",
    ],
)
def test_position_of_an_error_is_the_clients(make: Make, asked: str) -> None:
    world = make()
    world.ask(0, query("prepare a as one"))
    sent = sent_to_server(world, query(asked.replace("@", "")))[5:-1].decode()
    text = asked.replace("@", "")
    at = asked.index("@")
    there = len(sent) - (len(text) - at)
    if asked.startswith("@"):
        there = 0
    elif "@);" in asked:
        there = sent.rindex(")")
    elif "@a" in asked:
        there = sent.rindex('"p_1"')
    elif asked.startswith("execute a(@"):
        there = sent.index(")")
    fields = f"SERROR\0C42601\0P{there + 1}\0\0"
    answer = message("E", fields.encode()) + message("Z", b"I")
    _, said, _ = world.bench.server_feed(0, answer)
    assert error_of(said)["P"] == str(at + 1)


@pytest.mark.parametrize(
    ("asked", "own", "told"),
    [
        ("one; execute a; two", "26000 p_1", "42P01"),
        ("execute a", "26000 p_1", "42P01"),
        ("one; execute a", "26000 p_11", "26000"),  # another one
        ("one; execute a", "26000 p_1?", "26000"),
        ("fail; execute a", "22012 nothing", "22012"),
        ("one; execute a", "25P02 block", "42P01"),  # by what has failed in front
    ],
)
def test_what_fails_in_front_is_told_when_the_query_comes_to_it(
    make: Make, asked: str, own: str, told: str
) -> None:
    world = make(servers=2)
    world.ask(0, parse("one", "a"), SYNC)
    world.ask(1, query("begin"))  # it takes the server that has it
    ready = message("Z", b"I")
    world.bench.client_feed(0, query(asked))
    state, name = own.split()
    [(_, server, _)] = world.bench.take_sent()
    routine = "RFetchPreparedStatement" if state == "26000" else "Rexec_simple_query"
    errors = [
        message("E", f"SERROR\0C{fields}\0\0".encode())
        for fields in ("42P01\0Mno table", f'{state}\0M"{name}"\0{routine}')
    ]
    done = message("C", b"SELECT 1\0") * asked.startswith("one")
    answer = errors[0] + ready + done + errors[1] + ready
    _, said, _ = world.bench.server_feed(server, answer)
    assert codes(messages_in(said)) == "C" * asked.startswith("one") + "EZ"
    assert error_of(said)["C"] == told


def test_what_is_prepared_in_a_block_is_guarded(make: Make) -> None:
    """A failure there shall not fail what the Query does before it comes to it."""
    world = make(servers=2)
    for name in "ab":
        world.ask(0, parse("one", name), SYNC)
    world.ask(0, parse("two", "c"), SYNC)
    world.ask(1, query("begin"))  # it takes the server that has them
    world.ask(0, query("begin"))
    sent = [
        one.body for one in messages_in(sent_to_server(world, query("x; execute a")))
    ]
    assert sent[0] == b"SAVEPOINT p_guard\0"
    assert sent[1].startswith(b"p_1\0one\0")
    assert sent[3:] == [
        b"ROLLBACK TO p_guard; RELEASE p_guard\0",
        b'x; execute "p_1"\0',
    ]


@pytest.mark.parametrize("asked", ["execute a", "execute a; x", "x; deallocate a"])
@pytest.mark.parametrize("begun", [True, False])
def test_what_needs_no_guard(make: Make, asked: str, begun: bool) -> None:
    """The first command fails the block as well; outside of one there is none."""
    world = make(servers=2)
    world.ask(0, parse("one", "a"), SYNC)
    world.ask(1, query("begin"))
    if begun:
        world.ask(0, query("begin"))
    else:
        asked = "x; execute a"
    assert b"SAVEPOINT" not in sent_to_server(world, query(asked))


LONG = "n" * 70


@pytest.mark.parametrize(
    ("asked", "noticed"),
    [
        (f"prepare {LONG} as x", 1),
        (f"prepare b as x; prepare {LONG} as x; execute {LONG}", 2),
        (f"execute {LONG}", 0),  # not replaced: the Query itself has it read
        (f"select {LONG}; prepare b as x", 0),
        (f"prepare {LONG[:63]} as x", 0),
    ],
)
def test_a_name_that_is_cut_is_noticed_by_postgres(
    make: Make, asked: str, noticed: int
) -> None:
    world = make()
    raw = sent_to_server(world, query(asked))
    sent = [one.body for one in messages_in(raw)]
    text = f"p_notice\0ROLLBACK TO {LONG}\0\0\0".encode()
    assert [one for one in sent if b"p_notice" in one[:8]] == [text] * noticed
    notice = message("N", b"SNOTICE\0C42622\0Mcut\0\0")
    ready = message("Z", b"I")
    said_to = {"P": notice + message("1"), "C": message("3"), "S": ready, "Q": b""}
    answer = b"".join(said_to[one.code] for one in messages_in(raw))
    answer += notice + message("E", b"SERROR\0C42601\0Mno\0\0") + ready
    _, said, _ = world.bench.server_feed(0, answer)
    assert codes(messages_in(said)) == "N" * noticed + "NEZ"


def test_limit_is_met_in_the_middle(make: Make) -> None:
    """What stands before it is carried out, as if its name were taken."""
    world = make()
    world.bench.limit_statements(client_count=2)
    world.ask(0, query("prepare a as one"))
    said = world.ask(
        0, query("deallocate a; prepare b as x; prepare c as y; prepare d as z")
    )
    assert error_of(said)["C"] == "53400"
    assert codes(messages_in(said)) == "CCCEZ"
    assert set(world.bench.client_names(0)) == {b"b", b"c"}
    assert b"y" in world.ask(0, query("execute c"))
    said = world.ask(0, query("prepare d as z"))
    assert error_of(said)["C"] == "53400"
    assert codes(messages_in(said)) == "EZ"
    assert codes(messages_in(world.ask(0, query("begin; prepare d as v")))) == "CEZ"
    assert codes(messages_in(world.ask(0, query("rollback; deallocate c")))) == "CCZ"
    assert (
        codes(messages_in(world.ask(0, query("prepare d as z; execute d")))) == "CDCZ"
    )


def test_limit_is_met_behind_all_that_is_forgotten(make: Make) -> None:
    """No name is surely taken there: nothing of the Query is carried out."""
    world = make()
    world.bench.limit_statements(client_count=2)
    world.ask(0, query("prepare a as one"))
    said = world.ask(
        0, query("deallocate all; prepare b as x; prepare c as y; prepare d as z")
    )
    assert error_of(said)["C"] == "53400"
    assert codes(messages_in(said)) == "EZ"
    assert list(world.bench.client_names(0)) == [b"a"]
    assert b"one" in world.ask(0, query("execute a"))


@pytest.mark.parametrize("own", ["42703", "42P05 p_0x", "42P05 x"])
def test_another_error_than_that_of_the_limit(make: Make, own: str) -> None:
    world = make()
    world.bench.limit_statements(client_count=1)
    world.ask(0, query("prepare a as one"))
    state, *name = own.split()
    sent = sent_to_server(world, query("prepare b as x"))
    assert codes(messages_in(sent)) == "CPSQ"
    fields = f'SERROR\0C{state}\0M"{"".join(name)}"\0RStorePreparedStatement\0\0'
    ready = message("Z", b"I")
    answer = message("3") + message("1") + ready
    answer += message("E", fields.encode()) + ready
    _, said, _ = world.bench.server_feed(0, answer)
    assert error_of(said)["C"] == state


def test_tag_that_does_not_fit(make: Make) -> None:
    """Somebody has made a name that we do not know: the server is cleared."""
    world = make()
    world.bench.client_feed(0, query("one; prepare a as x; two"))
    world.bench.take_sent()
    tags = [b"SELECT 1\0", b"DEALLOCATE ALL\0", b"SELECT 1\0"]
    answer = b"".join(message("C", tag) for tag in tags) + message("Z", b"I")
    world.bench.server_feed(0, answer)
    assert world.bench.client_names(0) == {}
    assert world.bench.server_names(0) == []
    assert world.bench.effects(0) == 0


def test_names_of_the_protocol_are_the_same(make: Make) -> None:
    world = make(servers=2)
    world.ask(0, parse("one", "a"), SYNC)
    world.ask(1, query("begin"))
    said = world.ask(0, query("two; execute a; deallocate a; prepare a as three"))
    assert codes(messages_in(said)) == "DCDCCCZ"
    assert b"three" in world.ask(0, bind(statement="a") + execute() + SYNC)


def test_later_batches_wait_for_the_names(make: Make) -> None:
    world = make()
    raw = query("prepare a as one; fail; deallocate a") + parse("two", "a") + SYNC
    raw += query("execute a; deallocate a; prepare a as x") + query("execute a")
    assert world.ask(0, raw) == Backend().feed(raw)


# ------------------------------------------------------------ texts of errors


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ('C26000\0Mno "p_1"\0RFetchPreparedStatement\0', 'no "a"'),
        ('C26000\0Mno "p_1"\0', 'no "a"'),
        ("C26000\0Mnon « p_1 »\0RFetchPreparedStatement\0", "non « a »"),
        ("C26000\0Mnein »p_1«\0RFetchPreparedStatement\0", "nein »a«"),
        ('C26000\0Mno "x p_1"\0RFetchPreparedStatement\0', 'no "x p_1"'),
        ('C26000\0Mno "x""p_1"\0RFetchPreparedStatement\0', 'no "x""p_1"'),
        ('C42P05\0M"p_1" is there\0RStorePreparedStatement\0', '"a" is there'),
        ('C42601\0Mof "p_1"\0REvaluateParams\0', 'of "a"'),
        ('C42804\0Mof "p_1"\0REvaluateParams\0', 'of "p_1"'),
        ('C08P01\0Mbut "p_1"\0Rexec_bind_message\0', 'but "a"'),
        ('C22P02\0Minput: "p_1"\0Rpg_strtoint32_safe\0', 'input: "p_1"'),
        ('C42601\0Mnear "p_1"\0Rscanner_yyerror\0', 'near "p_1"'),
        ('C26000\0Mmine "p_1"\0Rexec_stmt_raise\0', 'mine "p_1"'),
        ('CP0001\0Mmine "p_1"\0', 'mine "p_1"'),
    ],
)
@pytest.mark.parametrize("asked", ["deallocate a", "two; execute a", "two"])
def test_only_what_postgres_says_of_a_statement_is_renamed(
    make: Make, fields: str, shown: str, asked: str
) -> None:
    """All else is a value of the user's, and so is every other field."""
    world = make()
    world.ask(0, query("prepare a as one"))
    world.bench.client_feed(0, query(asked))
    world.bench.take_sent()
    answer = message("C", b"SELECT 1\0") if ";" in asked else b""
    raw = f'SERROR\0D"p_1"\0W"p_1"\0{fields}\0'.encode()
    answer += message("E", raw) + message("Z", b"I")
    _, said, _ = world.bench.server_feed(0, answer)
    told = error_of(said)
    assert told.pop("M") == shown
    assert told["D"] == told["W"] == '"p_1"'


# ------------------------------------------------------------ behind an open batch

BAD = [bind(statement="nobody"), parse("bad"), parse("fail") + bind() + execute()]
GOOD = [b"", parse("one") + bind() + execute(), parse("one")]
FIRST = [b"", query("two"), query("two") + query("fail")]
NAMED = [
    "execute a",
    "deallocate a",
    "prepare a as three",
    "prepare c as three",
    "prepare c as one",
    "two; execute a; deallocate b",
    "deallocate all",
    "two; deallocate all; prepare b as one",
    "execute b; execute a",
]


def goes_on(world: World, said: bytes) -> bytes:
    """Carry on until nothing moves; what client 0 is sent."""
    while moved := world.bench.take_sent():
        for kind, where, data in moved:
            if kind == "client":
                said += data if where == 0 else b""
            elif answer := world.backends[where].feed(data):
                assert world.bench.server_feed(where, answer)[2] == "ok"
    return said


@pytest.mark.parametrize("before", GOOD + BAD)
@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("named", NAMED)
@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@pytest.mark.parametrize("piece", [11, 1 << 20])
def test_query_before_the_sync_of_a_batch(
    make: Make, before: bytes, first: bytes, named: str, late: bool, piece: int
) -> None:
    """If the batch fails, PostgreSQL skips all up to its Sync, and so do we."""
    world = make(servers=4)  # one that was sent a Query in an open batch is closed
    alone = Backend()
    for raw in (query("prepare a as one"), query("prepare b as four")):
        assert world.ask(0, raw) == alone.feed(raw)
    world.ask(1, query("begin"))  # the other server is used now: it lacks them
    raw = before + first + query(named) + query("five") + SYNC
    raw += query("execute b; execute a")
    expected = alone.feed(raw)
    said = b""
    for at in range(0, len(raw), piece):
        world.bench.client_feed(0, raw[at : at + piece])
        if not late:
            said = goes_on(world, said)
    said = goes_on(world, said)
    assert said == expected
    assert not any(map(world.bench.effects, range(4)))
    assert set(world.bench.client_names(0)) == {n.encode() for n in alone.named}
    assert b"three" in world.ask(0, query("prepare z as three; execute z"))


@pytest.mark.parametrize("said", ["two", "prepare a as two", "x" * 20_000])
@pytest.mark.parametrize("between", [b"", message("C", b"S\0"), parse("three")])
@pytest.mark.parametrize("piece", [1, 11, 1 << 20])
@pytest.mark.parametrize("fails", [True, False], ids=["fails", "succeeds"])
def test_a_query_that_is_skipped_leaves_the_unnamed_statement(
    make: Make, said: str, between: bytes, piece: int, fails: bool
) -> None:
    """Behind an error and before the Sync PostgreSQL never comes to it."""
    world = make(servers=2)  # one that was sent a Query in an open batch is closed
    alone = Backend()
    assert world.ask(0, parse("one") + SYNC) == alone.feed(parse("one") + SYNC)
    raw = bind(statement="nobody" if fails else "") + between + query(said) + SYNC
    raw += bind() + execute() + SYNC
    expected = alone.feed(raw)
    for at in range(0, len(raw), piece):
        world.bench.client_feed(0, raw[at : at + piece])
    assert goes_on(world, b"") == expected
    assert (b"one" in expected) == fails


@pytest.mark.parametrize("said", ["two", "execute b"])
@pytest.mark.parametrize("behind", [b"", message("C", b"Snobody\0")])
@pytest.mark.parametrize("cut", [1 << 20, 40, 7, 1])
def test_a_query_goes_on_once_a_describe_before_it_is_answered(
    make: Make, said: str, behind: bytes, cut: int
) -> None:
    """Whatever is the last to be answered, and in whatever pieces."""
    world = make(servers=2)
    alone = Backend()
    for raw in (
        parse("one", "a") + SYNC,
        query("prepare b as three"),
        parse("four") + SYNC,
    ):
        assert world.ask(0, raw) == alone.feed(raw)
    world.ask(1, query("begin"))  # takes the server that has them
    raw = message("D", b"Sa\0") + behind + query(said) + SYNC
    expected = alone.feed(raw)
    world.bench.client_feed(0, raw)
    said_here = b""
    while moved := world.bench.take_sent():
        for kind, where, data in moved:
            if kind == "client":
                said_here += data
                continue
            answer = world.backends[where].feed(data)
            for at in range(0, len(answer), cut):
                world.bench.server_feed(where, answer[at : at + cut])
    assert said_here == expected


@pytest.mark.parametrize("how", ["Parse", "PREPARE", "PREPARE behind another"])
@pytest.mark.parametrize("state", ["", "begin", "begin; fail"])
@pytest.mark.parametrize("text", ["two", "bad", "rollback"])
def test_a_name_is_taken_whatever_has_become_of_its_text(
    make: Make, how: str, state: str, text: str
) -> None:
    """Its server is gone, and where it goes on nobody could prepare it any more."""
    world = make(servers=2)
    alone = Backend()
    assert world.ask(0, parse("one", "a"), SYNC) == alone.feed(parse("one", "a") + SYNC)
    world.ask(1, query("begin"))  # takes the server that has it
    asked = {
        "Parse": parse(text, "a") + SYNC,
        "PREPARE": query(f"prepare a as {text}"),
        "PREPARE behind another": query(f"rollback; prepare a as {text}"),
    }[how]
    for raw in (query(state), asked, asked, query("rollback"), query("execute a")):
        expected = alone.feed(raw)
        assert world.ask(0, raw) == expected
        assert not any(map(world.bench.effects, range(2)))
    assert b"one" in expected


def test_portal_is_there_behind_a_query_that_waits(make: Make) -> None:
    """Its answers are asked for by a Flush, and no Sync ends its transaction."""
    world = make(servers=2)
    world.ask(0, query("prepare a as one"))
    world.ask(1, query("begin"))
    world.bench.client_feed(0, parse("two") + bind() + execute() + query("execute a"))
    sent = [data for kind, _, data in world.bench.take_sent() if kind == "server"]
    assert codes(messages_in(b"".join(sent))) == "PBEH"


@pytest.mark.parametrize("piece", [100, 5000, 20_000, 1 << 20])
@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("first", ["one", "fail", "begin", "deallocate a"])
def test_long_parse_behind_a_batch_that_is_under_way(
    make: Make, piece: int, name: str, first: str
) -> None:
    """It waits for the answer, and then its name is taken or not."""
    world = make(servers=2)
    alone = Backend()
    raw = parse("one", "a") + SYNC
    assert world.ask(0, raw) == alone.feed(raw)
    world.ask(1, query("begin"))  # takes the server that has it
    long = "x" * 17_000
    raw = query(first) + parse(long, name) + bind(statement=name) + execute() + SYNC
    raw += query("one")
    expected = alone.feed(raw)
    for at in range(0, len(raw), piece):
        world.bench.client_feed(0, raw[at : at + piece])
    said = goes_on(world, b"")
    assert said == expected
    assert world.bench.effects(0) == world.bench.effects(1) == 0


def test_client_that_leaves_while_its_message_waits(make: Make) -> None:
    world = make(servers=2)
    world.ask(0, parse("one", "a") + SYNC)
    world.ask(1, query("begin"))
    raw = query("one") + parse("x" * 17_000, "a")
    for at in range(0, len(raw), 5000):
        world.bench.client_feed(0, raw[at : at + 5000])
    world.bench.drop_client(0)
    world.bench.drop_client(1)
    for i in range(2):
        world.bench.drop_server(i)
    assert world.bench.statement_counts() == (0, 0)


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    "sql", ["discard all", "deallocate all", "do $$ $$; execute a"]
)
def test_a_query_that_waits_has_changed_nothing_yet(
    make: Make, piece: int, sql: str
) -> None:
    """It waits for the PREPARE before it to be answered, and goes out then."""
    world = make()
    sent_to_server(world, query("prepare a as one"))
    assert sent_to_server(world, query(sql), piece) == b""
    answer = message("C", b"PREPARE\0") + message("Z", b"I")
    world.bench.server_feed(0, answer[:-6])
    assert world.bench.effects(0) == 1
    world.bench.server_feed(0, answer[-6:])
    # Nothing is doubtful in front of the Query, so nothing is prepared anew.
    assert codes(messages_in(sent_to_server(world, b""))) == "Q"


def test_what_a_query_needs_may_be_gone_behind_it(make: Make) -> None:
    """DO may hide DEALLOCATE ALL, behind an EXECUTE of the same Query."""
    world = make()
    world.ask(0, query("prepare a as one"))
    sent = sent_to_server(world, query("execute a; do $$ $$"))
    assert codes(messages_in(sent)) == "Q"
    assert world.bench.server_names(0) == []


@pytest.mark.parametrize("piece", [1, 9, 1 << 20])
def test_a_query_without_an_end_changes_nothing(probe: ModuleType, piece: int) -> None:
    """PostgreSQL refuses it before it reads a command."""
    bench = probe.Bench(8, (), 100, clean_changed=True)
    world = World(bench, 1, 1)
    sent_to_server(world, message("Q", b"set a = 1"), piece)
    bench.server_feed(0, message("E", b"SERROR\0C08P01\0Mx\0\0") + message("Z", b"I"))
    assert (bench.left(0), bench.kept(0)) == (0, None)


@pytest.mark.parametrize("piece", [1, 9, 1 << 20])
def test_a_query_without_an_end_does_not_wait(make: Make, piece: int) -> None:
    """It has no names, because it never runs."""
    world = make()
    sent_to_server(world, query("prepare a as one"))
    wrong = message("Q", b"prepare a as two")
    assert sent_to_server(world, wrong, piece) == wrong


@pytest.mark.parametrize("piece", [1, 9, 1 << 20])
def test_a_server_stays_if_a_query_in_an_open_batch_was_not_sent(
    probe: ModuleType, piece: int
) -> None:
    """PostgreSQL may be left in a strange state by it, but it has only waited."""
    world = World(probe.Bench(8, (), 100, True), 1, 1)
    sent_to_server(world, parse("one") + bind())
    waits = sent_to_server(world, query("prepare a as one; execute a"), piece)
    assert codes(messages_in(waits)) == "H"
    world.bench.drop_client(0)
    assert world.bench.server_state(0)[0] == ServerState.SERVER_TESTED
