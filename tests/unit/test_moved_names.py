# SPDX-License-Identifier: MIT
"""Prepared statements that move with their server, over reference backends."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable
from types import ModuleType

import pytest

from tests.reference.backend_ref import Backend
from tests.unit.test_prepare import READY, World, close, run
from tests.wire_client import SYNC, codes, message, messages_in, parse, query

KEY = bytes(range(16))
MOST = 100
DEALLOCATE = "DEALLOCATE ALL"

Pair = tuple[World, World]
Make = Callable[..., World]


@pytest.fixture
def make(probe: ModuleType) -> Make:
    """A worker of a pooler: the same key is the same pooler."""

    def worker(own: bytes = b"0.aaa.", key: bytes = KEY, most: int = MOST) -> World:
        bench = probe.Bench(8, ("DateStyle",), most)
        bench.call_by_text(own, key)
        bench.wait_until(1_000_000)
        return World(bench, 2, 0)

    return worker


@pytest.fixture
def pair(make: Make) -> Pair:
    """One worker with a server, and one without."""
    one, two = make(), make(b"1.bbb.")
    one.backends.append(Backend())
    one.bench.add_server()
    return one, two


def give(world: World) -> tuple[bytes, Backend]:
    """Its newest server leaves it."""
    record = world.bench.server_give(len(world.backends) - 1)
    assert record is not None
    return record, world.backends[-1]


def receive(world: World, record: bytes, backend: Backend) -> bool:
    """It comes, and answers what it is sent first."""
    index = world.bench.server_receive(record)
    if index is None:
        return False
    assert index == len(world.backends)
    world.backends.append(backend)
    world.sent = []
    for kind, i, data in world.bench.take_sent():
        assert (kind, i) == ("server", index)
        world.sent += messages_in(data)
        world.bench.server_feed(i, backend.feed(data))
    return True


def move(giver: World, taker: World) -> None:
    assert receive(taker, *give(giver))


def names_of(world: World) -> list[bytes]:
    """What a worker believes that its newest server has, oldest first."""
    found: list[bytes] = world.bench.server_names(len(world.backends) - 1)
    return found


def prepared(world: World) -> list[str]:
    """The texts that its newest server has."""
    return [one.text for one in world.backends[-1].named.values()]


def rows(said: bytes) -> list[bytes]:
    return [one.body[6:] for one in messages_in(said) if one.code == "D"]


def errors(said: bytes) -> list[str]:
    return [one.fields["C"] for one in messages_in(said) if one.code == "E"]


# ------------------------------------------------------------ names


def test_workers_call_the_same_text_alike(make: Make) -> None:
    one, two, stranger = make(), make(b"1.bbb."), make(key=bytes(16))
    texts = [parse("alpha", "a"), parse("beta", "b"), parse("alpha ", "c")]
    # types of parameters, and what has the same bytes in another message
    texts.append(message("P", b"d\0alpha\0" + struct.pack("!HI", 1, 23)))
    for world in (one, two, stranger):
        world.backends.append(Backend())
        world.bench.add_server()
        for asked in texts:
            world.ask(0, asked, SYNC)
        world.ask(0, query("prepare e as alpha"))
    assert names_of(one) == names_of(two)
    assert len(set(names_of(one)) | set(names_of(stranger))) == 10
    for name in names_of(one):
        assert re.fullmatch(rb"p_[A-Za-z0-9_-]{22}", name)


def test_settings_are_part_of_the_name(make: Make) -> None:
    """A text that is read under another DateStyle is another one."""
    seen = []
    for style in (b"ISO, MDY", b"German, DMY", b"ISO, MDY"):
        world = make()
        world.bench.add_server((style,))
        client = world.bench.add_client((style,))
        world.bench.client_feed(client, parse("one", "a") + SYNC)
        seen.append(world.bench.client_names(client)[b"a"][0])
    assert seen[0] == seen[2] != seen[1]


def test_what_is_a_clients_own_is_called_otherwise(pair: Pair) -> None:
    one, _ = pair
    one.ask(0, query("prepare q as one"), parse("execute q", "e"), SYNC)
    shared, own = one.bench.client_names(0)[b"q"][0], one.bench.client_names(0)[b"e"][0]
    assert re.fullmatch(rb"p_[A-Za-z0-9_-]{22}", shared)
    assert re.fullmatch(rb"p_0\.aaa\.\d+", own)


# ------------------------------------------------------------ moving


def test_nothing_is_parsed_again(pair: Pair) -> None:
    one, two = pair
    names = [f"s{n}" for n in range(10)]
    for name in names:
        one.ask(0, parse(f"text of {name}", name), SYNC)
    before = names_of(one)
    move(one, two)
    assert two.sent == []
    assert names_of(two) == before
    for name in reversed(names):  # by other names: nobody there knows these texts
        said = two.ask(0, parse(f"text of {name}", f"my {name}"), run(f"my {name}"))
        assert rows(said) == [f"text of {name}".encode()]
        assert two.went == "BES"
    assert two.stats("server_parses") == 0
    assert names_of(two) == before[::-1]  # the order of use
    move(two, one)
    assert names_of(one) == before[::-1]
    for name in names:
        assert rows(one.ask(0, run(name))) == [f"text of {name}".encode()]
        assert one.went == "BES"


def test_it_goes_on_with_what_nobody_has_used_there(make: Make, pair: Pair) -> None:
    """Through a worker that has never heard of these texts."""
    one, two = pair
    three = make(b"2.ccc.")
    one.ask(0, parse("first", "a"), parse("second", "b"), SYNC)
    before = names_of(one)
    move(one, two)
    two.ask(1, query("anything"))
    move(two, three)
    assert names_of(three) == before
    three.ask(0, parse("second", "x"), run("x"))
    assert three.went == "BES"
    assert names_of(three) == before
    move(three, one)
    one.ask(0, run("a"))
    assert one.went == "BES"


def test_older_than_a_clients_own_parse_is_parsed_anew(pair: Pair) -> None:
    """Its client may have changed what the text means in between."""
    one, two = pair
    two.backends.append(Backend())
    two.bench.add_server()
    one.ask(0, parse("text $1", "a"), SYNC)
    two.ask(0, parse("text $1", "b"), SYNC)  # its type is found out: now, not before
    record, backend = give(one)
    two.ask(1, query("begin"))  # keeps the other server
    assert receive(two, record, backend)
    two.ask(0, run("b"))
    assert two.went == "CPBES"


def test_a_change_of_a_table_is_seen(pair: Pair) -> None:
    """What was parsed before it, by whichever worker, answers no Parse any more."""
    one, two = pair
    one.ask(0, parse("text", "a"), SYNC)
    move(one, two)
    two.bench.client_feed(1, query("create table t ()"))
    two.bench.take_sent()
    two.bench.server_feed(0, message("C", b"CREATE TABLE\0") + READY)
    two.ask(0, parse("text", "a"), run("a"))
    assert two.went.startswith("CP")


def test_what_is_not_sure_is_closed_before_it_is_parsed(pair: Pair) -> None:
    """And stays so on its way; nobody meets 42P05."""
    one, two = pair
    one.ask(0, parse("text", "a"), SYNC)
    one.ask(0, query("deallocate all"))
    one.backends[0].feed(parse("text", "p_odd") + SYNC)
    assert names_of(one) == []
    move(one, two)
    assert names_of(two) == []
    said = two.ask(0, parse("text", "a"), run("a"))
    assert two.went == "CPBES"
    assert rows(said) == [b"text"]
    move(two, one)
    assert len(names_of(one)) == 1


def test_what_is_a_clients_own_is_no_others(pair: Pair) -> None:
    """At home it is found again, elsewhere it is closed when it is the oldest."""
    one, two = pair
    one.ask(0, query("prepare q as one"))
    one.ask(0, parse("execute q", "e"), SYNC)
    move(one, two)
    assert len(names_of(two)) == 1
    two.ask(0, query("prepare q as other"))
    assert rows(two.ask(0, query("execute q"))) == [b"other"]
    move(two, one)
    assert rows(one.ask(0, run("e"))) == [b"one"]
    assert errors(one.ask(1, query("execute q"))) == ["26000"]


def test_the_oldest_are_closed(make: Make) -> None:
    one, two = make(most=5), make(b"1.bbb.", most=5)
    one.backends.append(Backend())
    one.bench.add_server()
    for n in range(5):
        one.ask(0, parse(f"text {n}", f"s{n}"), SYNC)
    move(one, two)
    for n in range(3):
        two.ask(0, parse(f"new {n}", f"s{n}"), SYNC)
        assert two.went == "CPS"
    assert sorted(prepared(two)) == ["new 0", "new 1", "new 2", "text 3", "text 4"]
    two.ask(0, parse("text 3", "x"), run("x"))
    assert two.went == "BES"
    move(two, one)
    one.ask(0, run("s4"))
    assert one.went == "BES"
    one.ask(0, run("s0"))
    assert one.went == "CPBES"


def test_more_than_travels(make: Make) -> None:
    """They are all forgotten, before the first client."""
    one, two = make(most=2000), make(b"1.bbb.", most=2000)
    one.backends.append(Backend())
    one.bench.add_server()
    for n in range(700):
        one.ask(0, parse(f"text {n}", f"s{n}"), SYNC)
    record, backend = give(one)
    assert len(record) < 1000
    assert receive(two, record, backend)
    assert [one.body.rstrip(b"\0").decode() for one in two.sent] == [DEALLOCATE]
    assert (prepared(two), names_of(two)) == ([], [])
    assert rows(two.ask(0, parse("text 7", "s"), run("s"))) == [b"text 7"]


def test_no_memory_for_what_comes(pair: Pair) -> None:
    one, two = pair
    for n in range(20):
        one.ask(0, parse(f"text {n}", f"s{n}"), SYNC)
    two.bench.limit_statements(total_bytes=2000)
    move(one, two)
    assert [one.body.rstrip(b"\0").decode() for one in two.sent] == [DEALLOCATE]
    assert two.bench.statement_counts() == (0, 0)


def test_workers_that_count_names_take_none_for_their_own(probe: ModuleType) -> None:
    """Without a key the same name means something else to each."""
    worlds = []
    for _ in range(2):
        bench = probe.Bench(8, (), MOST)
        bench.wait_until(1_000_000)
        worlds.append(World(bench, 2, 0))
    one, two = worlds
    one.backends.append(Backend())
    one.bench.add_server()
    for n in range(3):
        one.ask(0, parse(f"of one {n}", f"s{n}"), SYNC)
    move(one, two)
    for n in range(5):
        said = two.ask(0, parse(f"of two {n}", f"s{n}"), run(f"s{n}"))
        assert rows(said) == [f"of two {n}".encode()]
    move(two, one)
    for n in range(3):
        assert rows(one.ask(0, run(f"s{n}"))) == [f"of one {n}".encode()]


# ------------------------------------------------------------ chance


def something(chance: random.Random) -> bytes:
    name, word = f"s{chance.randrange(4)}", f"text {chance.randrange(8)}"
    way = chance.randrange(8)
    if way == 0:
        return close(name) + SYNC
    if way == 1:
        return query(f"prepare q as {word}; execute q; deallocate q")
    if way == 2:
        return query(chance.choice(["deallocate all", "begin; rollback"]))
    if way == 3:
        return parse(word, name) + SYNC
    if way == 4:
        return parse("bad", name) + parse(word, "never") + SYNC
    if way == 5:
        return parse(f"execute {name}", "e") + run("e")
    if way == 6:
        return close(name) + parse(word, name) + run(name)
    return run(name)


@pytest.mark.parametrize("seed", range(30))
def test_each_client_is_told_what_it_is_told_alone(make: Make, seed: int) -> None:
    """Whatever it asks, wherever its server has been."""
    chance = random.Random(seed)
    worlds = [make(b"%d.own." % n, most=chance.choice([3, 6, 100])) for n in range(2)]
    twins = {(n, i): Backend() for n in range(2) for i in range(2)}
    at = 0
    worlds[0].backends.append(Backend())
    worlds[0].bench.add_server()
    for _ in range(150):
        if chance.random() < 0.3:
            move(worlds[at], worlds[1 - at])
            at = 1 - at
        i, raw = chance.randrange(2), something(chance)
        said = worlds[at].ask(i, raw)
        alone = twins[at, i].feed(raw)
        assert codes(messages_in(said)) == codes(messages_in(alone)), raw
        assert (rows(said), errors(said)) == (rows(alone), errors(alone)), raw
        had = worlds[at].bench.server_names(len(worlds[at].backends) - 1)
        assert {one.decode() for one in had} <= set(worlds[at].backends[-1].named)


def test_a_record_that_is_garbled(make: Make) -> None:
    """Refused, or believed; no text is ever taken for another one."""
    chance = random.Random(7)
    one = make()
    one.backends.append(Backend())
    one.bench.add_server()
    for n in range(6):
        one.ask(0, parse(f"text {n}", f"s{n}"), SYNC)
    record, backend = give(one)
    named = dict(backend.named)
    start = record.index(b"\x02p_") + 7
    believed = 0
    for turn in range(700):
        at = chance.randrange(start - 7, len(record))
        garbled = record[:at] + bytes([chance.randrange(256)]) + record[at + 1 :]
        if turn % 4 == 1:
            garbled = garbled[:at]
        elif turn % 4 == 2:
            garbled += chance.randbytes(chance.randrange(1, 60))
        two = make(b"1.bbb.")
        backend.named = dict(named)
        if not receive(two, garbled, backend):
            continue
        believed += 1
        for n in range(6):
            said = two.ask(0, parse(f"text {n}", f"s{n}"), run(f"s{n}"))
            assert rows(said) in ([f"text {n}".encode()], []), garbled
    assert 0 < believed < 300
