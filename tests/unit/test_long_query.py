# SPDX-License-Identifier: MIT
"""Queries that are too long to be kept: their first name is replaced, they stream."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from tests.reference.backend_ref import Backend
from tests.unit.test_prepare import World, error_of
from tests.wire_client import SYNC, bind, codes, execute, messages_in, parse, query

LONG = 100  # bytes from which on they are
VALUE = "v" * 200
PIECES = (1, 2, 3, 7, 50, 113, 10_000)

Make = Callable[..., World]


@pytest.fixture
def make(probe: ModuleType) -> Make:
    def world(clients: int = 2, servers: int = 1, **limits: int) -> World:
        bench = probe.Bench(8, (), 100)
        bench.limit_statements(long_query_bytes=limits.pop("long", LONG), **limits)
        return World(bench, clients, servers)

    return world


def to_server(world: World) -> bytes:
    """What has been sent to servers and not been carried there yet."""
    sent = world.bench.take_sent()
    return b"".join(data for kind, _, data in sent if kind == "server")


def goes_out(world: World, raw: bytes, piece: int, client: int = 0) -> bytes:
    """What a server is sent for bytes that come in pieces; nothing is answered."""
    for at in range(0, len(raw), piece):
        world.bench.client_feed(client, raw[at : at + piece])
        held = world.bench.client_state(client)[2]
        assert held < 2 * LONG, "it is held"
    return to_server(world)


def ask(world: World, raw: bytes, piece: int, client: int = 0) -> bytes:
    """Send in pieces, let everything be answered; what the client has got."""
    said = b""
    for at in range(0, len(raw), piece):
        world.bench.client_feed(client, raw[at : at + piece])
        while moved := world.bench.take_sent():
            for kind, i, data in moved:
                if kind == "client":
                    said += data if i == client else b""
                elif answer := world.backends[i].feed(data):
                    assert world.bench.server_feed(i, answer)[2] == "ok"
    return said


# ------------------------------------------------------------ EXECUTE, DEALLOCATE


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (f"execute a('{VALUE}')", f"execute \"p_1\"('{VALUE}')"),
        (f'EXECUTE\n"a" ({VALUE}', f'EXECUTE\n"p_1" ({VALUE}'),
        (f"explain (analyze) execute a/*{VALUE}*/",) * 2,
        (f"--\n;execute A({VALUE});", f'--\n;execute "p_1"({VALUE});'),
        (f"deallocate a;{VALUE}", f'deallocate "p_1";{VALUE}'),
        (f"execute nobody({VALUE})",) * 2,
        (f"execute p_1({VALUE})", f'execute "p_1?"({VALUE})'),
        (f"select '{VALUE}'; execute a",) * 2,
        (f"discard all; {VALUE}",) * 2,
    ],
)
def test_name_is_replaced(make: Make, asked: str, sent: str, piece: int) -> None:
    world = make()
    world.ask(0, query("prepare a as one"))
    if sent.startswith("explain"):
        sent = sent.replace(" a/", ' "p_1"/')
    assert goes_out(world, query(asked), piece) == query(sent)


@pytest.mark.parametrize("piece", PIECES)
def test_server_is_given_what_it_lacks(make: Make, piece: int) -> None:
    world = make(servers=2)
    world.ask(0, query("prepare a as one"))
    world.ask(1, query("begin"))  # takes the server that has it
    sent = goes_out(world, query(f"execute a({VALUE})"), piece)
    assert sent == query('PREPARE "p_1" as one') + query(f'execute "p_1"({VALUE})')


@pytest.mark.parametrize("piece", PIECES)
def test_what_follows_is_not_renamed(make: Make, piece: int) -> None:
    """As behind a command that does not concern us."""
    world = make()
    world.ask(0, query("prepare a as one"))
    world.ask(0, query("prepare b as two"))
    more = f"({VALUE}); execute b; deallocate b; prepare c as x"
    assert goes_out(world, query(f"execute a{more}"), piece) == (
        query(f'execute "p_1"{more}')
    )


@pytest.mark.parametrize("piece", PIECES)
def test_deallocated_name_is_gone(make: Make, piece: int) -> None:
    world = make()
    world.ask(0, query("prepare a as one"))
    ask(world, query(f"deallocate a{' ' * LONG}"), piece)
    assert world.bench.client_names(0) == {}
    assert world.bench.server_names(0) == []
    assert error_of(world.ask(0, query("execute a")))["C"] == "26000"


@pytest.mark.parametrize("piece", PIECES)
def test_names_wait_until_all_is_forgotten(make: Make, piece: int) -> None:
    world = make(long=10)
    world.ask(0, query("prepare a as one"))
    said = ask(world, query("deallocate all") + query("execute a"), piece)
    assert world.bench.client_names(0) == {}
    assert error_of(said)["C"] == "26000"


def test_no_room_to_keep_it(make: Make) -> None:
    """Then a shorter one streams as well."""
    world = make(long=1000, total_bytes=400)
    world.ask(0, query("prepare a as one"))
    asked, sent = (f"execute {name}('{VALUE * 2}')" for name in ("a", '"p_1"'))
    assert goes_out(world, query(asked), 50) == query(sent)


# ------------------------------------------------------------ PREPARE


@pytest.mark.parametrize("piece", PIECES)
def test_text_is_forwarded_and_kept(make: Make, piece: int) -> None:
    world = make(servers=2)
    sent = goes_out(world, query(f"prepare A as {VALUE}"), piece)
    assert sent == query(f'prepare "p_1" as {VALUE}')
    world.bench.server_feed(1, Backend().feed(sent))
    assert world.bench.client_names(0) == {b"a": (b"p_1", f" as {VALUE}\0".encode())}
    assert world.bench.server_names(1) == [b"p_1"]
    assert goes_out(world, query("execute a"), piece) == query('execute "p_1"')


@pytest.mark.parametrize("piece", PIECES)
def test_text_is_prepared_on_another_server(make: Make, piece: int) -> None:
    world = make(servers=2)
    assert codes(messages_in(ask(world, query(f"prepare a as {VALUE}"), piece))) == "CZ"
    world.ask(1, query("begin"))
    said = ask(world, query("execute a"), piece)
    assert VALUE.encode() in said
    assert codes(messages_in(said)) == "DCZ"
    said = ask(world, bind(statement="a") + execute() + SYNC, piece)
    assert VALUE.encode() in said


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("more", ["", ";; ", "; select ';'", f";{VALUE}"])
def test_text_ends_with_its_command(make: Make, piece: int, more: str) -> None:
    """What follows may not run again where the statement is prepared anew."""
    world = make()
    text = f" as x';{VALUE}'"
    goes_out(world, query(f"prepare a{text}{more}"), piece)
    assert world.bench.client_names(0) == {b"a": (b"p_1", f"{text}\0".encode())}
    size = world.bench.statement_counts()[1]
    world.bench.server_feed(0, Backend().feed(query("prepare a as one")))
    # whatever becomes of the commands behind it
    assert world.bench.server_names(0) == [b"p_1"]
    assert world.bench.statement_counts() == (1, size)
    assert size < 230 + len(text)


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize(
    ("limits", "state"),
    [
        ({"client_bytes": 150}, "53400"),
        ({"client_count": 1}, "53400"),
        ({"total_bytes": 300}, "53200"),
    ],
)
def test_limits(make: Make, piece: int, limits: dict[str, int], state: str) -> None:
    world = make(**limits)
    world.ask(0, query("prepare first as one"))
    before = world.bench.statement_counts()
    said = ask(world, query(f"prepare a as {VALUE}") + query("one"), piece)
    assert codes(messages_in(said)) == "EZDCZ"
    assert error_of(said)["C"] == state
    assert world.bench.statement_counts() == before
    assert list(world.bench.client_names(0)) == [b"first"]


@pytest.mark.parametrize("piece", PIECES)
def test_prepare_that_fails(make: Make, piece: int) -> None:
    world = make(long=10)
    said = ask(world, query("prepare a as bad"), piece)
    assert error_of(said)["C"] == "42601"
    assert world.bench.client_names(0) == {}
    assert world.bench.effects(0) == 0
    assert codes(messages_in(world.ask(0, query("prepare a as one")))) == "CZ"


@pytest.mark.parametrize("piece", PIECES)
def test_name_that_is_taken(make: Make, piece: int) -> None:
    world = make()
    world.ask(0, query("prepare a as one"))
    said = ask(world, query(f"prepare a as {VALUE}"), piece)
    assert error_of(said)["M"] == 'prepared statement "a" already exists'
    assert b"one" in world.ask(0, query("execute a"))
    assert world.bench.statement_counts()[0] == 1


def test_position_of_an_error_is_the_clients(make: Make) -> None:
    world = make()
    raw = query(f"prepare a as {VALUE} oops")
    goes_out(world, raw, 50)
    at = raw.index(b"oops") - 5 + 1
    failed = b"E\0\0\0\x1eSERROR\0C42601\0P%d\0\0" % (at + len('"p_1"') - len("a"))
    answer = failed + b"Z\0\0\0\5I"
    _, said, _ = world.bench.server_feed(0, answer)
    assert error_of(said)["P"] == str(at)


@pytest.mark.parametrize("sent", [20, 100])
def test_client_that_leaves_in_the_middle(make: Make, sent: int) -> None:
    world = make()
    goes_out(world, query(f"prepare a as {VALUE}")[: 5 + sent], 7)
    world.bench.drop_client(0)
    assert world.bench.statement_counts() == (0, 0)


@pytest.mark.parametrize("piece", [7, 10_000])
def test_prepare_behind_a_batch_that_fails(make: Make, piece: int) -> None:
    """PostgreSQL skips it: its text was kept for nothing."""
    world = make()
    raw = parse("bad", "b") + query(f"prepare a as {VALUE}") + SYNC
    assert codes(messages_in(ask(world, raw, piece))) == "EZ"
    assert world.bench.client_names(0) == {}
    assert world.bench.server_names(0) == []


# ------------------------------------------------------------ real sizes


@pytest.mark.parametrize("size", [1 << 20, 3 << 20])
@pytest.mark.parametrize("piece", [131_072, 1 << 30])
def test_megabytes(make: Make, size: int, piece: int) -> None:
    world = make(long=1 << 20)
    value = "v" * size
    sent = b""
    raw = query(f"prepare a as {value}") + query(f"execute a({value})")
    for at in range(0, len(raw), piece):
        world.bench.client_feed(0, raw[at : at + piece])
        for kind, i, data in world.bench.take_sent():
            if kind == "client":
                continue
            assert len(data) <= max(2 * piece, size + 200)
            sent += data
            if answer := world.backends[i].feed(data):
                world.bench.server_feed(i, answer)
    sent += to_server(world)
    assert sent == query(f'prepare "p_1" as {value}') + query(f'execute "p_1"({value})')
