# SPDX-License-Identifier: MIT
"""Random exchanges come out the same through the pooler; and the test itself works."""

from __future__ import annotations

import contextlib
import itertools
import random
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pooler.demo.postgres import Postgres
from tests.differential import grammar
from tests.differential.bed import POSTGRES_SETTINGS, Bed
from tests.differential.compare import Comparison
from tests.differential.expected import reason_for
from tests.differential.generator import KINDS
from tests.differential.messages import (
    Bind,
    CopyData,
    CopyDone,
    Exchange,
    Execute,
    Flush,
    Leave,
    Parse,
    Query,
    Scenario,
    Sync,
    read,
)
from tests.differential.oddly import cuts, make_odd
from tests.differential.play import Difference, NotLegal, replay
from tests.differential.referee import Referee
from tests.differential.run import minimal, run
from tests.differential.shrink import shrink
from tests.differential.tags import Tags, classify
from tests.wire_client import Message, message

SEED = 20240101
SHORT_EXCHANGES = 100
FULL_SEED = 7
FULL_EXCHANGES = 10_000


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """A PostgreSQL of its own: servers of the pool are terminated between scenarios."""
    with Postgres(settings=POSTGRES_SETTINGS) as server:
        with Bed(server, tmp_path_factory.mktemp("differential")) as made:
            yield made


def _simple(*clients_and_sql: tuple[int, str], pool_size: int = 1) -> Scenario:
    exchanges = tuple(Exchange(n, (Query(sql),)) for n, sql in clients_and_sql)
    return Scenario(({}, {}), pool_size, 200, exchanges)


# The comparison with the product.


@pytest.mark.parametrize("kind", KINDS)
def test_sharing_does_not_show(bed: Bed, kind: str) -> None:
    found = run(bed, SEED, kinds=[kind], exchanges=SHORT_EXCHANGES)
    assert not found.differences, "\n".join(one.report() for one in found.differences)
    assert found.exchanges >= SHORT_EXCHANGES
    assert not found.ended
    assert found.messages > found.exchanges


@pytest.mark.full
@pytest.mark.timeout(600)
def test_sharing_does_not_show_in_minutes(bed: Bed) -> None:
    """The same exchanges each time; other seeds, and hours, are for runs by hand."""
    found = run(bed, FULL_SEED, exchanges=FULL_EXCHANGES, keep_going=True)
    assert len(found.ended) * 50 < found.scenarios, found.ended
    assert found.exchanges >= FULL_EXCHANGES
    assert not found.differences, "\n".join(one.report() for one in found.differences)


# The test finds what is planted.


class LyingProxy:
    """Passes everything on; changes one letter of what comes back."""

    def __init__(self, port: int, truth: bytes, lie: bytes) -> None:
        self._target = port
        self._truth, self._lie = truth, lie
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while self._listener.fileno() >= 0:
                for key, _ in selector.select(0.05):
                    if key.data is None:
                        self._accept(selector)
                    elif isinstance(key.fileobj, socket.socket) and (
                        key.fileobj.fileno() >= 0
                    ):
                        self._pass_on(selector, key.fileobj, *key.data)
            for key in list(selector.get_map().values()):
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()

    def _accept(self, selector: selectors.BaseSelector) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        server = socket.create_connection(("127.0.0.1", self._target))
        selector.register(client, selectors.EVENT_READ, (server, False))
        selector.register(server, selectors.EVENT_READ, (client, True))

    def _pass_on(
        self,
        selector: selectors.BaseSelector,
        source: object,
        to: socket.socket,
        lies: bool,
    ) -> None:
        assert isinstance(source, socket.socket)
        with contextlib.suppress(OSError):  # one of them has closed
            raw = source.recv(1 << 16)
            if raw:
                to.sendall(raw.replace(self._truth, self._lie) if lies else raw)
                return
        for one in (source, to):
            with contextlib.suppress(KeyError, ValueError):
                selector.unregister(one)
            one.close()

    def close(self) -> None:
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def liar(bed: Bed) -> Iterator[None]:
    proxy = LyingProxy(bed.pooler(200).port, b"public", b"publik")
    bed.detour = proxy.port
    yield
    bed.detour = 0
    proxy.close()


LONG = Scenario(
    ({}, {}, {}),
    2,
    200,
    (
        Exchange(0, (Query("begin"),)),
        Exchange(
            1, (Parse("select 1", "s1"), Bind((), "s1"), Execute(), Sync()), (3, 9)
        ),
        Exchange(0, (Query("select 1; select v from public.t limit 1; select 3"),)),
        Exchange(0, (Query("commit"),)),
        Exchange(2, (Query("select 4"), Query("select 5"))),
    ),
)


@pytest.mark.usefixtures("liar")
def test_a_changed_letter_is_found_and_made_small(bed: Bed) -> None:
    difference = replay(bed, LONG)
    assert difference is not None
    assert difference.kind == "D -> D"
    assert len(difference.scenario.exchanges) == 3
    small = minimal(bed, difference).scenario
    wanted = Exchange(0, (Query("select v from public.t limit 1"),))
    assert small == Scenario(({},), 1, 200, (wanted,))


@pytest.mark.usefixtures("liar")
def test_a_run_finds_a_changed_letter(bed: Bed) -> None:
    found = run(bed, SEED, kinds=["simple"], exchanges=500)
    [difference] = found.differences
    assert difference.expected is not None
    assert difference.got is not None
    assert b"public" in difference.expected.body
    assert b"publik" in difference.got.body


def test_the_same_scenario_is_the_same_without_the_lie(bed: Bed) -> None:
    assert replay(bed, LONG) is None


# The comparison.


def _error(**fields: str) -> Message:
    body = b"".join(f"{name}{value}".encode() + b"\0" for name, value in fields.items())
    return Message("E", body + b"\0")


def _row(table: int, kind: int) -> Message:
    return Message("T", b"\0\1x\0" + struct.pack("!IhIhih", table, 1, kind, 4, -1, 0))


def test_every_field_of_an_error_but_file_and_line_counts() -> None:
    one = {
        "S": "ERROR",
        "C": "42P01",
        "M": "no",
        "P": "3",
        "F": "a.c",
        "L": "1",
        "R": "f",
    }
    for name in one:
        changed = {**one, name: "9"}
        assert Comparison().same(_error(**one), _error(**changed)) == (name in "FL")
    assert not Comparison().same(_error(**one), _error(C="42P01"))


def test_object_identifiers_are_compared_by_who_they_are() -> None:
    comparison = Comparison()
    assert comparison.same(_row(20001, 23), _row(30001, 23))
    assert comparison.same(_row(20002, 23), _row(30002, 23))
    assert comparison.same(_row(20001, 23), _row(30001, 23))
    assert not comparison.same(_row(20001, 23), _row(30002, 23))
    assert not comparison.same(_row(20003, 23), _row(30002, 23))
    assert not comparison.same(_row(0, 23), _row(30009, 23))
    assert not comparison.same(_row(0, 23), _row(0, 25))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Message("Z", b"I"), Message("Z", b"T")),
        (Message("1", b""), Message("2", b"")),
        (Message("D", b"\0\0"), Message("D", b"\0\0\0")),
        (Message("S", b"TimeZone\0UTC\0"), Message("S", b"TimeZone\0GMT\0")),
    ],
)
def test_one_byte_is_enough(one: Message, other: Message) -> None:
    assert Comparison().same(one, one)
    assert not Comparison().same(one, other)


# What may be said.


def _fair(*said: tuple[int, str, str], pool_size: int = 2) -> list[bool]:
    """Whether each (client, SQL, status afterwards) may be sent."""
    referee = Referee(2, pool_size)
    verdicts = []
    for client, sql, status in said:
        exchange = Exchange(client, (Query(sql),))
        verdicts.append(referee.allows(exchange))
        if verdicts[-1]:
            referee.note(exchange, status, False)
    return verdicts


def test_what_a_session_may_have_lost_is_not_relied_on() -> None:
    change, look = (0, "set search_path to a", "I"), (0, "select id from t", "I")
    assert _fair(look, change, look, (1, "select id from t", "I")) == [
        True,
        True,
        False,
        True,
    ]


def test_what_a_transaction_has_set_is_known_in_it() -> None:
    set_local, look = "set local search_path to a", "select id from t"
    said = [
        (0, "set search_path to b", "I"),
        (0, "begin", "T"),
        (0, look, "T"),
        (0, set_local, "T"),
        (0, look, "T"),
        (0, "commit", "I"),
        (0, look, "I"),
    ]
    assert _fair(*said) == [True, True, False, True, True, True, False]


def test_what_a_function_has_changed_is_relied_on_by_nobody() -> None:
    change, look = "select public.make_temp()", (1, "select public.find_t()", "I")
    assert _fair(look, (0, change, "I"), look, (1, "select v from a.t", "I")) == [
        True,
        True,
        False,
        True,
    ]
    seen = (0, "do $$ begin perform public.make_temp(); end $$", "I")
    assert _fair(seen, look) == [True, True]


def test_two_transactions_in_one_exchange_are_two() -> None:
    alone = (Query("set search_path to b; select id from t"),)
    apart = (Query("set search_path to b"), Query("select id from t"))
    referee = Referee(1, 1)
    assert referee.allows(Exchange(0, alone))
    assert not referee.allows(Exchange(0, apart))


def test_prepared_texts_keep_what_they_read() -> None:
    referee = Referee(1, 1)
    prepare = Exchange(0, (Parse("select id from t", "s1"), Sync()))
    use = Exchange(0, (Bind((), "s1"), Execute(), Sync()))
    assert referee.allows(prepare)
    referee.note(prepare, "I", False)
    assert referee.allows(use)
    referee.note(Exchange(0, (Query("select public.make_temp()"),)), "I", False)
    assert not referee.allows(use)


def test_nobody_waits_for_a_server_or_a_lock() -> None:
    begin, other = (0, "begin", "T"), (1, "select 1", "I")
    assert _fair(begin, other, pool_size=1) == [True, False]
    assert _fair(begin, other) == [True, True]
    ddl = "create table public.d2 (x int)"
    assert _fair(begin, (1, ddl, "I")) == [True, False]
    assert _fair(begin, (0, ddl, "T"), other, (0, "commit", "I"), other) == [
        True,
        True,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    "name", [*grammar.UNTRACKED, *sorted(set(grammar.SESSION_SETTINGS) - {"my.var"})]
)
def test_the_patterns_know_every_setting(name: str) -> None:
    for sql in (
        f"set {name} to a",
        f"SET session {name} = 'a'",
        f"reset {name}",
        f"select set_config('{name}', 'a', false)",
        f"begin; set {name} to default; commit",
        f"do $$ begin execute 'set {name} to a'; end $$",
    ):
        assert classify(sql).session, sql
    for sql in (f"set local {name} to a", f"select set_config('{name}', 'a', true)"):
        assert classify(sql).local, sql
        assert not classify(sql).session, sql


def test_the_patterns_know_what_reads() -> None:
    for text in grammar.UNTRACKED_READS + grammar.TEMP_READS:
        assert classify(text.sql).needs, text
    for text in grammar.PLAIN + grammar.WRITES + grammar.CONTEXT:
        assert classify(text.sql) == Tags(), text
    for sql in grammar.DDL:
        assert classify(sql).exclusive, sql


def test_the_patterns_know_what_a_session_has() -> None:
    for text in grammar.SESSION_READS:
        assert classify(text.sql).needs, text
    for text in grammar.CURSORS:
        assert not classify(text.sql).session, text
    for sql in ("set local my.var to 1", "select set_config('my.var', '', true)"):
        assert classify(sql).local == {"custom"}, "nobody else sees that it was"
        assert not classify(sql).hidden
    assert not classify("create temp table t (x int) on commit drop").session
    assert classify("create temp table t (x text default 'on commit drop')").session


def test_a_known_difference_says_what_was_said() -> None:
    def reason(sql: str, expected: Message, got: Message) -> str:
        scenario = _simple((0, "select 1"), (0, sql))
        difference = Difference(scenario, [], [], expected, got)
        return reason_for("prepare", difference)

    gone = Message("C", b"PREPARE\0"), _error(C="42P05")
    assert not reason("prepare p as select 1", *gone)
    stale = Message("2", b""), _error(C="0A000")
    assert not reason("Bind", *stale)
    assert reason("set_config(), Bind", *stale)


def test_every_cut_is_inside_and_odd_messages_keep_what_copies_need() -> None:
    pick = random.Random(1)
    copy = (Query("copy public.w from stdin"), CopyData(b"x\n"), CopyDone(), Sync())
    for _ in range(300):
        parts = make_odd(pick, [Parse("select 1", "a"), Bind((), "a"), Execute()])
        assert [one for one in parts if isinstance(one, Parse | Bind)]
        made = Exchange(0, tuple(parts), cuts(pick, tuple(parts)))
        assert b"".join(made.pieces()) == made.raw()
        assert len(made.pieces()) == len(set(made.cuts)) + 1
        kept = [one for one in make_odd(pick, list(copy)) if not isinstance(one, Flush)]
        assert kept == list(copy)


def test_somebody_new_knows_nothing_of_who_has_left(bed: Bed) -> None:
    for rudely in (False, True):
        scenario = Scenario(
            ({}, {}),
            1,
            200,
            (
                Exchange(0, (Parse("select 1", "s1"), Sync())),
                Exchange(0, (Query("set search_path to b"), Query("begin"))),
                Exchange(0, (Query("insert into public.w values (0, 1, 'x')"),)),
                Exchange(0, (Bind((), "s1"), Flush())),
                Exchange(0, (Leave(rudely),)),
                Exchange(0, (Bind((), "s1"), Execute(), Sync())),
                Exchange(1, (Query("select count(*) from public.w"),)),
                Exchange(0, (Query("select v from t"),)),
            ),
        )
        assert replay(bed, scenario) is None


def test_an_unfair_scenario_is_not_held(bed: Bed) -> None:
    unfair = _simple((0, "begin"), (1, "select 1"))
    with pytest.raises(NotLegal):
        replay(bed, unfair)


# The tools.


def test_a_scenario_is_printed_as_python() -> None:
    whole = replace(
        LONG,
        logins=({"TimeZone": "UTC"}, {}, {}),
        exchanges=(
            *LONG.exchanges,
            Exchange(
                1, (Query("copy public.w from stdin"), CopyData(b"\0\xff"), CopyDone())
            ),
            Exchange(1, (Parse("select $1", types=(23,)), Bind((None, b"x")), Flush())),
        ),
    )
    assert read(whole.python()) == whole


def test_shrinking_without_a_server() -> None:
    """It keeps what is needed, whatever stands around it."""
    needed = {"b", "e"}
    exchanges = tuple(
        Exchange(n % 3, (Query("x"), Query(name), Sync()), (1, 2))
        for n, name in enumerate("abcdefg")
    )

    def shows(candidate: Scenario) -> Scenario | None:
        said = {
            one.sql
            for exchange in candidate.exchanges
            for one in exchange.messages
            if isinstance(one, Query)
        }
        return candidate if needed <= said else None

    small = shrink(
        Scenario(({}, {}, {}), 2, 1, exchanges), shows, time.monotonic() + 60
    )
    wanted = (Exchange(0, (Query("b"),)), Exchange(0, (Query("e"),)))
    assert small == Scenario(({},), 1, 200, wanted)


def test_the_same_seed_says_the_same(bed: Bed) -> None:
    runs = [run(bed, 5, kinds=["simple"], exchanges=60) for _ in range(2)]
    assert str(runs[0]) == str(runs[1])


def test_a_cut_loses_nothing() -> None:
    exchange = Exchange(0, (Query("select 1"), Sync()), (1, 5, 5, 999))
    for one, other in itertools.pairwise(exchange.pieces()):
        assert one
        assert other
    assert b"".join(exchange.pieces()) == exchange.raw()
    assert message("S") == exchange.raw()[-5:]
