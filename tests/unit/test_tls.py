# SPDX-License-Identifier: MIT
"""TLS towards clients, from the engine's side: a client of Python's ssl module."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pooler.errors import ConfigError
from pooler.io.conn import Notice
from pooler.io.engine import Engine
from pooler.io.tls_context import TICKET_KEY_BYTES, TlsContext
from pooler.session.records import CloseReason
from tests.certificates import Certificates, make_certificates
from tests.openssl_peer import OpensslPeer

DEADLINE_S = 20.0
VERSIONS = ("tlsv1.2", "tlsv1.3")
RECORDS_PAUSE_US = 200_000


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def make_context(certificates: Certificates, **options: object) -> TlsContext:
    given: dict[str, object] = {
        "accepts": True,
        "prefix": "client_tls",
        "versions": VERSIONS,
        "cert_file": str(certificates.cert_file),
        "key_file": str(certificates.key_file),
    }
    return TlsContext(**(given | options))  # type: ignore[arg-type]


class World:
    """An engine with one client that is logging in."""

    def __init__(self, send_buffer_bytes: int = 0) -> None:
        self.engine = Engine(["application_name"])
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            if send_buffer_bytes:
                listening.setsockopt(
                    socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes
                )
            address = listening.getsockname()
            self.engine.add_listener(listening.detach(), False)
        self.raw = socket.create_connection(address)
        self.raw.setblocking(False)
        self.into, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.handle = 0
        self.closed: list[int] = []
        self.detail = ""

    def turn(self) -> None:
        self.engine.run(0)
        for kind, handle, argument, *_, detail, _ in self.engine.take_notices():
            self.handle = handle
            if kind == Notice.NOTICE_CLIENT_CLOSED:
                self.closed.append(argument)
                self.detail = detail

    def until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not true():
            assert time.monotonic() < deadline
            self.turn()

    def say(self, data: bytes) -> None:
        """Plain bytes, and wait until the engine has them."""
        self.raw.send(data)
        self.until(lambda: bool(self.handle))
        self.until(lambda: self.engine.login_bytes(self.handle).endswith(data))

    def start(self, context: TlsContext, client: ssl.SSLContext) -> ssl.SSLObject:
        """After a plain byte the client speaks TLS."""
        self.say(b"!")
        self.engine.login_consume(self.handle, 1)
        self.engine.client_start_tls(self.handle, context)
        return client.wrap_bio(self.into, self.out, server_hostname="localhost")

    def exchange(self, most: int = 1 << 20) -> bytes:
        """Carry what the client has to send, and what has come for it; the latter."""
        if self.out.pending:
            data = self.out.read()
            while data:
                try:
                    data = data[self.raw.send(data) :]
                except BlockingIOError:
                    self.turn()
        self.turn()
        try:
            came = self.raw.recv(most)
        except BlockingIOError:
            return b""
        if came:
            self.into.write(came)
        else:
            self.into.write_eof()
        return came

    def shake_hands(self, client: ssl.SSLObject) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            assert time.monotonic() < deadline
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                self.exchange()
            else:
                self.exchange()
                return

    def read(self, client: ssl.SSLObject, n: int) -> bytes:
        deadline = time.monotonic() + DEADLINE_S
        got = b""
        while len(got) < n:
            assert time.monotonic() < deadline
            try:
                got += client.read(n - len(got))
            except ssl.SSLWantReadError:
                self.exchange()
        return got

    def take(self, n: int, step: int) -> bytes:
        """n plain bytes that the engine has got, ``step`` at a time."""
        got = b""

        def some() -> bool:
            nonlocal got
            have = self.engine.login_bytes(self.handle)[:step]
            got += have
            self.engine.login_consume(self.handle, len(have))
            return len(got) >= n

        self.until(some)
        return got


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.raw.close()
    made.engine.close()
    assert made.engine.counters()["clients"] == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_both_ways(world: World, certificates: Certificates, version: str) -> None:
    context = make_context(certificates, versions=[version])
    client = world.start(context, certificates.client_context())
    assert world.engine.client_tls(world.handle) == ("", "", "")
    world.shake_hands(client)
    client.write(b"hello")
    world.exchange()
    assert world.take(5, 100) == b"hello"
    world.engine.client_send(world.handle, b"welcome")
    assert world.read(client, 7) == b"welcome"
    facts = world.engine.client_tls(world.handle)
    assert facts is not None
    assert facts[0].lower() == version.replace(".0", "")
    assert facts[1:] == (client.cipher()[0], "")  # type: ignore[index]


@pytest.mark.parametrize("step", [1, 100, 10_240])
def test_what_waits_in_openssl_is_read_on(
    world: World, certificates: Certificates, step: int
) -> None:
    """Nothing comes on the socket any more, and the room for it is small."""
    client = world.start(make_context(certificates), certificates.client_context())
    world.shake_hands(client)
    data = os.urandom(3_000 if step == 1 else 60_000)
    client.write(data)
    world.exchange()
    assert world.take(len(data), step) == data


def test_a_slow_client_gets_all_in_order(
    world: World, certificates: Certificates
) -> None:
    client = world.start(make_context(certificates), certificates.client_context())
    world.shake_hands(client)
    data = os.urandom(9_000_000)
    for at in range(0, len(data), 1_000_000):
        world.engine.client_send(world.handle, data[at : at + 1_000_000])
        world.turn()
    assert world.read(client, len(data)) == data
    world.turn()
    watches = world.engine.counters()["turns"]
    world.turn()
    assert world.engine.counters()["turns"] == watches + 1  # nothing spins


def test_it_says_that_it_ends(world: World, certificates: Certificates) -> None:
    client = world.start(make_context(certificates), certificates.client_context())
    world.shake_hands(client)
    world.engine.client_close(
        world.handle, CloseReason.CLOSE_CLIENT_REQUEST, b"farewell"
    )
    assert world.read(client, 8) == b"farewell"
    assert client.read(1) == b""  # without the alert an error would be raised


@pytest.mark.parametrize("politely", [True, False])
def test_the_clients_end_is_an_end(
    world: World, certificates: Certificates, politely: bool
) -> None:
    client = world.start(make_context(certificates), certificates.client_context())
    world.shake_hands(client)
    client.write(b"last words")
    if politely:
        with pytest.raises(ssl.SSLWantReadError):
            client.unwrap()
    world.exchange()
    world.raw.shutdown(socket.SHUT_WR)
    world.until(lambda: bool(world.closed))
    assert world.closed == [CloseReason.CLOSE_CLIENT_EOF]


@pytest.mark.parametrize(
    "garbage", [b"\0\0\0\x08\x04\xd2\x16\x2f", b"GET / HTTP/1.1\r\n"]
)
def test_what_is_no_handshake_ends_it(
    world: World, certificates: Certificates, garbage: bytes
) -> None:
    """A second SSLRequest, or plain bytes where a handshake was agreed on."""
    world.start(make_context(certificates), certificates.client_context())
    world.raw.send(garbage * 4)
    world.until(lambda: bool(world.closed))
    assert world.closed == [CloseReason.CLOSE_CLIENT_EOF]
    assert world.detail in ("wrong version number", "http request")


@pytest.mark.parametrize("cut", [1, 5, 100])
def test_a_handshake_in_pieces(
    world: World, certificates: Certificates, cut: int
) -> None:
    client = world.start(make_context(certificates), certificates.client_context())
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = world.out.read()
    for at in range(0, len(hello), cut):
        world.raw.send(hello[at : at + cut])
        world.turn()
    world.shake_hands(client)
    client.write(b"hello")
    world.exchange()
    assert world.take(5, 100) == b"hello"


def test_what_came_before_anybody_knew(
    world: World, certificates: Certificates
) -> None:
    """Direct TLS: the first byte that Python sees is that of a handshake."""
    client_side = certificates.client_context()
    client_side.set_alpn_protocols(["postgresql"])
    client = client_side.wrap_bio(world.into, world.out, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    world.raw.send(world.out.read())
    world.until(lambda: bool(world.handle))
    world.engine.client_start_tls(world.handle, make_context(certificates))
    world.shake_hands(client)
    facts = world.engine.client_tls(world.handle)
    assert facts is not None
    assert facts[2] == "postgresql"
    assert client.selected_alpn_protocol() == "postgresql"


def test_another_protocol_is_refused(world: World, certificates: Certificates) -> None:
    client_side = certificates.client_context()
    client_side.set_alpn_protocols(["http/1.1"])
    client = world.start(make_context(certificates), client_side)
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        world.shake_hands(client)


def test_a_session_is_resumed_by_another_engine(
    certificates: Certificates,
) -> None:
    """All workers have the same keys, whatever context each has made."""
    client_side = certificates.client_context()
    keys = os.urandom(TICKET_KEY_BYTES)
    session: ssl.SSLSession | None = None
    for expected in (False, True):
        world = World()
        world.say(b"!")
        world.engine.login_consume(world.handle, 1)
        world.engine.client_start_tls(
            world.handle, make_context(certificates, ticket_keys=keys)
        )
        client = client_side.wrap_bio(
            world.into, world.out, server_hostname="localhost", session=session
        )
        world.shake_hands(client)
        world.engine.client_send(world.handle, b"x")
        assert world.read(client, 1) == b"x"
        assert client.session_reused is expected
        session = client.session
        world.raw.close()
        world.engine.close()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"cert_file": "/nowhere/x.crt"}, "client_tls_cert_file: /nowhere/x.crt: No"),
        ({"key_file": "/nowhere/x.key"}, "client_tls_key_file: /nowhere/x.key: No"),
        ({"ca_file": "/nowhere/ca.crt"}, "client_tls_ca_file: /nowhere/ca.crt: No"),
        ({"ciphers": "nonsense"}, "client_tls_ciphers: nonsense: no cipher match"),
        ({"suites": "nonsense"}, "client_tls13_ciphers: nonsense: "),
        ({"groups": "nonsense"}, "client_tls_ecdhcurve: nonsense: "),
    ],
)
def test_what_cannot_be_had_is_named(
    certificates: Certificates, options: dict[str, object], named: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        make_context(certificates, **options)
    assert str(raised.value).startswith(named)


def test_files_that_do_not_belong_together(
    certificates: Certificates, tmp_path: Path
) -> None:
    other = make_certificates(tmp_path)
    empty = tmp_path / "empty"
    empty.touch()
    for options in (
        {"key_file": str(other.key_file)},
        {"key_file": str(certificates.cert_file)},
        {"cert_file": str(certificates.key_file)},
        {"cert_file": str(empty)},
        {"ca_file": str(empty)},
    ):
        with pytest.raises(ConfigError, match=next(iter(options.values()))):
            make_context(certificates, **options)


# ------------------------------------------------------------ records

RECORD_HEADER_BYTES = 5
ONE_SEGMENT_BYTES = 1_400  # what a TCP segment surely holds
WHOLE_RECORD_BYTES = 16_384
APPLICATION_DATA = 23


def records_of(raw: bytes) -> list[int]:
    """The sizes of the records of application data in what was sent, headers too."""
    sizes = []
    while raw:
        kind, size = raw[0], int.from_bytes(raw[3:5], "big") + RECORD_HEADER_BYTES
        assert len(raw) >= size
        if kind == APPLICATION_DATA:
            sizes.append(size)
        raw = raw[size:]
    return sizes


def sent_records(world: World, client: ssl.SSLObject, n: int) -> list[int]:
    """Send n bytes to the client, which reads them; the records of that."""
    data = os.urandom(n)
    raw = b""
    got = b""
    for at in range(0, n, 5_000):  # as a server's answer comes: in pieces
        world.engine.client_send(world.handle, data[at : at + 5_000])
    deadline = time.monotonic() + DEADLINE_S
    while len(got) < n:
        assert time.monotonic() < deadline
        raw += world.exchange()
        with contextlib.suppress(ssl.SSLWantReadError):
            while True:
                got += client.read(n)
    assert got == data
    return records_of(raw)


@pytest.mark.parametrize("version", VERSIONS)
def test_records_are_small_first_and_big_in_bulk(
    world: World, certificates: Certificates, version: str
) -> None:
    """Who waits for the first bytes needs one segment, who reads much few records."""
    context = make_context(certificates, versions=[version])
    client = world.start(context, certificates.client_context())
    world.shake_hands(client)
    sizes = sent_records(world, client, 12_000)
    assert max(sizes) <= ONE_SEGMENT_BYTES
    assert sum(size > ONE_SEGMENT_BYTES - 100 for size in sizes) >= 6
    world.engine.client_send(world.handle, b"x" * 20_000)
    world.read(client, 20_000)
    data = b"y" * 500_000
    world.engine.client_send(world.handle, data)
    raw = b""
    while len(raw) < len(data):
        raw += world.exchange()
    sizes = records_of(raw)
    assert len(sizes) <= len(data) // WHOLE_RECORD_BYTES + 4
    assert sizes.count(max(sizes)) >= len(data) // WHOLE_RECORD_BYTES - 1
    assert client.read(10) == b"y" * 10


def test_records_are_small_again_after_a_pause(
    world: World, certificates: Certificates
) -> None:
    client = world.start(make_context(certificates), certificates.client_context())
    world.shake_hands(client)
    sent_records(world, client, 60_000)
    assert max(sent_records(world, client, 5_000)) > ONE_SEGMENT_BYTES
    until = time.monotonic() + RECORDS_PAUSE_US / 1e6
    world.until(lambda: time.monotonic() > until)
    assert max(sent_records(world, client, 5_000)) <= ONE_SEGMENT_BYTES


def test_who_asks_for_new_keys_without_end(certificates: Certificates) -> None:
    """Each request is owed an answer; who reads none of them is not owed for ever."""
    world = World(send_buffer_bytes=4_096)
    peer = OpensslPeer()
    try:
        world.say(b"!")
        world.engine.login_consume(world.handle, 1)
        world.engine.client_start_tls(world.handle, make_context(certificates))
        deadline = time.monotonic() + DEADLINE_S
        while not peer.shake_hands():
            assert time.monotonic() < deadline
            world.out.write(peer.to_send())
            peer.receive(world.exchange())
        asked = 0
        while not world.closed:
            assert time.monotonic() < deadline
            for _ in range(1_000):
                peer.ask_for_new_keys()
            asked += 1_000
            unsent = peer.to_send()
            while unsent and not world.closed:
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    unsent = unsent[world.raw.send(unsent) :]
                world.turn()
        assert world.closed == [CloseReason.CLOSE_CLIENT_EOF]
        assert world.detail == "asks for new keys and does not read them"
        assert asked > 5_000  # nobody who asks now and then is closed
    finally:
        peer.close()
        world.raw.close()
        world.engine.close()
