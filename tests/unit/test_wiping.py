# SPDX-License-Identifier: MIT
"""What a client sends before it is logged in is not left in memory.

Somebody else, who alone knows what was sent, looks through the memory of this process.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator

import pytest

from pooler.auth.exchange import Question
from pooler.auth.secrets import StoredSecret
from pooler.io.engine import Engine
from pooler.session.records import CloseReason
from tests.certificates import Certificates, make_certificates
from tests.unit.test_tls import make_context
from tests.wire_client import message, startup

DEADLINE_S = 20.0
PR_SET_PTRACER = 0x59616D61
SECRET_BYTES = 48
TAIL = (20, SECRET_BYTES)  # the allocator writes into the head of what is free
GREETING = message("R", bytes(4))

# Sends a secret as it is told (in pieces, by TLS or not; or logs in with it by another
# connection), and counts it.
OBSERVER = """
import hashlib, os, re, socket, ssl, struct, sys
secret = os.urandom(24).hex().encode()
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
if sys.argv[2] == "tls":
    link.sendall(b"!")
    sys.stdin.readline()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    link = context.wrap_socket(link)
print("ready", flush=True)
for line in sys.stdin:
    word, start, end = line.split()
    if word == "stored":
        print(hashlib.md5(secret + b"joe").hexdigest(), flush=True)
        continue
    if word == "login":
        again = socket.create_connection(link.getpeername())
        again.sendall(bytes.fromhex(start))
        asked = again.recv(9, socket.MSG_WAITALL)
        again.sendall(b"p" + struct.pack("!I", len(secret) + 5) + secret + b"\\0")
        came = again.recv(9, socket.MSG_WAITALL)
        print(asked.hex(), came.hex(), flush=True)
        continue
    if word == "send":
        link.sendall(secret[int(start) : int(end)])
        print("sent", flush=True)
        continue
    part, count = secret[int(start) : int(end)], 0
    with open(f"/proc/{os.getppid()}/maps") as maps:
        areas = [row for row in maps if re.match(r"\\S+ rw", row)]
    with open(f"/proc/{os.getppid()}/mem", "rb", 0) as memory:
        for area in areas:
            first, last = (int(x, 16) for x in area.split()[0].split("-"))
            try:
                memory.seek(first)
                count += memory.read(last - first).count(part)
            except (OSError, OverflowError):
                pass
    print(count, flush=True)
"""


class Observed:
    """An engine with one client that is logging in."""

    def __init__(self, how: str) -> None:
        self.engine = Engine(["application_name"])
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            port = listening.getsockname()[1]
            self.engine.add_listener(listening.detach(), False)
        self.child = subprocess.Popen(
            [sys.executable, "-c", OBSERVER, str(port), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, self.child.pid, 0, 0, 0)
        self.handle = 0
        assert self.child.stdout is not None
        os.set_blocking(self.child.stdout.fileno(), False)

    def turn(self) -> None:
        self.engine.run(0)
        for _, handle, *_ in self.engine.take_notices():
            self.handle = handle

    def until(self, true: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not true():
            assert time.monotonic() < deadline
            self.turn()

    def tell(self, line: str) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()

    def hear(self) -> str:
        """The next line of the observer; the engine goes on meanwhile."""
        got: list[str] = []

        def heard() -> bool:
            assert self.child.stdout is not None
            got.append(self.child.stdout.readline())
            return got[-1].endswith("\n")

        self.until(heard)
        return "".join(got).strip()

    def send(self, start: int, end: int) -> None:
        """The client sends this part of the secret; wait until it is here."""
        recvs = self.engine.counters()["recvs"]
        self.tell(f"send {start} {end}")
        assert self.hear() == "sent"
        self.until(lambda: self.engine.counters()["recvs"] > recvs)

    def copies(self, start: int = 0, end: int = SECRET_BYTES) -> int:
        """How often this part of it stands in our memory."""
        self.tell(f"count {start} {end}")
        return int(self.hear())

    def close(self) -> None:
        self.child.kill()
        self.child.wait(DEADLINE_S)
        for pipe in (self.child.stdin, self.child.stdout):
            assert pipe is not None
            pipe.close()
        self.engine.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=["plain", "tls"])
def observed(
    request: pytest.FixtureRequest, certificates: Certificates
) -> Iterator[Observed]:
    made = Observed(request.param)
    try:
        if request.param == "tls":
            made.until(lambda: made.handle)
            made.engine.login_consume(made.handle, 1)
            made.engine.client_start_tls(made.handle, make_context(certificates))
            made.tell("go on")
        assert made.hear() == "ready"
        yield made
    finally:
        made.close()


def test_what_a_login_has_consumed(observed: Observed) -> None:
    """The engine has one copy until Python has taken it, and then none."""
    observed.send(0, SECRET_BYTES)
    assert observed.copies() == 1
    observed.engine.login_consume(observed.handle, SECRET_BYTES)
    assert observed.copies(*TAIL) == 0


@pytest.mark.full
def test_what_came_in_pieces(observed: Observed) -> None:
    """What is kept grows, moves, and is consumed bit by bit."""
    pieces = range(0, SECRET_BYTES, 12)
    for start in pieces:
        observed.send(start, start + 12)
        assert observed.copies(start, start + 12) == 1
    assert observed.copies() == 1
    for start in pieces:
        observed.engine.login_consume(observed.handle, 12)
        assert observed.copies(start, start + 12) == 0
    assert observed.copies(4, 12) == 0


def test_what_nobody_has_consumed(observed: Observed) -> None:
    observed.send(0, SECRET_BYTES)
    assert observed.copies() == 1
    observed.engine.client_close(observed.handle, CloseReason.CLOSE_CLIENT_REQUEST, b"")
    observed.turn()
    assert observed.copies(*TAIL) == 0


@pytest.mark.parametrize("observed", ["plain"], indirect=True)
def test_what_a_known_login_has_sent(observed: Observed) -> None:
    """It is looked at without Python; what is stored of it is a hash."""
    engine = observed.engine
    observed.tell("stored 0 0")
    stored = observed.hear()
    packet = startup("joe", "shop")
    cells = memoryview(array("Q", [0]))
    engine.logins_configure(client_cells=cells, slot=0)
    observed.until(lambda: observed.handle or engine.client_count)
    observed.send(0, 1)  # so that there is a client that is about to be admitted
    assert engine.login_remember(
        observed.handle,
        packet,
        engine.pool_create(1),
        [None],
        GREETING,
        question=Question.ASK_PASSWORD,
        secret=StoredSecret.md5(stored.encode(), b"joe"),
    )
    observed.tell(f"login {packet.hex()} 0")
    asked, came = observed.hear().split()
    assert asked == message("R", (3).to_bytes(4)).hex()
    assert came == GREETING.hex()
    assert observed.copies(*TAIL) == 0
