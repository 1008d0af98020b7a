# SPDX-License-Identifier: MIT
"""Raw-socket clients: log in, ask one query, wait. No driver, so they are cheap.

They exist to be many; a driver's objects would be larger than what is measured. Only
trust authentication is spoken, in the clear and by TLS; ``storm`` speaks SCRAM.
"""

from __future__ import annotations

import contextlib
import functools
import resource
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.lib.cases import Login

PROTOCOL_3_0 = 0x0003_0000
SSL_REQUEST = struct.pack("!II", 8, 80877103)
HEADER = struct.Struct("!cI")
READ_BYTES = 65_536
TIMEOUT_S = 20.0
# As many as the pool has servers, so that a batch never waits for itself.
BATCH = 20
RETRY_S = 0.05
SPARE_DESCRIPTORS = 1_000


class ClientError(Exception):
    """A login or a query that did not succeed."""


class ProofWantedError(ClientError):
    """A target that asks for a password: it answers, which may be all one wants."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where clients go and as whom."""

    host: str
    port: int
    user: str
    database: str


def startup_message(user: str, database: str) -> bytes:
    """Return a StartupMessage."""
    pairs = ("user", user, "database", database)
    body = b"".join(text.encode() + b"\0" for text in pairs) + b"\0"
    return struct.pack("!II", len(body) + 8, PROTOCOL_3_0) + body


def query_message(sql: str) -> bytes:
    """Return a Query message."""
    body = sql.encode() + b"\0"
    return HEADER.pack(b"Q", len(body) + 4) + body


def read_until_ready(sock: socket.socket) -> None:
    """Read messages to ReadyForQuery; an ErrorResponse is raised."""
    data = b""
    while True:
        chunk = sock.recv(READ_BYTES)
        if not chunk:
            raise ClientError("the connection was closed")
        data += chunk
        while len(data) >= HEADER.size:
            kind, length = HEADER.unpack_from(data)
            if len(data) < length + 1:
                break
            body = data[HEADER.size : length + 1]
            data = data[length + 1 :]
            if kind == b"E":
                raise ClientError(error_text(body))
            if kind == b"R" and body[:4] != b"\0\0\0\0":
                raise ProofWantedError("asks for a password; expected trust")
            if kind == b"Z":
                return


def error_text(body: bytes) -> str:
    """Return severity, SQLSTATE and message of an ErrorResponse body."""
    fields = {part[:1]: part[1:] for part in body.split(b"\0") if part}
    wanted = (fields.get(key, b"") for key in (b"S", b"C", b"M"))
    return b" ".join(wanted).decode(errors="replace")


def raise_descriptor_limit(count: int) -> int:
    """Make room for ``count`` descriptors here and in processes started later.

    Returns the limit reached. Only a privileged process can pass the hard limit.
    """
    wanted = count + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = hard == resource.RLIM_INFINITY or hard >= wanted
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    with contextlib.suppress(ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard if enough else wanted))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def connect(address: Address, secured: bool) -> socket.socket:
    """Open a connection, by TLS if so; nobody looks at the certificate."""
    sock = socket.create_connection((address.host, address.port), TIMEOUT_S)
    if not secured:
        return sock
    try:
        sock.sendall(SSL_REQUEST)
        if sock.recv(1) != b"S":
            raise ClientError("has no TLS")
        return _tls_context().wrap_socket(sock)
    except BaseException:
        sock.close()
        raise


@functools.cache
def _tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def open_batch(
    address: Address, count: int, secured: bool = False
) -> list[socket.socket]:
    """Open clients that have logged in and run one query each."""
    startup = startup_message(address.user, address.database)
    query = query_message("SELECT 1")
    batch: list[socket.socket] = []
    try:
        for _ in range(count):
            batch.append(connect(address, secured))
        for message in (startup, query):
            for sock in batch:
                sock.sendall(message)
            for sock in batch:
                read_until_ready(sock)
    except BaseException:
        close_all(batch)
        raise
    return batch


def close_all(clients: Sequence[socket.socket]) -> None:
    """Close sockets."""
    for sock in clients:
        sock.close()


@contextlib.contextmanager
def idle_clients(
    address: Address, count: int, secured: bool = False
) -> Iterator[list[socket.socket]]:
    """Hold ``count`` idle clients open for the length of the block."""
    clients: list[socket.socket] = []
    try:
        while len(clients) < count:
            some = min(BATCH, count - len(clients))
            clients += open_batch(address, some, secured)
        yield clients
    finally:
        close_all(clients)


def wait_until_ready(
    address: Address,
    timeout_s: float,
    ended: Callable[[], int | None],
    login: Login = Login.TRUST,
) -> None:
    """Return when a login and a query succeed, or a password is asked for, if it is.

    Raises the last reason at the deadline, or as soon as ``ended`` returns the exit
    code of the process that should have answered.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            close_all(open_batch(address, 1, login.is_secured))
        except ProofWantedError:
            if not login.is_proven:
                raise
            return
        except (OSError, ClientError) as error:
            code = ended()
            if code is not None:
                raise ClientError(f"ended with {code} at the start") from error
            if time.monotonic() >= deadline:
                raise ClientError(
                    f"not ready after {timeout_s:g} s: {error}"
                ) from error
            time.sleep(RETRY_S)
        else:
            return
