# SPDX-License-Identifier: MIT
"""Whoever does not read is waited for: in the kernel's buffers, not in our memory."""

from __future__ import annotations

import contextlib
import os
import select
import struct
import threading
import zlib
from collections.abc import Callable, Iterator

import psutil
import psycopg
import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import (
    DATABASE,
    HOST,
    USER,
    MakePooler,
    Pooler,
    closing_all,
    wait_until,
)
from tests.wire_client import (
    SYNC,
    WireClient,
    bind,
    codes,
    execute,
    message,
    parse,
    query,
    startup,
)

MIB = 1 << 20
LIMIT = 20 * MIB
ROWS = 100_000
ROW_BYTES = 2048  # so 200 MB
BIG_QUERY = (
    f"SELECT repeat(md5(g::text), {ROW_BYTES // 32}) FROM generate_series(1, {ROWS}) g"
)
STALLED_S = 0.5  # who is not writable for so long is held back


class Memory:
    """Resident memory of a pooler since it began to be watched."""

    def __init__(self, pooler: Pooler) -> None:
        self._pooler = pooler
        self._first = pooler.rss_bytes()
        self.peak = 0

    def look(self) -> None:
        self.peak = max(self.peak, self._pooler.rss_bytes() - self._first)


@pytest.fixture
def pooler(make_pooler: MakePooler) -> Pooler:
    return make_pooler(default_pool_size=3)


def warm_up(pooler: Pooler) -> Memory:
    """Have every pool and buffer made, then begin to watch."""
    with pooler.client() as client:
        assert len(
            client.rows("SELECT repeat('x', 100000) FROM generate_series(1, 20)")
        )
    return Memory(pooler)


def wait_event(postgres: Postgres, event: str) -> None:
    """Wait until a backend waits for this."""
    wait_until(
        lambda: postgres.psql(
            f"SELECT 1 FROM pg_stat_activity WHERE usename = '{USER}'"
            f" AND state = 'active' AND wait_event = '{event}'"
        ),
        event,
    )


def serve_others(pooler: Pooler, memory: Memory) -> None:
    with pooler.client() as other:
        for number in range(100):
            assert other.value(f"SELECT {number}") == str(number)
            memory.look()


def read_rows(client: WireClient, memory: Memory) -> tuple[int, int]:
    """Count and checksum of the rows of a result, read to its end."""
    count = checksum = 0
    while (one := client.read()).code != "Z":
        if one.code == "D":
            count += 1
            checksum = zlib.crc32(one.body[6:], checksum)
            if count % 5000 == 0:
                memory.look()
        assert one.code in "TDC", one
    return count, checksum


def rows_checksum(postgres: Postgres) -> int:
    """The checksum of the same rows without a pooler."""
    checksum = 0
    with (
        psycopg.connect(host=HOST, port=postgres.port, dbname=DATABASE, user=USER) as c,
        c.cursor() as cursor,
        cursor.copy(f"COPY ({BIG_QUERY}) TO STDOUT") as copy,
    ):
        for row in copy:
            checksum = zlib.crc32(bytes(row)[:-1], checksum)
    return checksum


def test_client_that_does_not_read(postgres: Postgres, pooler: Pooler) -> None:
    memory = warm_up(pooler)
    with pooler.wire(receive_buffer=65536) as slow:
        slow.login(USER, DATABASE).send(query(BIG_QUERY))
        wait_event(postgres, "ClientWrite")
        serve_others(pooler, memory)
        assert read_rows(slow, memory) == (ROWS, rows_checksum(postgres))
        assert slow.value("SELECT 1") == "1"
    assert memory.peak < LIMIT


def test_many_clients_that_do_not_read(
    postgres: Postgres, make_pooler: MakePooler
) -> None:
    """All of them leave without having read, and the servers are used again."""
    pooler = make_pooler(default_pool_size=20)
    memory = warm_up(pooler)
    with contextlib.ExitStack() as stack:
        for _ in range(19):
            slow = stack.enter_context(pooler.wire(receive_buffer=65536))
            slow.login(USER, DATABASE).send(query(BIG_QUERY))
        wait_until(
            lambda: (
                postgres.psql(
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE wait_event = 'ClientWrite'"
                )
                == [(19,)]
            ),
            "all are held back",
        )
        serve_others(pooler, memory)
    wait_until(
        lambda: (
            not postgres.psql(
                "SELECT 1 FROM pg_stat_activity WHERE state = 'active'"
                f" AND usename = '{USER}'"
            )
        ),
        "the queries end",
    )
    serve_others(pooler, memory)
    assert memory.peak < LIMIT


def test_client_that_sends_on_without_reading(
    postgres: Postgres, pooler: Pooler
) -> None:
    """A pipeline whose answers nobody fetches stops at the kernel's buffers."""
    memory = warm_up(pooler)
    one = parse("SELECT repeat('x', 10000) --".ljust(4000)) + bind() + execute() + SYNC
    with pooler.wire(receive_buffer=65536) as slow:
        slow.login(USER, DATABASE)
        sent = fill(slow, one * 16_000, memory)
        serve_others(pooler, memory)
        whole, cut = divmod(sent, len(one))
        rest = threading.Thread(target=slow.send, args=(one[cut:] if cut else b"",))
        rest.start()
        for number in range(whole + bool(cut)):
            assert codes(slow.read_until("Z")) == "12DCZ"
            if number % 500 == 0:
                memory.look()
        rest.join(10)
        assert slow.value("SELECT 1") == "1"
    assert memory.peak < LIMIT


def fill(client: WireClient, raw: bytes, memory: Memory) -> int:
    """Send until nothing is taken any more; how much was."""
    view = memoryview(raw)
    sent = 0
    while select.select([], [client.socket], [], STALLED_S)[1]:
        client.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sent += client.socket.send(view[sent : sent + MIB])
        memory.look()
        assert sent < len(raw), "never held back"
    client.socket.settimeout(10)
    return sent


@pytest.fixture
def locked_table(postgres: Postgres) -> Iterator[psycopg.Connection[tuple[int]]]:
    """A table with a key that a transaction has taken and not yet kept."""
    dsn = f"host={HOST} port={postgres.port} dbname={DATABASE} user={USER}"
    with psycopg.connect(dsn) as holder:
        holder.execute("DROP TABLE IF EXISTS flood")
        holder.execute("CREATE TABLE flood (id int PRIMARY KEY, filler text)")
        holder.commit()
        holder.execute("INSERT INTO flood VALUES (1, 'mine')")
        yield holder
        holder.rollback()
        holder.execute("DROP TABLE flood")
        holder.commit()


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_copy_into_a_server_that_is_blocked(
    postgres: Postgres,
    pooler: Pooler,
    locked_table: psycopg.Connection[tuple[int]],
    extended: bool,
) -> None:
    memory = warm_up(pooler)
    filler = b"x" * 4000
    rows = 16_000
    raw = b"".join(
        message("d", b"%d\t%b\n" % (number, filler)) for number in range(1, rows + 1)
    )
    sql = "COPY flood FROM STDIN"
    with pooler.client() as client:
        client.send(parse(sql) + bind() + execute() + SYNC if extended else query(sql))
        assert client.read_until("G")
        sent = fill(client, raw, memory)
        wait_event(postgres, "transactionid")
        serve_others(pooler, memory)
        locked_table.rollback()
        client.send(raw[sent:], message("c"), SYNC if extended else b"")
        assert codes(client.read_until("Z")) == "CZ"
        assert client.value("SELECT count(*) FROM flood") == str(rows)
        assert client.value("SELECT min(length(filler)) FROM flood") == "4000"
    memory.look()
    assert memory.peak < LIMIT


def test_one_row_of_256_mb(pooler: Pooler) -> None:
    memory = warm_up(pooler)
    size = 256 * MIB
    room = bytearray(MIB)
    with pooler.client() as client:
        client.socket.settimeout(30)
        client.send(query(f"SELECT repeat('0123456789abcdef', {size // 16})"))
        header = client.read_until("T")[0]
        assert header.code == "T"
        head = client.read_exactly(11)
        assert head == b"D" + struct.pack("!IHI", size + 10, 1, size)
        left = size - len(first := client.read_exactly(16))
        assert first == b"0123456789abcdef"
        checksum = zlib.crc32(first)
        # what the client has read ahead comes first
        ahead = client.read_exactly(len(client._pending))
        checksum, left = zlib.crc32(ahead, checksum), left - len(ahead)
        while left:
            n = client.socket.recv_into(room, min(left, MIB))
            assert n, "ended"
            checksum = zlib.crc32(memoryview(room)[:n], checksum)
            if left // (16 * MIB) != (left - n) // (16 * MIB):
                memory.look()
            left -= n
        expected = 0
        for _ in range(256):
            expected = zlib.crc32(b"0123456789abcdef" * (MIB // 16), expected)
        assert checksum == expected
        assert codes(client.read_until("Z")) == "CZ"
        assert client.value("SELECT 1") == "1"
    assert memory.peak < LIMIT


def test_one_query_of_64_mb(pooler: Pooler) -> None:
    """The other direction: a message is passed on as it comes."""
    memory = warm_up(pooler)
    size = 64 * MIB
    with pooler.client() as client:
        client.socket.settimeout(30)
        client.send(parse("SELECT length($1::text)"))
        client.send(bind(b"x" * size))
        client.send(execute(), SYNC)
        read = client.read_until("Z")
        assert codes(read) == "12DCZ"
        assert read[2].row == [str(size).encode()]
        memory.look()
    assert memory.peak < LIMIT


# No descriptors left


def take_descriptors(pooler: Pooler, spare: int) -> Callable[[], None]:
    """Leave the worker this many descriptors; call the result to give them back."""
    [pid] = pooler.worker_pids()
    process = psutil.Process(pid)
    before = process.rlimit(psutil.RLIMIT_NOFILE)
    limit = max(map(int, os.listdir(f"/proc/{pid}/fd"))) + 1 + spare
    process.rlimit(psutil.RLIMIT_NOFILE, (limit, before[1]))

    def give_back() -> None:
        process.rlimit(psutil.RLIMIT_NOFILE, before)

    return give_back


def test_accept_pauses_without_descriptors(pooler: Pooler) -> None:
    with pooler.client() as good, closing_all([]) as clients:
        assert good.value("SELECT 1") == "1"
        take_descriptors(pooler, 10)
        for _ in range(24):
            clients.append(pooler.wire())
            clients[-1].send(startup(USER, DATABASE))
        pooler.wait_log("accept failed: Too many open files")
        [pid] = pooler.worker_pids()
        used = sum(psutil.Process(pid).cpu_times()[:2])
        pooler.wait_log("accept failed: Too many open files", 2)
        assert sum(psutil.Process(pid).cpu_times()[:2]) - used < 0.5  # it does not spin
        assert good.value("SELECT 1") == "1"
        for client in clients[:10]:
            client.read_greeting()
            client.close()
        for client in clients[10:]:  # for a second they could still be served
            fields = client.read_fatal()
            assert fields["C"] == "53300"
            assert fields["M"] == "no more connections allowed (file descriptors)"
        with pooler.client() as late:
            assert late.value("SELECT 1") == "1"


def test_no_descriptor_for_a_server(pooler: Pooler) -> None:
    """Our own want says nothing about the server: nobody waits out a retry time."""
    with pooler.client() as first, pooler.client() as second:
        first.ask(query("BEGIN"))
        give_back = take_descriptors(pooler, 0)
        second.send(query("SELECT 1"))
        pooler.wait_log("Too many open files")
        give_back()
        assert codes(second.read_until("Z")) == "TDCZ"
        first.ask(query("COMMIT"))


# Connections that say little, messages that are too long


def test_thousands_that_say_nothing_or_half_of_it(make_pooler: MakePooler) -> None:
    pooler = make_pooler(listen_backlog=1024)
    pids = pooler.worker_pids()
    said = startup(USER, DATABASE)

    def one_round() -> None:
        with closing_all([]) as clients:
            for number in range(900):
                clients.append(pooler.wire())
                if number % 3:
                    clients[-1].send(said[: number % len(said)])
            assert good.value("SELECT 1") == "1"
            for client in clients[::2]:
                client.reset()

        wait_until(lambda: pooler.sockets_of_workers() == 1, "all others are gone")

    with pooler.client() as good:
        one_round()
        memory = Memory(pooler)
        for _ in range(3):
            one_round()
            memory.look()
        assert memory.peak < MIB
    assert pooler.worker_pids() == pids


def test_max_packet_size(make_pooler: MakePooler) -> None:
    pooler = make_pooler(max_packet_size=10_000)
    with pooler.client() as good:
        for sql, taken in ((9_990, True), (9_999, False), (5_000_000, False)):
            with pooler.client() as client, contextlib.suppress(ConnectionError):
                client.send(query("SELECT 1".ljust(sql)))
                if taken:
                    assert codes(client.read_until("Z")) == "TDCZ"
                else:
                    fields = client.read_fatal()
                    assert (fields["C"], fields["M"]) == ("08P01", "bad packet")
        with pooler.client() as client:
            client.send(query("SELECT repeat('x', 9000)"))
            assert codes(client.read_until("Z")) == "TDCZ"
            client.send(query("SELECT repeat('x', 10000)"))
            assert client.read_fatal()["M"] == "bad packet from server"
        assert good.value("SELECT 1") == "1"
