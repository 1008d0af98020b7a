# SPDX-License-Identifier: MIT
"""Servers that move from one engine to another: the record, and the descriptor."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator

import pytest

from pooler.io.conn import Notice
from pooler.io.engine import Engine

NAMES = ["application_name", "TimeZone"]
VALUES = [b"psql", b"UTC"]

Adopt = Callable[[Engine, int], tuple[int, socket.socket]]


def make_engine(*names: str) -> Engine:
    return Engine(names or NAMES, statement_prefix=os.urandom(4).hex().encode())


@pytest.fixture
def giver() -> Iterator[Engine]:
    made = make_engine()
    yield made
    made.close()


@pytest.fixture
def taker() -> Iterator[Engine]:
    made = make_engine()
    yield made
    made.close()
    assert made.counters()["parameter_sets"] == 0
    assert made.counters()["servers"] == 0


def configure(engine: Engine, pool_id: int, statements: int = 200) -> None:
    engine.pool_configure(
        pool_id,
        mode=1,
        reset_query=b"",
        reset_always=False,
        check_query=b"",
        check_delay_us=0,
        cancel_abandoned=False,
        max_prepared_statements=statements,
    )


def make_pool(engine: Engine, servers: int = 2) -> int:
    pool_id = engine.pool_create(servers)
    configure(engine, pool_id)
    return pool_id


@pytest.fixture
def adopt() -> Iterator[Adopt]:
    """Give an engine a server; its other end, PostgreSQL's, is returned as well."""
    ends: list[socket.socket] = []

    def make(engine: Engine, pool_id: int) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair()
        ends.append(theirs)
        ours.setblocking(False)
        theirs.settimeout(5)
        handle = engine.link_open(ours.detach())
        engine.server_adopt(handle, pool_id, VALUES)
        engine.run(0)
        engine.take_notices()
        return handle, theirs

    yield make
    for end in ends:
        end.close()


def give(engine: Engine, handle: int) -> tuple[int, bytes]:
    given = engine.server_give(handle)
    assert given is not None
    return given


def closed_servers(engine: Engine) -> list[int]:
    return [
        row[1] for row in engine.take_notices() if row[0] == Notice.NOTICE_SERVER_CLOSED
    ]


def test_a_server_moves(giver: Engine, taker: Engine, adopt: Adopt) -> None:
    """It is idle there, as old as it was, and what PostgreSQL has sent is not lost."""
    handle, server = adopt(giver, make_pool(giver))
    fd, record = give(giver, handle)
    assert giver.counters()["servers"] == 0
    assert giver.pool_stats(0)["servers"] == giver.pool_stats(0)["idle"] == 0
    assert giver.counters()["parameter_sets"] == 0
    assert giver.server_give(handle) is None

    server.sendall(b"S" + (4 + 13).to_bytes(4, "big") + b"TimeZone\0CET\0")
    pool_id = make_pool(taker)
    moved = taker.server_receive(fd, pool_id, record)
    assert taker.pool_idle_servers(pool_id) == [moved]
    taker.run(0)
    assert taker.pool_stats(pool_id)["idle"] == 1

    again = give(taker, moved)
    assert again[1][:10] == record[:10]  # version, marks, when it was opened
    assert b"CET" in again[1]
    assert b"CET" not in record
    os.close(again[0])
    assert server.recv(1) == b""


def test_the_giver_hears_no_more_of_it(
    giver: Engine, taker: Engine, adopt: Adopt
) -> None:
    """The socket lives on, so epoll would go on reporting it."""
    handle, server = adopt(giver, make_pool(giver))
    fd, record = give(giver, handle)
    moved = taker.server_receive(fd, make_pool(taker), record)
    server.close()
    assert giver.run(0) == []
    assert taker.run(5)
    assert closed_servers(taker) == [moved]
    assert giver.run(0) == []


def test_what_is_not_idle_stays(giver: Engine, adopt: Adopt) -> None:
    pool_id = make_pool(giver)
    handle, server = adopt(giver, pool_id)
    assert giver.pool_inquire(pool_id, b"SELECT 1")
    assert giver.server_give(handle) is None
    assert giver.server_give(handle + 77) is None
    assert server.recv(100).startswith(b"Q")
    assert giver.counters()["servers"] == 1


def test_what_has_begun_a_message_stays(giver: Engine, adopt: Adopt) -> None:
    handle, server = adopt(giver, make_pool(giver))
    server.sendall(b"N\0\0\0\x40notice")
    giver.run(0)
    assert giver.server_give(handle) is None


def test_a_paused_pool_gives_and_takes_nothing(
    giver: Engine, taker: Engine, adopt: Adopt
) -> None:
    pool_id = make_pool(giver)
    handle, _server = adopt(giver, pool_id)
    fd, record = give(giver, handle)
    there = make_pool(taker)
    taker.pool_retire(there, True)
    with pytest.raises(ValueError, match="does not want"):
        taker.server_receive(fd, there, record)
    os.close(fd)


def test_a_pool_takes_no_more_than_it_may_have(
    giver: Engine, taker: Engine, adopt: Adopt
) -> None:
    source, there = make_pool(giver), make_pool(taker, 1)
    first, _one = adopt(giver, source)
    second, _two = adopt(giver, source)
    taker.server_receive(*(give(giver, first)[0], there, give(giver, second)[1]))
    handle, _three = adopt(giver, source)
    fd, record = give(giver, handle)
    with pytest.raises(ValueError, match="does not want"):
        taker.server_receive(fd, there, record)
    os.close(fd)


def test_what_was_replaced_there_is_not_taken(
    giver: Engine, taker: Engine, adopt: Adopt
) -> None:
    """RECONNECT, or a reload, has reached the other worker first."""
    handle, _server = adopt(giver, make_pool(giver))
    there = make_pool(taker)
    taker.pool_retire(there, False)
    fd, record = give(giver, handle)
    with pytest.raises(ValueError, match="does not want"):
        taker.server_receive(fd, there, record)
    os.close(fd)


def test_names_are_ours_at_both_ends_or_at_none(
    giver: Engine, taker: Engine, adopt: Adopt
) -> None:
    handle, _server = adopt(giver, make_pool(giver))
    there = make_pool(taker)
    configure(taker, there, statements=0)
    fd, record = give(giver, handle)
    with pytest.raises(ValueError, match="does not want"):
        taker.server_receive(fd, there, record)
    os.close(fd)


@pytest.mark.parametrize(
    "names",
    [
        ["application_name"],
        ["TimeZone", "application_name"],
        [*NAMES, "my"],
        ["a", "b"],
    ],
)
def test_who_follows_other_parameters_takes_it_not(
    giver: Engine, adopt: Adopt, names: list[str]
) -> None:
    other = make_engine(*names)
    handle, _server = adopt(giver, make_pool(giver))
    fd, record = give(giver, handle)
    with pytest.raises(ValueError, match="cannot be used"):
        other.server_receive(fd, make_pool(other), record)
    os.fstat(fd)  # the caller's still
    os.close(fd)
    assert other.counters()["parameter_sets"] == 0
    other.close()


def test_a_record_is_not_believed(giver: Engine, taker: Engine, adopt: Adopt) -> None:
    """Cut, longer, damaged at each byte, or anything at all: no more than refused."""
    handle, server = adopt(giver, make_pool(giver))
    fd, record = give(giver, handle)
    there = make_pool(taker, 1)
    chance = random.Random(1)
    tried = [record[:n] for n in range(len(record))]
    tried += [record + b"\0"]
    for at in range(len(record)):
        for value in (0, 1, 0x7F, 0x80, 0xFF, record[at] ^ 1, chance.randrange(256)):
            tried.append(record[:at] + bytes([value]) + record[at + 1 :])
    tried += [chance.randbytes(chance.randrange(200)) for _ in range(2000)]
    tried += [record[:18] + chance.randbytes(60) for _ in range(2000)]
    refused = 0
    for one in tried:
        if one == record:
            continue
        copy = os.dup(fd)
        try:
            moved = taker.server_receive(copy, there, one)
        except ValueError:
            refused += 1
            os.close(copy)
        else:
            taker.server_close(moved, 0)
            taker.run(0)
            taker.take_notices()
    assert refused > len(tried) * 3 // 4
    taker.server_receive(fd, there, record)
    assert server.fileno() >= 0


def test_names_that_are_not_known_there_go_first(
    giver: Engine, taker: Engine, adopt: Adopt
) -> None:
    """No client has it before PostgreSQL has forgotten them."""
    source, there = make_pool(giver), make_pool(taker)
    handle, server = adopt(giver, source)
    fd, record = give(giver, handle)
    marked = record[:1] + bytes([record[1] | 4]) + record[2:]
    taker.server_receive(fd, there, marked)
    assert server.recv(100) == b"Q\0\0\0\x13DEALLOCATE ALL\0"
    assert taker.pool_idle_servers(there) == []
    server.sendall(b"C\0\0\0\x13DEALLOCATE ALL\0Z\0\0\0\x05I")
    taker.run(0.1)
    assert len(taker.pool_idle_servers(there)) == 1


def test_a_server_that_is_closed_is_heard_of_no_more(
    giver: Engine, adopt: Adopt
) -> None:
    """Another process has the socket as well; its number is soon another's here."""
    pool_id = make_pool(giver)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs, ours:
        handle = giver.link_open(os.dup(ours.fileno()))
        giver.server_adopt(handle, pool_id, VALUES)
        giver.server_close(handle, 0)
        giver.run(0)
        assert len(closed_servers(giver)) == 1
        turns = giver.counters()["turns"]
        theirs.sendall(b"Z\0\0\0\x05I")
        for _ in range(10):
            assert adopt(giver, pool_id)[0] != handle
            giver.pool_retire(pool_id, False)
            giver.run(0)
        # By what is left of it here, which waits for the end of the other side.
        assert giver.counters()["recvs"] <= 1
        assert giver.counters()["turns"] > turns
