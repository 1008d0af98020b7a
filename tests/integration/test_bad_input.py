# SPDX-License-Identifier: MIT
"""What no client should send: the sender is told and closed, nobody else notices."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import (
    DATABASE,
    USER,
    InProcess,
    MakePooler,
    Pooler,
    backends,
    rss_bytes,
    wait_until,
)
from tests.wire_client import (
    PROTOCOL_3_0,
    SSL_REQUEST,
    SYNC,
    TERMINATE,
    WireClient,
    bind,
    cancel_request,
    codes,
    describe,
    execute,
    extended,
    message,
    parse,
    query,
    startup,
    text,
)

MIB = 1 << 20
SEED = 20261123
MakeWorker = Callable[..., InProcess]


def header(code: str, length: int) -> bytes:
    return code.encode("latin-1") + struct.pack("!I", length & 0xFFFF_FFFF)


def opening(length: int, code: int = PROTOCOL_3_0, body: bytes = b"") -> bytes:
    return struct.pack("!II", length & 0xFFFF_FFFF, code) + body


def login_packet(body: bytes, code: int = PROTOCOL_3_0) -> bytes:
    return opening(8 + len(body), code, body)


NAMES = text("user") + text(USER) + text("database") + text(DATABASE)
PROTOCOL = "08P01"
FEATURE = "0A000"
SILENCE = ""
# What is sent instead of a startup packet, and the SQLSTATE of the answer.
BEFORE_LOGIN = {
    "length 0": (opening(0), SILENCE),
    "length 4": (opening(4), SILENCE),
    "length 7": (opening(7), SILENCE),
    "length 10005": (opening(10_005), SILENCE),
    "length -1": (opening(-1), SILENCE),
    "length -2**31": (opening(-(1 << 31)), SILENCE),
    "length 2**31 - 1": (opening((1 << 31) - 1), SILENCE),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: db\r\n\r\n", SILENCE),
    "ReadyForQuery": (message("Z", b"I"), SILENCE),
    "AuthenticationOk": (message("R", bytes(4)), SILENCE),
    "Query": (query("SELECT 1"), SILENCE),
    "Terminate": (TERMINATE, SILENCE),
    "version 2": (login_packet(bytes(288), 0x0002_0000), FEATURE),
    "version 4": (login_packet(NAMES + b"\0", 0x0004_0000), FEATURE),
    "no terminator": (login_packet(NAMES), PROTOCOL),
    "name without a value": (login_packet(NAMES + b"DateStyle\0"), PROTOCOL),
    "bytes behind the terminator": (login_packet(NAMES + b"\0x"), PROTOCOL),
    "no user": (login_packet(text("database") + text(DATABASE) + b"\0"), "28000"),
    "empty user": (login_packet(text("user") + text("") + b"\0"), "28000"),
    "long user": (startup("u" * 128, DATABASE), "28000"),
    "long database": (startup(USER, "d" * 64), "3D000"),
    "long value": (startup(USER, DATABASE, application_name="x" * 9000), "22023"),
    "parameter unknown": (startup(USER, DATABASE, nonsense="1"), PROTOCOL),
    "bytes behind SSLRequest": (SSL_REQUEST + startup(USER, DATABASE), PROTOCOL),
    "bytes behind a long SSLRequest": (opening(9, 80877103, b"xy"), PROTOCOL),
    "cancel key too short": (cancel_request(bytes(7)), SILENCE),
    "cancel key too long": (cancel_request(bytes(261)), SILENCE),
}
# After the login, in place of a message.
SERVER_ONLY = "RKvZTIs123ntVGWAN"
AFTER_LOGIN = {
    **{f"server message {code}": message(code, bytes(8)) for code in SERVER_ONLY},
    "PasswordMessage": message("p", text("secret")),
    "type 0": header("\0", 4),
    "type 255": header("\xff", 4),
    "another startup packet": startup(USER, DATABASE),
    "SSLRequest": SSL_REQUEST,
    "length 0": header("Q", 0),
    "length 3": header("Q", 3),
    "length -1": header("Q", -1),
    "length -2**31": header("Q", -(1 << 31)),
    "query of 1 GB": header("Q", 0x3FFF_FFFF),
    "copy data of 1 GB": header("d", 0x3FFF_FFFF),
    "Query without a text": header("Q", 4),
    "Parse too short": message("P", bytes(3)),
    "Bind too short": message("B", bytes(7)),
    "Sync with a body": message("S", b"x"),
    "Terminate with a body": message("X", b"x"),
    "CopyDone with a body": message("c", b"x"),
    "Describe of 16 kB": message("D", b"P" + bytes(16_384)),
}


@contextlib.contextmanager
def bystander(worker: InProcess) -> Iterator[Callable[[], None]]:
    """A client that must not notice; call it to see that all others are gone."""
    with worker.client() as client:

        def check() -> None:
            wait_until(lambda: worker.engine.client_count == 1, "the others leave", 5)
            assert client.value("SELECT 1") == "1"

        check()
        yield check


def fatal_of(client: WireClient, what: str) -> str:
    """The SQLSTATE of the FATAL message that ends a connection."""
    read = client.read_to_end()
    assert codes(read)[-1:] == "E", (what, read)
    assert read[-1].fields["S"] == read[-1].fields["V"] == "FATAL", (what, read)
    return read[-1].fields["C"]


def test_before_login(worker_in_process: MakeWorker) -> None:
    worker = worker_in_process()
    with bystander(worker) as check:
        for what, (said, sqlstate) in BEFORE_LOGIN.items():
            with WireClient(worker.port) as client:
                client.send(said)
                if sqlstate == SILENCE:
                    assert client.read_to_end() == [], what
                else:
                    assert fatal_of(client, what) == sqlstate, what
            check()


@pytest.mark.parametrize("again", [SSL_REQUEST, b"\x16\x03\x01\x02\x00" + bytes(512)])
def test_second_request_for_tls(worker_in_process: MakeWorker, again: bytes) -> None:
    """A handshake is not answered: in the clear that would only confuse."""
    worker = worker_in_process()
    with bystander(worker) as check, WireClient(worker.port) as client:
        client.send(SSL_REQUEST)
        assert client.read_exactly(1) == b"N"
        client.send(again)
        assert codes(client.read_to_end()) == ("E" if again == SSL_REQUEST else "")
        check()


@pytest.mark.parametrize("auth_type", ["plain", "md5", "scram-sha-256"])
def test_instead_of_a_password(make_pooler: MakePooler, auth_type: str) -> None:
    pooler = make_pooler(
        {DATABASE: f"user={USER}"}, f'"{USER}" "secret"\n', auth_type=auth_type
    )
    told = {
        "query": query("SELECT 1"),
        "server message": message("R", bytes(4)),
        "terminate": TERMINATE,
        "no terminator": message("p", b"secret"),
        "nothing in it": message("p"),
    }
    no_length = {
        "length 3": header("p", 3),
        "length -1": header("p", -1),
        "length 2**31 - 1": header("p", (1 << 31) - 1),
        "length 65536": header("p", 65_536),
    }
    for what, raw in (told | no_length).items():
        with pooler.wire() as client:
            client.send(startup(USER, DATABASE))
            assert client.read().code == "R"
            client.send(raw)
            if what in no_length and auth_type != "scram-sha-256":
                assert client.read_to_end() == [], what
            else:
                assert fatal_of(client, what)[:2] in ("08", "28"), what
    wait_until(lambda: pooler.sockets_of_workers() == 0, "all are closed")
    assert len(pooler.worker_pids()) == 1


@pytest.mark.parametrize("first", ["SELECT 1", "BEGIN; CREATE TABLE nobodys ()"])
def test_after_login(worker_in_process: MakeWorker, first: str) -> None:
    """Nothing of a transaction is left, and the server is as good as new."""
    worker = worker_in_process(default_pool_size=1)
    with bystander(worker) as check:
        for what, said in AFTER_LOGIN.items():
            with worker.client() as client:
                client.ask(query(first))
                client.send(said)
                assert fatal_of(client, what) == PROTOCOL, what
            check()


def test_well_framed_nonsense_is_for_the_server_to_judge(
    worker_in_process: MakeWorker,
) -> None:
    """PostgreSQL answers with an error and the session goes on."""
    worker = worker_in_process(default_pool_size=1)
    said = {
        "text without an end": message("Q", b"SELECT 1"),
        "Parse": message("P", b"\xff" * 20) + SYNC,
        "Bind": message("B", b"\xff" * 20) + SYNC,
        "Describe": message("D", b"?what\0") + SYNC,
        "Execute": message("E", b"\xff" * 9) + SYNC,
        "Close": message("C", b"?what\0") + SYNC,
        "FunctionCall": message("F", b"\xff" * 20),
        "Execute of nothing": execute("none") + SYNC,
    }
    with bystander(worker), worker.client() as client:
        for what, raw in said.items():
            read = client.ask(raw)
            assert codes(read) == "EZ", (what, read)
            assert read[0].fields["S"] == "ERROR", (what, read[0].fields)
            assert client.value("SELECT 2") == "2", what


def test_copy_messages_without_a_copy_are_dropped(
    worker_in_process: MakeWorker,
) -> None:
    """As PostgreSQL does: they may come late for a COPY that has failed."""
    worker = worker_in_process()
    late = message("d", b"1\n") + message("c") + message("d") + message("f", text("x"))
    with bystander(worker), worker.client() as client:
        client.send(late)
        assert client.value("SELECT 1") == "1"
        client.value("BEGIN; SELECT 1")
        client.send(late)
        assert client.value("SELECT 1") == "1"
        client.ask(query("COMMIT"))


def test_session_split_at_every_byte(worker_in_process: MakeWorker) -> None:
    worker = worker_in_process()
    hello = startup(USER, DATABASE, application_name="split")
    asked = (
        query("SELECT 1")
        + parse("SELECT $1::text", "s")
        + describe("s", "S")
        + bind(b"two", statement="s")
        + execute()
        + message("C", b"S" + text("s"))
        + SYNC
        + query("SELECT 'three'")
    )
    answer = "TDCZ" + "1tT2DC3Z" + "TDCZ"

    def send_in_two(client: WireClient, raw: bytes, at: int) -> None:
        before = worker.engine.counters()["recvs"]
        client.send(raw[:at])
        wait_until(lambda: worker.engine.counters()["recvs"] > before, "the first part")
        client.send(raw[at:])

    def read_answers(client: WireClient) -> str:
        return "".join(codes(client.read_until("Z")) for _ in range(answer.count("Z")))

    with bystander(worker) as check:
        for at in range(1, len(hello)):
            with WireClient(worker.port) as client:
                send_in_two(client, hello, at)
                client.read_greeting()
        with worker.client() as client:
            for at in range(1, len(asked)):
                send_in_two(client, asked, at)
                assert read_answers(client) == answer, at
        with WireClient(worker.port) as client:
            client.send_split(hello)
            client.read_greeting()
            client.send_split(asked)
            assert read_answers(client) == answer
            client.send_split(TERMINATE)
            assert client.read_to_end() == []
        check()


def test_login_and_much_more_in_one_go(worker_in_process: MakeWorker) -> None:
    """Who does not wait for the greeting is held back, not thrown out."""
    worker = worker_in_process()
    size = MIB
    with WireClient(worker.port) as client:
        client.send(startup(USER, DATABASE), query(f"SELECT length('{'x' * size}')"))
        client.read_greeting()
        assert codes(read := client.read_until("Z")) == "TDCZ"
        assert read[1].row == [str(size).encode()]


@pytest.mark.parametrize("setting", [0, 1])
@pytest.mark.parametrize("cut", ["query", "data"])
def test_client_lost_in_the_middle_of_a_message(
    postgres: Postgres, make_pooler: MakePooler, cut: str, setting: int
) -> None:
    """The server waits for the rest, so it cannot be kept."""
    pooler = make_pooler(default_pool_size=1, cancel_abandoned=setting)
    with pooler.client() as client:
        client.ask(query("BEGIN; INSERT INTO pgbench_history VALUES (77)"))
        [server] = backends(postgres)
        if cut == "data":
            client.send(query("COPY pgbench_branches FROM STDIN"))
            client.read_until("G")
            client.send(message("d", b"1\n"), message("d", b"1\n" * 1000)[:500])
        else:
            client.send(query(f"SELECT '{'x' * 1000}'")[:500])
    with pooler.client() as other:
        assert other.value("SELECT count(*) FROM pgbench_history WHERE tid = 77") == "0"
    wait_until(lambda: server not in backends(postgres), "the old server goes")
    assert len(backends(postgres)) == 1


# Many of them


def worker_rss(pooler: Pooler) -> int:
    [pid] = pooler.worker_pids()
    return rss_bytes(pid)


@contextlib.contextmanager
def unharmed(pooler: Pooler, growth: int) -> Iterator[WireClient]:
    """Same worker, same clients, bounded memory, and one client that is served."""
    pids = pooler.worker_pids()
    with pooler.client() as client:
        before = worker_rss(pooler)
        yield client
        wait_until(lambda: pooler.sockets_of_workers() == 1, "all others are gone")
        assert client.value("SELECT 1") == "1"
        assert pooler.worker_pids() == pids
        assert worker_rss(pooler) - before < growth


def test_who_stays_silent_is_told_and_closed(make_pooler: MakePooler) -> None:
    pooler = make_pooler(client_login_timeout=1)
    with unharmed(pooler, 4 * MIB), pooler.wire() as silent, pooler.wire() as half:
        half.send(startup(USER, DATABASE)[:10])
        assert silent.read_fatal()["M"] == "client_login_timeout"
        assert half.read_fatal()["M"] == "client_login_timeout"


def mangled(rng: random.Random) -> bytes:
    """A session with some bytes changed, lost, doubled or put in."""
    raw = bytearray(
        query("SELECT 1")
        + extended("SELECT $1::int", b"7")
        + SYNC
        + query("COPY pgbench_branches TO STDOUT")
        + message("d", b"x")
        + query("BEGIN")
        + parse("SELECT 2", "named")
        + SYNC
    )
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(raw))
        match rng.randrange(4):
            case 0:
                raw[at] = rng.randrange(256)
            case 1:
                del raw[at : at + rng.randint(1, 8)]
            case 2:
                raw[at:at] = raw[at : at + rng.randint(1, 64)]
            case 3:
                raw[at:at] = rng.randbytes(rng.randint(1, 8))
    return bytes(raw)


def throw(client: WireClient, raw: bytes) -> None:
    """Send all that is taken and wait for the end, which must come."""
    with contextlib.suppress(OSError):
        client.send(raw)
        client.socket.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ConnectionError):
        while client.socket.recv(65536):
            pass


@pytest.mark.parametrize("logged_in", [False, True], ids=["login", "session"])
def test_random_bytes(make_pooler: MakePooler, logged_in: bool) -> None:
    print("seed", SEED)
    rng = random.Random(SEED)
    pooler = make_pooler(default_pool_size=3)
    with unharmed(pooler, 8 * MIB) as good:
        for number in range(400):
            client = pooler.client() if logged_in else pooler.wire()
            with client:
                if number % 2 and logged_in:
                    throw(client, mangled(rng))
                elif number % 2:
                    raw = bytearray(startup(USER, DATABASE, application_name="x" * 9))
                    raw[rng.randrange(len(raw))] = rng.randrange(256)
                    throw(client, bytes(raw) + mangled(rng))
                else:
                    throw(client, rng.randbytes(rng.choice((3, 9, 100, 200_000))))
            if number % 20 == 0:
                assert good.value("SELECT 1") == "1"


def test_a_login_that_drips_in_costs_nothing(worker_in_process: MakeWorker) -> None:
    """Python hears of it when there is enough to go on with, not at each byte."""
    worker = worker_in_process()
    given = {f"x{number}": "y" * 80 for number in range(100)}
    before = worker.counters()["python"]
    with WireClient(worker.port) as client:
        client.send_split(startup(USER, DATABASE, **given), 7)
        client.read_until("E")
        assert worker.counters()["python"] - before < 100
    worker.wait_for_clients_to_leave()


def test_what_comes_before_a_login_is_not_kept(make_pooler: MakePooler) -> None:
    """More than one packet of a login waits outside."""
    pooler = make_pooler({}, f'"{USER}" "secret"\n', auth_type="plain")
    before = pooler.rss_bytes()
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            client = stack.enter_context(pooler.wire())
            client.send(startup(USER, DATABASE))
            client.read()
            client.socket.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.socket.send(header("p", 60_000) + b"x" * 59_000)
        wait_until(lambda: pooler.sockets_of_workers() == 200, "all are there")
        assert pooler.rss_bytes() - before < 200 * 128 * 1024
