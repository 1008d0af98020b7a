# SPDX-License-Identifier: MIT
"""Raw-socket clients: log in, ask one query, wait. No driver, so they are cheap.

They exist to be many; a driver's objects would be larger than what is measured. Only
trust authentication is spoken, as all targets are configured with it.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

PROTOCOL_3_0 = 0x0003_0000
HEADER = struct.Struct("!cI")
READ_BYTES = 65_536
TIMEOUT_S = 20.0
# As many as the pool has servers, so that a batch never waits for itself.
BATCH = 20
RETRY_S = 0.05
SPARE_DESCRIPTORS = 1_000


class ClientError(Exception):
    """A login or a query that did not succeed."""


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
                raise ClientError("asks for a password; expected trust")
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


def open_batch(address: Address, count: int) -> list[socket.socket]:
    """Open clients that have logged in and run one query each."""
    startup = startup_message(address.user, address.database)
    query = query_message("SELECT 1")
    batch: list[socket.socket] = []
    try:
        for _ in range(count):
            where = (address.host, address.port)
            batch.append(socket.create_connection(where, TIMEOUT_S))
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
def idle_clients(address: Address, count: int) -> Iterator[list[socket.socket]]:
    """Hold ``count`` idle clients open for the length of the block."""
    clients: list[socket.socket] = []
    try:
        while len(clients) < count:
            clients += open_batch(address, min(BATCH, count - len(clients)))
        yield clients
    finally:
        close_all(clients)


def wait_until_ready(
    address: Address, timeout_s: float, ended: Callable[[], int | None]
) -> None:
    """Return when a login and a query succeed.

    Raises the last reason at the deadline, or as soon as ``ended`` returns the exit
    code of the process that should have answered.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            close_all(open_batch(address, 1))
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
