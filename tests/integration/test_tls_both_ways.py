# SPDX-License-Identifier: MIT
"""TLS on both sides: who sends much while much is sent to him waits for nobody."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.certificates import Certificates, make_certificates
from tests.integration.fake_server import READY, FakeBackend
from tests.integration.harness import DATABASE, HOST, USER, MakePooler
from tests.wire_client import SSL_REQUEST, message, messages_in, query, startup, text

pytestmark = pytest.mark.timeout(120)

BUFFER_BYTES = 16_384
DEADLINE_S = 50.0
PIECE_BYTES = 60_000
ROWS_BEGIN = message("T", struct.pack("!H", 1) + text("x") + bytes(18))
Answer = Callable[[ssl.SSLSocket], None]
DONE = message("C", text("SELECT 1")) + READY


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def pump(link: ssl.SSLSocket, out: bytes, want: int) -> bytes:
    """Send all of ``out`` and receive ``want`` bytes, whichever goes first."""
    link.setblocking(False)
    rest = memoryview(out)
    got = bytearray()
    deadline = time.monotonic() + DEADLINE_S
    while rest or len(got) < want:
        stuck = True
        try:
            if len(got) < want:
                part = link.recv(min(1 << 20, want - len(got)))
                assert part, f"the end after {len(got)} of {want} bytes"
                got += part
                stuck = False
        except ssl.SSLWantReadError:
            pass
        try:
            if rest:
                rest = rest[link.send(rest[: 1 << 16]) :]
                stuck = False
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        if stuck:
            left = deadline - time.monotonic()
            assert left > 0, f"stuck: {len(got)} of {want} in, {len(rest)} to send"
            select.select([link], [link] if rest else [], [], left)
    return bytes(got)


class TlsServer:
    """Server connections over TLS, one after the other."""

    def __init__(self, certificates: Certificates, answers: list[Answer]) -> None:
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self.listener.bind((HOST, 0))
        self.listener.listen()
        self.listener.settimeout(20)
        self.port: int = self.listener.getsockname()[1]
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificates.cert_file, certificates.key_file)
        self.answers = answers
        self.got = b""
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            for answer in self.answers:
                raw, _ = self.listener.accept()
                with raw:
                    self._serve(raw, answer)
        except BaseException as error:
            self.failure = error
        finally:
            self.listener.close()

    def _serve(self, raw: socket.socket, answer: Answer) -> None:
        raw.settimeout(20)
        assert raw.recv(len(SSL_REQUEST)) == SSL_REQUEST
        raw.sendall(b"S")
        with self.context.wrap_socket(raw, server_side=True) as link:
            link.recv(65536)
            link.sendall(FakeBackend.greeting())
            answer(link)

    def finish(self) -> None:
        """It has been asked for all its answers, and nothing has failed."""
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()
        assert self.failure is None, self.failure


def read_to_end(link: ssl.SSLSocket) -> None:
    link.settimeout(20)
    while link.recv(65536):
        pass


def settings(certificates: Certificates) -> dict[str, Any]:
    return {
        "server_tls_sslmode": "require",
        "client_tls_sslmode": "require",
        "client_tls_cert_file": certificates.cert_file,
        "client_tls_key_file": certificates.key_file,
    }


@contextlib.contextmanager
def logged_in(port: int, certificates: Certificates) -> Iterator[ssl.SSLSocket]:
    """A client over TLS with small socket buffers."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    raw.settimeout(20)
    raw.connect((HOST, port))
    raw.sendall(SSL_REQUEST)
    assert raw.recv(1) == b"S"
    context = certificates.client_context()
    with context.wrap_socket(raw, server_hostname="localhost") as link:
        link.sendall(startup(USER, DATABASE))
        read_answer(link)
        yield link


def read_answer(link: ssl.SSLSocket) -> bytes:
    """What comes up to ReadyForQuery."""
    got = b""
    while not got.endswith(READY):
        part = link.recv(65536)
        assert part, got
        got += part
    return got


@pytest.mark.parametrize("megabytes", [12, pytest.param(100, marks=pytest.mark.full)])
def test_both_send_and_nobody_waits(
    make_pooler: MakePooler, certificates: Certificates, megabytes: int
) -> None:
    """A client that sends on while it is answered, in small socket buffers."""
    count = megabytes * 1_000_000 // PIECE_BYTES
    asked = [query(f"select {i} -- " + "x" * PIECE_BYTES) for i in range(count)]
    row = message("D", struct.pack("!Hi", 1, PIECE_BYTES) + b"y" * PIECE_BYTES)
    rows = ROWS_BEGIN + row * count
    first, others = asked[0], b"".join(asked[1:])

    def answer(link: ssl.SSLSocket) -> None:
        """All rows to the first request, while the others come."""
        assert pump(link, b"", len(first)) == first
        assert pump(link, rows, len(others)) == others
        link.settimeout(20)
        link.sendall(DONE * len(asked))
        read_to_end(link)

    server = TlsServer(certificates, [answer])
    pooler = make_pooler(
        {DATABASE: f"host={HOST} port={server.port}"}, **settings(certificates)
    )
    with logged_in(pooler.port, certificates) as link:
        answered = rows + DONE * count
        assert pump(link, b"".join(asked), len(answered)) == answered
    pooler.stop()
    server.finish()


def test_an_end_without_an_alert_is_an_end(
    make_pooler: MakePooler, certificates: Certificates
) -> None:
    """As PostgreSQL takes it of its clients, and libpq of its servers."""

    def answer_once(link: ssl.SSLSocket) -> None:
        link.recv(65536)
        link.sendall(ROWS_BEGIN + DONE)
        socket.socket(fileno=link.detach()).close()

    def answer_half(link: ssl.SSLSocket) -> None:
        link.recv(65536)
        link.sendall(ROWS_BEGIN)
        socket.socket(fileno=link.detach()).close()

    server = TlsServer(certificates, [answer_once, answer_once, answer_half])
    pooler = make_pooler(
        {DATABASE: f"host={HOST} port={server.port}"}, **settings(certificates)
    )
    with logged_in(pooler.port, certificates) as link:
        for n in (1, 2):  # who rests when its server goes hears nothing of it
            link.sendall(query("select 1"))
            assert read_answer(link) == ROWS_BEGIN + DONE
            pooler.wait_log("server connection closed", n)
        link.sendall(query("select 1"))
        got = b""
        while part := link.recv(65536):
            got += part
        rows, error = messages_in(got)
        assert (rows.code, error.fields["C"]) == ("T", "08006")
    server.finish()
    for word in ("TLS handshake", "TLS error", "unexpected eof"):
        assert word not in pooler.log()
