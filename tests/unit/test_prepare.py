# SPDX-License-Identifier: MIT
"""Prepared statements over shared servers, by example.

What the state machine of tests/property cannot show: which messages go to the server,
limits, long messages, a batch that is sent again.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from tests.reference.backend_ref import Backend, Failure
from tests.wire_client import (
    FLUSH,
    SYNC,
    Message,
    bind,
    codes,
    describe,
    execute,
    message,
    messages_in,
    parse,
    query,
)
from tests.wire_client import text as cstring

PARSED, BOUND, CLOSED = message("1"), message("2"), message("3")
READY = message("Z", b"I")


def close(name: str, kind: str = "S") -> bytes:
    return message("C", kind.encode() + cstring(name))


def run(name: str = "") -> bytes:
    """Bind and Execute, and the Sync behind them."""
    return bind(statement=name) + execute() + SYNC


class World:
    """A pool whose servers are reference backends, which answer at once."""

    def __init__(self, bench: Any, clients: int, servers: int) -> None:
        self.bench = bench
        self.backends = [Backend() for _ in range(servers)]
        self.sent: list[Message] = []  # what the servers were sent by the last ``ask``
        self.seen = [b""] * clients
        for _ in range(servers):
            bench.add_server()
        for _ in range(clients):
            bench.add_client()

    def ask(self, client: int, *parts: bytes, held: bool = False) -> bytes:
        """Send, let everything be answered; what the client has got.

        ``held``: no server is free for it.
        """
        self.sent = []
        self.seen = [b"" for _ in self.seen]
        raw = b"".join(parts)
        _, _, got = self.bench.client_feed(client, raw)
        # align: the rest goes on with the answer
        assert got == "wait" if held else got in ("ok", "align")
        while moved := self.bench.take_sent():
            for kind, i, data in moved:
                if kind == "client":
                    self.seen[i] += data
                    continue
                self.sent += messages_in(data)
                answer = self.backends[i].feed(data)
                if answer:
                    assert self.bench.server_feed(i, answer)[2] == "ok"
        return self.seen[client]

    @property
    def went(self) -> str:
        """The type bytes of what the servers were sent."""
        return codes(self.sent)

    def stats(self, name: str) -> int:
        return int(self.bench.statement_stats()[name])


Make = Callable[..., World]


@pytest.fixture
def make(probe: ModuleType) -> Make:
    def world(clients: int = 2, servers: int = 1, most: int = 100) -> World:
        return World(probe.Bench(8, (), most), clients, servers)

    return world


def error_of(said: bytes) -> dict[str, str]:
    [failed] = [one for one in messages_in(said) if one.code == "E"]
    return failed.fields


# ------------------------------------------------------------ sharing


def test_one_text_is_parsed_once_for_all_clients(make: Make) -> None:
    world = make()
    first = world.ask(0, parse("one", "mine"), run("mine"))
    assert world.went == "PBES"
    assert world.ask(1, parse("one", "yours"), run("yours")) == first
    assert world.went == "BES"
    assert world.stats("server_parses") == 1
    assert world.stats("client_parses") == 2
    assert world.stats("hits") == 1
    assert world.stats("binds") == 2
    assert world.bench.statement_counts()[0] == 1


def test_statement_follows_its_client_to_another_server(make: Make) -> None:
    world = make(servers=2)
    world.ask(0, parse("one", "a"), SYNC)
    world.ask(1, query("begin"))  # takes the server that has it
    said = world.ask(0, run("a"))
    assert b"one" in said
    assert codes(messages_in(said)) == "2DCZ"
    assert world.went == "PBES"
    assert world.stats("client_parses") == 1


def test_same_text_under_other_values_is_another_statement(probe: ModuleType) -> None:
    """A literal may mean another date under another DateStyle."""
    tracked = ("application_name", "DateStyle")
    bench = probe.Bench(4, tracked, 100)
    bench.add_server((b"", b"ISO, MDY"))
    for values in [(b"", b"ISO, MDY"), (b"x", b"ISO, MDY"), (b"", b"ISO, DMY")]:
        i = bench.add_client(values)
        bench.client_feed(i, parse("one", "a") + SYNC)
        while requests := bench.server_state(0)[2]:
            if requests[0] == 0xC1:  # our SET
                told = zip(tracked, values, strict=True)
                said = [message("S", cstring(k) + v + b"\0") for k, v in told]
                bench.server_feed(0, b"".join(said) + READY)
            else:
                bench.server_feed(0, (PARSED if b"P" in requests else b"") + READY)
    assert bench.statement_counts()[0] == 2
    of = [bench.client_names(i)[b"a"][0] for i in range(3)]
    assert of[0] == of[1] != of[2]


def test_ten_thousand_clients_share_their_texts(probe: ModuleType) -> None:
    bench = probe.Bench(1, (), 200)
    bench.add_server()
    texts = [f"select {n} from a_table_with_a_name where x = $1" for n in range(100)]
    for i in range(50):
        bench.add_client()
        bench.client_feed(i, b"".join(parse(t, f"s{k}") for k, t in enumerate(texts)))
        bench.client_feed(i, SYNC)
        bench.server_feed(0, (PARSED * 100 if i == 0 else b"") + READY)
        assert len(bench.client_names(i)) == 100
    count, size = bench.statement_counts()
    assert count == 100
    assert size < 100 * 300


def test_batches_are_numbered_on_when_the_queue_has_shrunk(make: Make) -> None:
    world = make()
    world.ask(0, query("begin"))
    world.ask(0, parse("one", "a"), SYNC)
    for _ in range(3):
        said = world.ask(0, (bind(statement="a") + execute()) * 100, SYNC)
        assert codes(messages_in(said)) == "2DC" * 100 + "Z"


# ------------------------------------------------------------ made answers


def test_parse_and_sync_alone(make: Make) -> None:
    world = make()
    world.ask(0, parse("one", "a"), SYNC)
    assert world.ask(1, parse("one", "a"), SYNC) == PARSED + READY
    assert world.went == ""
    assert world.ask(1, close("a"), SYNC) == CLOSED + READY
    assert world.went == ""
    world.ask(1, query("begin"))
    assert world.ask(1, parse("one", "a"), SYNC)[:5] == PARSED
    assert world.went == "CPS"  # in a transaction block it could not be sent later


def test_parse_alone_needs_no_server_when_all_are_held(make: Make) -> None:
    """Some programs wait for it while their own connections hold every server."""
    world = make()
    world.ask(0, query("begin"))
    world.ask(0, parse("one", "a"), SYNC)
    assert world.ask(1, parse("one", "a"), SYNC, close("b"), SYNC) == (
        PARSED + READY + CLOSED + READY
    )
    for other in (parse("two", "b"), parse("one", "a"), parse("execute a", "c")):
        world.ask(1, other, SYNC, held=True)
        world.ask(0, query("commit"))
        assert codes(messages_in(world.seen[1]))[-1] == "Z"
        world.ask(0, query("begin"))


def test_answers_with_nothing_outstanding_come_at_the_flush(make: Make) -> None:
    world = make()
    world.ask(0, parse("one", "a"), SYNC)
    assert codes(messages_in(world.ask(1, parse("one", "a"), FLUSH))) == "1"
    assert world.ask(1, describe("a", "S"), FLUSH)[:1] == b"t"
    assert world.ask(1, close("a"), FLUSH) == CLOSED
    assert world.ask(1, SYNC) == READY


def test_made_answers_stand_in_order(make: Make) -> None:
    """ParseComplete comes before the answer to Describe, and behind what was before."""
    world = make()
    world.ask(0, parse("one", "a"), SYNC)
    said = world.ask(
        1, bind(), parse("one", "b"), SYNC, parse("one", "b"), describe("b", "S"), SYNC
    )
    assert codes(messages_in(said)) == "EZ" + "1tTZ"
    said = world.ask(
        1, close("b"), parse("two", "c"), parse("one", "b"), bind(statement="c"), SYNC
    )
    assert codes(messages_in(said)) == "3112Z"


def test_close_of_an_unknown_name(make: Make) -> None:
    world = make()
    assert world.ask(0, close("nobody"), SYNC) == CLOSED + READY


def test_close_of_a_portal_is_postgres_business(make: Make) -> None:
    world = make()
    world.ask(0, parse("one", "a"), SYNC)
    assert world.ask(0, close("a", "P"), SYNC) == CLOSED + READY
    assert world.went == "CS"
    assert b"one" in world.ask(0, run("a"))


def test_no_made_answer_in_a_failed_transaction(make: Make) -> None:
    world = make()
    world.ask(0, parse("one", "a"), SYNC)
    world.ask(1, query("begin"))
    world.ask(1, query("fail"))
    said = world.ask(1, parse("one", "b"), SYNC)
    assert error_of(said)["C"] == "25P02"
    assert world.ask(1, query("rollback"))[-1:] == b"I"
    assert error_of(world.ask(1, run("b")))["C"] == "26000"


# ------------------------------------------------------------ errors


def test_name_that_is_taken(make: Make) -> None:
    """The server says so, about its own name; the client reads the one it gave."""
    world = make()
    said = world.ask(0, parse("one", "a"), parse("two", "a"), run("a"))
    assert codes(messages_in(said)) == "1EZ"
    assert error_of(said) == {
        "S": "ERROR",
        "V": "ERROR",
        "C": "42P05",
        "M": 'prepared statement "a" already exists',
        "R": "StorePreparedStatement",
    }
    assert b"one" in world.ask(0, run("a"))


def test_syntax_error_goes_before_the_taken_name(make: Make) -> None:
    world = make()
    said = world.ask(0, parse("one", "a"), SYNC, parse("bad", "a"), SYNC)
    assert error_of(said)["C"] == "42601"


@pytest.mark.parametrize("more", ["", "; select 1"])
@pytest.mark.parametrize("end", ["skip", "lose"])
def test_name_that_is_given_closed_and_given_again_in_vain(
    make: Make, more: str, end: str
) -> None:
    """The whole batch is skipped, as its first Parse fails: nothing is left of it."""
    world = make()
    first = parse("bad" if end == "skip" else "one", "a")
    raw = first + close("a") + query(f"prepare a as two{more}")
    if end == "skip":
        assert codes(messages_in(world.ask(0, raw, SYNC))) == "EZ"
    else:
        world.bench.client_feed(0, raw)
        assert world.bench.drop_server(0) == 0
    assert world.bench.client_names(0) == {}


def test_failed_parse_leaves_nothing(make: Make) -> None:
    world = make()
    assert codes(messages_in(world.ask(0, parse("bad", "a"), run("a")))) == "EZ"
    assert world.bench.client_names(0) == {}
    assert world.bench.effects(0) == 0
    assert codes(messages_in(world.ask(0, parse("one", "a"), run("a")))) == "12DCZ"
    assert world.bench.server_names(0) != []


@pytest.mark.parametrize("name", ["nobody", "p_1", "p_", "p_1?", "p_99999999999"])
def test_unknown_name(make: Make, name: str) -> None:
    """Also one that looks like the server's own: it belongs to somebody else."""
    world = make()
    world.ask(1, parse("secret", "a"), SYNC)
    for asked in (run(name), describe(name, "S") + SYNC):
        said = world.ask(0, asked)
        assert error_of(said)["C"] == "26000"
        assert b"secret" not in said
        assert f'"{name}"' in error_of(said)["M"]
    assert b"secret" not in world.ask(0, query(f"execute {name}"))


def test_names_differ_in_63_bytes(make: Make) -> None:
    world = make()
    long = "x" * 63
    world.ask(0, parse("one", long + "aaa"), SYNC)
    assert b"one" in world.ask(0, run(long + "b"))
    said = world.ask(0, parse("two", long + "c"), SYNC)
    assert error_of(said)["M"] == f'prepared statement "{long}c" already exists'
    assert error_of(world.ask(0, run(long[1:])))["C"] == "26000"


def test_any_bytes_in_a_name(make: Make) -> None:
    world = make()
    raw = bytes(range(1, 64))
    body = raw + b"\0one\0\0\0"
    assert world.ask(0, message("P", body), SYNC) == PARSED + READY
    assert world.bench.client_names(0)[raw][1] == b"one\0\0\0"
    assert b"one" in world.ask(
        0, message("B", b"\0" + raw + b"\0" + b"\0" * 6), execute(), SYNC
    )


# ------------------------------------------------------------ unnamed statements


def test_text_that_is_parsed_again_without_a_name(make: Make) -> None:
    world = make()
    asked = parse("one") + bind() + execute() + SYNC
    for went, kept in (("PBES", 0), ("PBES", 1), ("BES", 1), ("BES", 1)):
        said = world.ask(0, asked)
        assert codes(messages_in(said)) == "12DCZ"
        assert world.went == went
        assert len(world.backends[0].named) == kept
    assert world.ask(1, asked) == said
    assert world.went == "BES"


def test_cache_of_unnamed_statements_can_be_off(make: Make) -> None:
    world = make()
    world.bench.limit_statements(cache_unnamed=False)
    for _ in range(4):
        world.ask(0, parse("one"), bind(), execute(), SYNC)
        assert world.went == "PBES"
    assert world.backends[0].named == {}


UNNAMED = (
    parse("one")
    + bind()
    + describe("", "P")
    + execute()
    + parse("two words")
    + bind()
    + execute()
    + SYNC
)


@pytest.mark.parametrize("cut", range(len(UNNAMED)))
@pytest.mark.parametrize("before", [b"", query("select 1"), parse("three", "n") + SYNC])
def test_unnamed_statements_go_as_they_came(
    probe: ModuleType, before: bytes, cut: int
) -> None:
    """Byte by byte, wherever the reads end, also behind what is sent otherwise."""
    bench = probe.Bench(1, (), 100)
    bench.limit_statements(cache_unnamed=False)
    bench.add_server()
    client = bench.add_client()
    for part in (before + UNNAMED[:cut], UNNAMED[cut:]):
        bench.client_feed(client, part)
    sent = b"".join(data for kind, _, data in bench.take_sent() if kind == "server")
    assert sent.endswith(UNNAMED)


@pytest.mark.parametrize("text", ["'now'", "today", "x 'tomorrow'"])
def test_text_that_is_read_anew_is_not_kept(make: Make, text: str) -> None:
    world = make()
    for _ in range(4):
        world.ask(0, parse(text), bind(), execute(), SYNC)
        assert world.went == "PBES"
    named = [parse(text, "a"), SYNC]
    world.ask(0, *named)
    assert world.went == "PS"
    world.ask(1, *named)
    assert world.went == "PS", "each client reads it at its own moment"


def test_unnamed_statement_outlives_its_link(make: Make) -> None:
    """Parse and Sync, then Bind, as lib/pq does; others use the server meanwhile."""
    world = make()
    for cache in (True, False):
        world.bench.limit_statements(cache_unnamed=cache)
        world.ask(0, parse("one"), describe(kind="S"), SYNC)
        world.ask(1, parse("two"), bind(), execute(), SYNC)
        said = world.ask(0, run())
        assert b"one" in said
        assert b"two" not in said


def test_nobody_gets_the_unnamed_statement_of_another(make: Make) -> None:
    world = make()
    world.ask(0, parse("secret"), SYNC)
    for asked in (run(), describe(kind="S") + SYNC):
        said = world.ask(1, asked)
        assert error_of(said)["C"] == "26000"


def test_query_and_close_end_the_unnamed_statement(make: Make) -> None:
    world = make()
    for end in (query("two"), close("") + SYNC):
        world.ask(0, parse("one"), SYNC)
        world.ask(0, end)
        assert error_of(world.ask(0, run()))["C"] == "26000"


@pytest.mark.parametrize("piece", [1, 1 << 20])
@pytest.mark.parametrize("named", [True, False])
def test_a_bind_waits_for_no_query_that_drops_nothing(
    make: Make, named: bool, piece: int
) -> None:
    """However the Query came: kept until it was whole, or in one piece."""
    world = make()
    if named:
        world.ask(0, parse("one", "a"), SYNC)
    raw = query("two") + run()
    for at in range(0, len(raw), piece):
        world.bench.client_feed(0, raw[at : at + piece])
    moved = world.bench.take_sent()
    sent = b"".join(data for kind, _, data in moved if kind != "client")
    assert codes(messages_in(sent)) == "QBES"


# ------------------------------------------------------------ eviction


def test_least_recently_used_statement_goes(make: Make) -> None:
    world = make(most=2)
    for name in ("one", "two"):
        world.ask(0, parse(name, name), SYNC)
    world.ask(0, run("one"))
    world.ask(0, parse("three", "three"), SYNC)
    assert world.went == "CPS"
    assert world.stats("evictions") == 1
    assert sorted(p.text for p in world.backends[0].named.values()) == ["one", "three"]
    assert b"two" in world.ask(0, run("two"))
    assert world.went == "CPBES"


def test_eviction_inside_a_batch(make: Make) -> None:
    """What was bound before is run before it is closed."""
    world = make(most=1)
    asked = b"".join(
        parse(t, t) + bind(statement=t, portal=t) + execute(t)
        for t in ("one", "two", "three")
    )
    said = world.ask(0, asked, run("one"))
    assert codes(messages_in(said)) == "12DC" * 3 + "2DCZ"
    assert len(world.backends[0].named) == 1


# ------------------------------------------------------------ limits


def test_too_many_statements(make: Make) -> None:
    world = make()
    world.bench.limit_statements(client_count=2)
    for name in ("a", "b"):
        world.ask(0, parse("one", name), SYNC)
    said = world.ask(0, parse("one", "c"), run("c"))
    assert codes(messages_in(said)) == "EZ"
    assert error_of(said)["C"] == "53400"
    assert "max_client_prepared_statements" in error_of(said)["M"]
    assert b"one" in world.ask(0, run("a"))
    said = world.ask(0, query("prepare d as one"))
    assert error_of(said)["C"] == "53400"
    assert codes(messages_in(said)) == "EZ"
    world.ask(0, close("a"), SYNC)
    assert codes(messages_in(world.ask(0, parse("one", "c"), run("c")))) == "12DCZ"


def test_statement_limit_fails_the_transaction(make: Make) -> None:
    world = make()
    world.bench.limit_statements(client_count=1)
    world.ask(0, parse("one", "a"), SYNC)
    world.ask(0, query("begin"))
    assert world.ask(0, parse("one", "b"), SYNC)[-1:] == b"E"
    assert error_of(world.ask(0, query("one")))["C"] == "25P02"


def test_too_long_statements(make: Make) -> None:
    world = make()
    world.bench.limit_statements(client_bytes=100)
    said = world.ask(0, parse("x" * 101, "a"), SYNC)
    assert error_of(said)["C"] == "53400"
    assert "max_client_prepared_bytes" in error_of(said)["M"]
    assert codes(messages_in(world.ask(0, parse("x" * 101), run()))) == "12DCZ"


def test_no_memory_left_for_statements(make: Make) -> None:
    world = make()
    world.bench.limit_statements(total_bytes=500)
    said = world.ask(0, parse("x" * 501, "a"), SYNC)
    assert error_of(said)["C"] == "53200"
    assert "max_prepared_memory" in error_of(said)["M"]
    assert codes(messages_in(world.ask(0, parse("x" * 501), run()))) == "12DCZ"


@pytest.mark.parametrize("sql", ["execute p_1", "deallocate p_1", "prepare a as one"])
def test_no_memory_left_for_sql_that_names(make: Make, sql: str) -> None:
    """Its name would be the server's own, be it of what others have prepared."""
    world = make()
    world.ask(1, parse("one", "x"), SYNC)
    world.bench.limit_statements(total_bytes=1)
    said = world.ask(0, parse(sql), run())
    assert codes(messages_in(said)) == "EZ"
    assert error_of(said)["C"] == "53200"
    world.bench.limit_statements(total_bytes=0)
    assert b"one" in world.ask(1, run("x"))


@pytest.mark.parametrize("first", [40_000, 30, 11])
@pytest.mark.parametrize("before", ["", "/* x */ ", " " * 40_000])
def test_sql_that_names_and_is_too_long_to_be_kept(
    make: Make, before: str, first: int
) -> None:
    world = make()
    world.ask(1, parse("one", "x"), SYNC)
    for sql in ("execute p_1", "deallocate p_1"):
        raw = parse(before + sql + " " * 1_100_000) + run()
        said = world.ask(0, raw[:first])
        while raw := raw[first:]:
            first = 100_000
            said += world.ask(0, raw[:first])
        assert codes(messages_in(said)) == "EZ"
        assert error_of(said)["C"] == "53200"
        assert error_of(world.ask(0, run()))["C"] == "26000"
    assert b"one" in world.ask(1, run("x"))


# ------------------------------------------------------------ long messages


@pytest.mark.parametrize("size", [20_000, 100_000])
@pytest.mark.parametrize("piece", [1000, 7777])
def test_parse_that_comes_in_pieces(make: Make, size: int, piece: int) -> None:
    world = make()
    text = "y" * size
    raw = parse(text, "long") + run("long")
    said = b""
    for at in range(0, len(raw), piece):
        said += world.ask(0, raw[at : at + piece])
    assert codes(messages_in(said)) == "12DCZ"
    assert text.encode() in said
    count, used = world.bench.statement_counts()
    assert count == 1
    assert size < used < size + 1000


def test_parse_in_pieces_is_refused_at_once(make: Make) -> None:
    world = make()
    world.bench.limit_statements(client_bytes=50_000)
    raw = parse("y" * 60_000, "long") + run("long")
    said = b"".join(
        world.ask(0, raw[at : at + 9000]) for at in range(0, len(raw), 9000)
    )
    assert codes(messages_in(said)) == "EZ"
    assert error_of(said)["C"] == "53400"
    assert world.bench.statement_counts() == (0, 0)


def test_long_unnamed_parse_streams(make: Make) -> None:
    world = make()
    raw = parse("y" * 2_000_000) + run()
    said = b""
    for at in range(0, len(raw), 100_000):
        said += world.ask(0, raw[at : at + 100_000])
        assert world.bench.client_state(0)[2] < 16_384
    assert codes(messages_in(said)) == "12DCZ"
    assert world.bench.statement_counts() == (0, 0)


@pytest.mark.parametrize("known", [False, True])
def test_query_that_waits_for_a_describe(make: Make, known: bool) -> None:
    """It needs a statement that the server lacks, and no Sync came before it."""
    world = make(most=1)
    world.ask(0, parse("one", "a"), parse("two", "k"), SYNC)
    if known:
        world.ask(0, describe("a", "S"), SYNC)
        world.ask(0, run("k"))
    said = world.ask(0, describe("a", "S"), query("execute k"), SYNC)
    assert codes(messages_in(said))[-4:] == "DCZZ"


def test_big_bind_streams(make: Make) -> None:
    world = make()
    world.ask(0, parse("one", "a"), SYNC)
    raw = bind(b"v" * 300_000, statement="a") + execute() + SYNC
    said = b"".join(
        world.ask(0, raw[at : at + 50_000]) for at in range(0, len(raw), 50_000)
    )
    assert codes(messages_in(said)) == "2DCZ"


@pytest.mark.parametrize("code", ["P", "B"])
def test_name_that_does_not_end(make: Make, code: str) -> None:
    world = make()
    body = (b"" if code == "P" else b"\0") + b"n" * 200_000 + b"\0" + b"\0" * 6
    raw = message(code, body) + SYNC
    said = b"".join(
        world.ask(0, raw[at : at + 40_000]) for at in range(0, len(raw), 40_000)
    )
    assert codes(messages_in(said)) == "EZ"
    assert error_of(said)["C"] == "54000"


def goes_out(world: World, raw: bytes, piece: int) -> bytes:
    """What a server is sent for bytes that come in pieces; nothing is answered."""
    for at in range(0, len(raw), piece):
        world.bench.client_feed(0, raw[at : at + piece])
    return b"".join(
        data for kind, _, data in world.bench.take_sent() if kind != "client"
    )


@pytest.mark.parametrize("piece", [1, 300, 4000])
@pytest.mark.parametrize("blank", [10, 400, 20_000])
def test_command_behind_a_comment(make: Make, piece: int, blank: int) -> None:
    """As programs put in front of it that trace their queries."""
    world = make()
    world.ask(0, query("prepare a as one"))
    comment = "/*" + "-" * blank + "*/"
    sent = goes_out(world, query(f"{comment} execute a"), piece)
    assert sent == query(f'{comment} execute "p_1"')


@pytest.mark.parametrize("piece", [7000, 100_000])
def test_command_behind_a_very_long_comment(make: Make, piece: int) -> None:
    """However the Query comes in."""
    world = make()
    world.ask(0, query("prepare a as one"))
    comment = "/*" + "-" * 40_000 + "*/"
    sent = goes_out(world, query(f"{comment} execute a"), piece)
    assert sent == query(f'{comment} execute "p_1"')


def test_query_that_is_kept_behind_an_open_batch(make: Make) -> None:
    """Nothing of ours stands between the two: PostgreSQL skips the Query with it."""
    asked = parse("one", "b") + query("prepare a as " + "x" * 400)
    sent = []
    for piece in (1, 100, 1000):
        world = make()
        sent.append(codes(messages_in(goes_out(world, asked, piece))))
    assert sent == ["PQ"] * 3


@pytest.mark.parametrize(("pairs", "status"), [(2, "ok"), (10, "no_memory")])
def test_read_that_asks_for_long_statements(
    make: Make, pairs: int, status: str
) -> None:
    """A Bind of a few bytes makes megabytes, if its statement has to make room."""
    world = make(clients=1, most=1)
    for name in ("a", "b"):
        world.ask(0, parse(name * (15 << 20), name), SYNC)
    pair = bind(statement="a") + bind(statement="b")
    assert world.bench.client_feed(0, pair * pairs + SYNC)[2] == status


def test_lost_client_gives_everything_back(make: Make) -> None:
    world = make()
    world.ask(0, parse("one", "a"), parse("two"), SYNC)
    world.bench.client_feed(0, parse("z" * 50_000, "b")[:30_000])
    world.bench.take_sent()
    world.bench.drop_client(0)
    for i in range(len(world.backends)):
        if world.bench.server_state(i)[0] != 4:
            world.bench.drop_server(i)
    assert world.bench.statement_counts() == (0, 0)


# ------------------------------------------------------------ SQL


def test_sql_and_protocol_share_their_names(make: Make) -> None:
    world = make(servers=2)
    world.ask(0, query("prepare a as one"))
    assert b"one" in world.ask(0, run("a"))
    world.ask(0, parse("two", "b"), SYNC)
    world.ask(1, query("begin"))  # so that the others get another server
    assert b"two" in world.ask(0, query("execute b"))
    assert b"one" in world.ask(0, query("execute a"))
    assert b"one" in world.ask(0, run("a"))
    assert codes(messages_in(world.ask(0, query("deallocate a")))) == "CZ"
    assert error_of(world.ask(0, run("a")))["C"] == "26000"
    world.ask(0, close("b"), SYNC)
    said = world.ask(0, query("execute b"))
    assert error_of(said)["M"] == 'prepared statement "b" does not exist'


def test_sql_prepared_by_name_in_extended_protocol_on_any_server(make: Make) -> None:
    world = make(servers=2)
    world.ask(0, query("prepare a as one"))
    world.ask(1, query("begin"))
    said = world.ask(0, run("a"))
    assert codes(messages_in(said)) == "2DCZ"
    assert b"one" in said


def test_sql_names_are_the_clients_own(make: Make) -> None:
    world = make()
    world.ask(0, query("prepare a as one"))
    world.ask(1, query("prepare a as two"))
    assert b"one" in world.ask(0, query("execute a"))
    assert b"two" in world.ask(1, query("execute a"))
    said = world.ask(1, query("prepare a as three"))
    assert error_of(said)["M"] == 'prepared statement "a" already exists'
    assert b"two" in world.ask(1, query("execute a"))


def test_sql_by_parse_counts_when_it_is_run(make: Make) -> None:
    """On whatever server it is, as often as it is run, and not before."""
    world = make(servers=2)
    world.ask(0, parse("prepare a as one", "s"), parse("deallocate a", "d"), SYNC)
    for _ in range(3):
        assert error_of(world.ask(0, query("execute a")))["C"] == "26000"
        assert codes(messages_in(world.ask(0, run("s")))) == "2CZ"
        said = world.ask(0, run("s"))
        assert error_of(said)["M"] == 'prepared statement "a" already exists'
        world.ask(1, query("begin"))  # so that the other gets another server
        assert b"one" in world.ask(0, query("execute a"))
        assert codes(messages_in(world.ask(0, run("d")))) == "2CZ"
        said = world.ask(0, run("d"))
        assert error_of(said)["M"] == 'prepared statement "a" does not exist'
        world.ask(1, query("rollback"))


def test_prepare_by_parse_over_the_limit(make: Make) -> None:
    world = make()
    world.bench.limit_statements(client_count=2)
    world.ask(0, parse("prepare a as one", "s"), parse("one", "b"), SYNC)
    said = world.ask(0, run("s"))
    assert error_of(said)["C"] == "53400"
    assert codes(messages_in(said)) == "2EZ"
    world.ask(0, close("b"), SYNC)
    assert codes(messages_in(world.ask(0, run("s")))) == "2CZ"
    assert b"one" in world.ask(0, query("execute a"))


def test_execute_by_parse_of_a_name_like_ours(make: Make) -> None:
    """What another client has prepared is there under such a name."""
    world = make()
    world.ask(1, parse("one", "x"), SYNC)
    for name in ("", "e"):
        for asked in ("execute p_1", 'EXECUTE "p_1" (1)', "explain execute p_1"):
            said = world.ask(0, parse(asked, name), run(name), close(name), SYNC)
            if not asked.startswith("explain"):  # of which the model knows nothing
                assert codes(messages_in(said)) == "12EZ3Z", asked
                assert error_of(said)["M"] == 'prepared statement "p_1" does not exist'
            sent = b"".join(one.body for one in world.sent if one.code == "P")
            assert b"xecute p_1" not in sent
            assert b'"p_1"' not in sent
    world.ask(0, parse("execute p_1", "e"), SYNC)
    said = world.ask(0, query("execute e"))
    assert codes(messages_in(said)) == "EZ"
    assert error_of(said)["C"] == "26000"


def test_what_stands_in_anothers_place_is_not_taken_for_it(make: Make) -> None:
    """The EXECUTE has p_1 in its text, which others mean by it as well."""
    world = make()
    world.ask(0, parse("one", "p"), parse("execute p", "e"), SYNC)
    world.ask(1, parse("one", "q"), SYNC)
    world.ask(0, close("p"), parse("two", "p"), SYNC)
    assert b"two" in world.ask(0, run("e"))
    assert [p.text for n, p in world.backends[0].named.items() if n == "p_1"] == ["two"]
    assert b"two" in world.ask(0, run("e"))
    assert world.went == "BES"  # it is there already
    assert b"one" in world.ask(1, run("q"))
    assert b"one" in world.ask(1, query("execute q"))
    assert b"two" in world.ask(0, query("execute e"))
    assert b"one" in world.ask(1, parse("one"), run())
    assert b"one" in world.ask(1, query("execute q; execute q"))
    world.ask(0, close("p"), SYNC)
    assert error_of(world.ask(0, run("e")))["C"] == "26000"
    assert "p_1" not in world.backends[0].named
    assert b"one" in world.ask(1, run("q"))


def test_what_would_have_stood_in_anothers_place(make: Make) -> None:
    """It was skipped behind an error."""
    world = make()
    world.ask(0, parse("one", "p"), parse("execute p", "e"), SYNC)
    world.ask(0, close("p"), parse("two", "p"), SYNC)
    assert b"two" not in world.ask(0, parse("fail"), run()[:-5], run("e"))
    assert b"two" in world.ask(0, run("e"))
    world.ask(0, close("p"), parse("three", "p"), SYNC)
    assert b"three" not in world.ask(0, parse("bad"), run("e"))
    assert b"three" in world.ask(0, run("e"))


def test_an_execute_is_parsed_where_its_name_means_something_else(make: Make) -> None:
    """On a server that knows neither."""
    world = make(servers=2)
    world.ask(0, parse("one", "p"), parse("execute p", "e"), SYNC)
    world.ask(0, close("p"), parse("two", "p"), SYNC)
    world.ask(1, query("begin"))
    for _ in range(2):
        assert b"two" in world.ask(0, run("e"))
    assert b"two" in world.ask(0, describe("e", "S"), SYNC)
    assert b"two" in world.ask(0, run("e"))
    assert b"two" in world.ask(0, query("execute e"))


def test_a_closed_portal_of_sql_is_noted_no_more(make: Make) -> None:
    world = make()
    world.ask(0, parse("one", "p"), parse("execute p", "e"), query("begin"))
    for i in range(300):
        said = world.ask(0, bind(statement="e", portal=f"p{i}"), execute(f"p{i}"), SYNC)
        assert codes(messages_in(said)) == "2DCZ", i
        world.ask(0, close(f"p{i}", "P"), SYNC)


def test_names_that_are_forgotten_in_a_batch(make: Make) -> None:
    world = make()
    world.ask(0, parse("one", "a"), parse("deallocate all", "d"), SYNC)
    said = world.ask(0, parse("bad"), run("d")[:-5], run("a"))
    assert codes(messages_in(said)).endswith("EZ")
    assert b"one" in world.ask(0, run("a"))
    said = world.ask(0, run("d")[:-5], run("a"))
    assert codes(messages_in(said)) == "2CEZ"
    assert error_of(said)["C"] == "26000"
    assert world.bench.client_names(0) == {}


def test_more_portals_of_sql_than_are_noted(make: Make) -> None:
    world = make()
    world.ask(0, parse("deallocate a", "d"), query("begin"))
    binds = b"".join(bind(statement="d", portal=f"p{i}") for i in range(129))
    said = world.ask(0, binds + SYNC)
    assert codes(messages_in(said)) == "2" * 128 + "EZ"
    assert error_of(said)["C"] == "53400"


@pytest.mark.parametrize("command", ["deallocate all", "DISCARD ALL", "Deallocate All"])
def test_everything_is_forgotten(make: Make, command: str) -> None:
    world = make()
    _learn_discard_all(world.backends[0])
    world.ask(0, parse("one", "a"), SYNC)
    world.ask(1, parse("one", "a"), parse("two", "b"), SYNC)
    world.ask(1, query(command))
    assert world.bench.client_names(1) == {}
    assert world.bench.server_names(0) == []
    assert error_of(world.ask(1, run("a")))["C"] == "26000"
    assert b"one" in world.ask(0, run("a"))


def _learn_discard_all(backend: Backend) -> None:
    """Let it know DISCARD ALL as well, in any case."""
    before = backend._run

    def run_also(sql: str) -> bytes:
        if sql.lower() == "discard all":
            backend.named.clear()
            return message("C", cstring("DISCARD ALL"))
        return before(sql.lower())

    backend._run = run_also  # type: ignore[method-assign]


def test_what_sql_prepares_behind_our_back_is_noticed(make: Make) -> None:
    """By a function, say."""
    world = make()
    world.backends[0]._run = lambda sql: message("C", cstring("PREPARE"))  # type: ignore[method-assign]
    world.bench.client_feed(0, query("one"))
    world.bench.server_feed(0, message("C", cstring("PREPARE")) + READY)
    assert ("server", 0, query("DEALLOCATE ALL")) in world.bench.take_sent()
    assert not world.bench.stray(0)


def test_execute_by_the_extended_protocol(make: Make) -> None:
    world = make(servers=2)
    world.ask(0, query("prepare a as one"))
    world.ask(1, query("begin"))
    said = world.ask(0, parse("execute a"), describe(kind="S"), run())
    assert b"one" in said
    assert "E" not in codes(messages_in(said)).replace("tTZ", "")


# ------------------------------------------------------------ stale plans


def test_stale_plan_is_prepared_again_and_the_batch_repeated(make: Make) -> None:
    world = make()
    for asked in (
        bind(statement="a") + describe() + execute() + SYNC,
        describe("a", "S") + SYNC,
        parse("other", "b" * 5) + bind(statement="a") + execute() + SYNC,
    ):
        world.ask(0, close("a"), parse("stale", "a"), SYNC)  # which was told nothing
        world.ask(0, run("a"))
        world.backends[0].alter()
        said = world.ask(0, asked)
        assert "E" not in codes(messages_in(said)), messages_in(said)
        assert b"stale" in said
        world.ask(0, close("b" * 5), SYNC)
    assert world.stats("replays") == 3


def test_stale_plan_of_a_client_that_flushes(make: Make) -> None:
    world = make()
    world.ask(0, parse("stale", "a"), SYNC)
    world.backends[0].alter()
    said = world.ask(0, bind(statement="a"), describe(), FLUSH)
    assert codes(messages_in(said)) == "2T"
    assert codes(messages_in(world.ask(0, execute(), FLUSH))) == "DC"
    assert world.ask(0, SYNC) == READY


def test_stale_plan_of_an_execute_in_sql(make: Make) -> None:
    world = make()
    world.ask(0, query("prepare a as stale"))
    world.ask(0, parse("stale", "b"), SYNC)
    for name in ("a", "b"):
        world.backends[0].alter()
        said = world.ask(0, query(f"execute {name}"))
        assert codes(messages_in(said)) == "DCZ"
        assert b"stale" in said


def test_stale_plan_in_a_transaction_block_is_told(make: Make) -> None:
    world = make()
    world.ask(0, parse("stale", "a"), SYNC)
    world.ask(0, query("begin"))
    world.backends[0].alter()
    said = world.ask(0, run("a"))
    assert error_of(said)["C"] == "0A000"
    assert said[-1:] == b"E"
    world.ask(0, query("rollback"))
    assert b"stale" in world.ask(0, run("a"))


def test_stale_plan_behind_work_of_the_same_batch_is_told(make: Make) -> None:
    """That work is rolled back, and the client has its answer already."""
    world = make()
    world.ask(0, parse("stale", "a"), parse("one", "b"), SYNC)
    world.backends[0].alter()
    said = world.ask(0, bind(statement="b"), execute(), run("a"))
    assert error_of(said)["C"] == "0A000"


def test_stale_plan_in_a_batch_that_we_have_added_to(make: Make) -> None:
    """What we have put in between, for another statement, cannot be sent again."""
    world = make(most=2)
    world.ask(0, parse("two", "c"), SYNC)
    world.ask(0, parse("stale", "a"), parse("one", "b"), SYNC)
    world.backends[0].alter()
    said = world.ask(0, bind(statement="a"), run("c"))
    assert world.went == "BCPBES"
    assert codes(messages_in(said)) == "EZ"
    assert error_of(said)["C"] == "0A000"
    for name, text in (("a", b"stale"), ("b", b"one"), ("c", b"two")):
        assert text in world.ask(0, run(name))


def test_stale_plan_in_a_pipeline_is_told(make: Make) -> None:
    """What was sent behind the batch must not run before it."""
    world = make()
    world.ask(0, parse("stale", "a"), SYNC)
    world.backends[0].alter()
    said = world.ask(0, run("a"), query("one"))
    assert error_of(said)["C"] == "0A000"
    assert b"stale" in world.ask(0, run("a"))


def test_lost_statement_is_prepared_again(make: Make) -> None:
    """A function has run DEALLOCATE ALL: no tag says so."""
    world = make()
    world.ask(0, parse("one", "a"), SYNC)
    world.backends[0].named.clear()
    assert b"one" in world.ask(0, run("a"))
    world.backends[0].named.clear()
    assert b"one" in world.ask(0, query("execute a"))


def test_plan_that_stays_stale_is_told_once(make: Make) -> None:
    world = make()
    world.ask(0, parse("stale", "a"), SYNC)
    backend = world.backends[0]
    backend.alter()
    parse_one = backend._parse

    def parse_and_alter(body: bytes) -> bytes:
        said = parse_one(body)
        backend.alter()
        return said

    backend._parse = parse_and_alter  # type: ignore[method-assign]
    said = world.ask(0, run("a"))
    assert codes(messages_in(said)) == "EZ"
    assert error_of(said)["C"] == "0A000"
    assert world.stats("replays") == 1


def test_big_batch_is_not_kept(make: Make) -> None:
    world = make()
    world.ask(0, parse("stale", "a"), SYNC)
    world.backends[0].alter()
    said = world.ask(0, bind(b"v" * 20_000, statement="a"), execute(), SYNC)
    assert error_of(said)["C"] == "0A000"


def test_the_parse_of_a_known_text_is_sent_when_its_bind_fails(make: Make) -> None:
    """It is answered once the Bind is; else PostgreSQL answers it."""
    world = make()
    world.ask(0, parse("stale", "a"), SYNC)
    asked = parse("stale", "b") + bind(statement="b") + execute() + SYNC
    assert codes(messages_in(world.ask(1, asked))) == "12DCZ"
    assert world.went == "BES"
    world.ask(1, close("b"), SYNC)
    world.backends[0].alter()
    assert codes(messages_in(world.ask(1, asked))) == "12DCZ"
    assert world.went == "BESCPBES"
    world.ask(1, close("b"), SYNC)
    world.backends[0].alter()
    world.backends[0]._read = _never  # type: ignore[method-assign]
    said = world.ask(1, asked)
    assert codes(messages_in(said)) == "EZ"
    assert error_of(said)["C"] == "42P01"
    # The name was not given: it is the same once more, and then it may be.
    assert codes(messages_in(world.ask(1, asked))) == "EZ"
    del world.backends[0]._read
    assert codes(messages_in(world.ask(1, asked))) == "12DCZ"
    assert codes(messages_in(world.ask(1, run("b")))) == "2DCZ"


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 8, 12, 100])
@pytest.mark.parametrize("altered", [False, True])
def test_a_batch_behind_a_known_text_in_any_pieces(
    make: Make, size: int, altered: bool
) -> None:
    world = make(clients=3)
    world.ask(0, parse("stale", "a"), parse("two", "x"), SYNC)
    if altered:
        world.backends[0].alter()
    raw = b"".join(
        (
            close("nothing"),
            parse("stale", "b"),
            bind(statement="b") + describe() + execute(),
            bind(statement="b") + execute(),
            parse("two", "c") + bind(statement="c") + execute() + close("c"),
            bind() + SYNC,  # of nothing: the batch fails here
            bind(statement="b") + execute() + SYNC,
            query("one"),
        )
    )
    said = b""
    sent = [message(one.code, one.body) for one in messages_in(raw)]
    for at in range(0, len(sent), size):
        said += world.ask(1, *sent[at : at + size])
    assert codes(messages_in(said)) == "312TDC2DC12DC3EZ2DCZDCZ"


@pytest.mark.parametrize("error", ["57014", "40P01", "55P03", "53200"])
def test_an_error_that_is_no_fault_of_the_statement(make: Make, error: str) -> None:
    """A cancel, a lock that is not got: the batch is not tried once more."""
    world = make()
    world.ask(0, parse("one", "a"), SYNC)

    def fail(prepared: object) -> None:
        raise Failure(error, "no")

    world.backends[0]._check_plan = fail  # type: ignore[method-assign]
    said = world.ask(1, parse("one", "b"), run("b"))
    assert codes(messages_in(said)) == "1EZ"
    assert world.stats("replays") == 0


def test_types_of_parameters_that_are_not_given_are_found_out_anew(make: Make) -> None:
    """What another client's Parse has found may not be what this one would."""
    world = make(clients=4)
    for client, (types, went) in enumerate(
        (
            ((), "PBES"),
            ((0,), "PBES"),
            ((705,), "PBES"),
            ((23,), "PBES"),
        )
    ):
        for name in ("a", "b"):
            said = world.ask(
                client,
                message(
                    "P",
                    cstring(name)
                    + cstring("one$1")
                    + len(types).to_bytes(2)
                    + b"".join(one.to_bytes(4) for one in types),
                ),
                run(name),
            )
            assert codes(messages_in(said)) == "12DCZ"
            again = "CPBES" if types != (23,) else "BES"
            assert world.went == (went if name == "a" else again)


def test_a_name_that_no_server_was_asked_for_is_parsed_at_its_first_use(
    make: Make,
) -> None:
    world = make()
    world.ask(0, parse("one", "a"), SYNC)
    assert world.ask(1, parse("one", "b"), SYNC) == PARSED + READY
    for name, went in (("b", "CPBES"), ("b", "BES")):
        assert codes(messages_in(world.ask(1, run(name)))) == "2DCZ"
        assert world.went == went
    assert codes(messages_in(world.ask(0, run("a")))) == "2DCZ"
    assert world.went == "BES"


# ------------------------------------------------------------ rows that are remembered


def test_client_that_was_told_its_rows_hears_of_a_stale_plan(make: Make) -> None:
    """It does not ask again what it gets, so it would read other rows as garbage."""
    world = make()
    world.ask(0, parse("stale", "a"), describe("a", "S"), SYNC)
    assert b"stale" in world.ask(0, run("a"))
    world.backends[0].alter()
    said = world.ask(0, run("a"))
    assert error_of(said)["C"] == "0A000"
    assert world.stats("replays") == 0
    # As a driver does then: it prepares anew.
    said = world.ask(0, close("a"), parse("stale", "b"), describe("b", "S"), SYNC)
    assert codes(messages_in(said)) == "31tTZ"
    assert b"stale" in world.ask(0, run("b"))


def test_client_that_asks_each_time_does_not(make: Make) -> None:
    world = make()
    world.ask(0, parse("stale", "a"), describe("a", "S"), SYNC)
    for _ in range(3):
        world.backends[0].alter()
        said = world.ask(0, bind(statement="a"), describe(), execute(), SYNC)
        assert codes(messages_in(said)) == "2TDCZ"
    assert world.stats("replays") == 3


@pytest.mark.parametrize("kind", ["S", "P"])
def test_rows_on_another_server_are_compared(make: Make, kind: str) -> None:
    """Once for each server and statement; whoever was told nothing does not wait."""
    world = make(clients=3, servers=2)
    if kind == "S":
        world.ask(0, parse("stale", "a"), describe("a", "S"), SYNC)
    else:
        world.ask(0, parse("stale", "a"), bind(statement="a"), describe(), SYNC)
    world.ask(1, query("begin"))  # the next ones get the other server
    assert codes(messages_in(world.ask(0, run("a")))) == "2DCZ"
    assert world.went == "PDHBES"
    assert codes(messages_in(world.ask(0, run("a")))) == "2DCZ"
    assert world.went == "BES"
    world.ask(1, query("commit"))
    world.ask(2, query("begin"))
    world.ask(0, run("a"))
    world.ask(2, query("commit"))
    # A server that has never had it, and has other rows.
    world.backends[0].named.clear()
    world.backends[1].named.clear()
    for backend in world.backends:
        backend.alter()
    world.ask(0, query("deallocate nobody"))
    said = world.ask(0, run("a"))
    assert error_of(said)["C"] in ("0A000", "26000")
    said = world.ask(0, run("a"))
    assert error_of(said) == {
        "S": "ERROR",
        "V": "ERROR",
        "C": "0A000",
        "M": "cached plan must not change result type",
        "R": "RevalidateCachedQuery",
    }
    world.ask(2, parse("stale", "c"), SYNC)
    assert b"stale" in world.ask(2, run("c"))


def test_comparison_of_a_statement_that_cannot_be_prepared(make: Make) -> None:
    world = make(servers=2)
    world.ask(0, parse("one", "a"), describe("a", "S"), SYNC)
    world.ask(1, query("begin"))
    world.backends[0]._read = _never  # type: ignore[method-assign]
    world.backends[1]._read = _never  # type: ignore[method-assign]
    said = world.ask(0, run("a"))
    assert codes(messages_in(said)) == "EZ"
    assert error_of(said)["C"] == "42P01"


def _never(sql: str) -> None:
    raise Failure("42P01", "relation does not exist")


def test_known_text_is_parsed_again_after_ddl(make: Make) -> None:
    """Its plan may be stale: a client that parses only now has a right to a new one."""
    world = make()
    run_before = world.backends[0]._run

    def run_ddl(sql: str) -> bytes:
        if sql == "alter":
            world.backends[0].alter()
            return message("C", cstring("ALTER TABLE"))
        return run_before(sql)

    world.backends[0]._run = run_ddl  # type: ignore[method-assign]
    asked = (parse("stale"), bind(), execute(), SYNC)
    for _ in range(3):
        world.ask(0, *asked)
    world.ask(0, parse("stale", "a"), SYNC)
    world.ask(1, query("alter"))
    world.ask(1, query("begin"))
    for again in (asked, (parse("stale", "b"), run("b"))):
        assert codes(messages_in(world.ask(1, *again))) == "12DCZ"
    world.ask(1, query("commit"))
    world.ask(1, query("alter"))
    world.ask(0, query("begin"))
    assert codes(messages_in(world.ask(0, parse("stale", "c"), run("c")))) == "12DCZ"
