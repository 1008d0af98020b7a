# SPDX-License-Identifier: MIT
"""Many clients that log in at once, by SCRAM, and stay. One thread, raw sockets.

The password's keys are derived once, since all have the same user: what is measured
is the target, not the load.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import selectors
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.lib.clients import (
    HEADER,
    READ_BYTES,
    Address,
    ClientError,
    error_text,
    startup_message,
)

TIMEOUT_S = 30.0
NONCE = b"benchmark"
FIRST_BARE = b"n=,r=" + NONCE
OK, SASL, CONTINUE, FINAL = 0, 10, 11, 12


@dataclass(slots=True)
class Keys:
    """The keys of one password, for the salt that they were made with."""

    password: bytes
    known: dict[tuple[bytes, int], bytes] = field(default_factory=dict)

    def client_key(self, salt: bytes, iterations: int) -> bytes:
        """Derive ClientKey, once."""
        if (salt, iterations) not in self.known:
            salted = hashlib.pbkdf2_hmac("sha256", self.password, salt, iterations)
            self.known[salt, iterations] = hmac.digest(salted, b"Client Key", "sha256")
        return self.known[salt, iterations]


def password_message(body: bytes) -> bytes:
    """Return a SASLInitialResponse or SASLResponse."""
    return HEADER.pack(b"p", len(body) + 4) + body


def answer(body: bytes, keys: Keys) -> bytes:
    """Return what an authentication request is answered; empty: nothing."""
    (code,) = struct.unpack_from("!I", body)
    if code == SASL:
        first = b"n,," + FIRST_BARE
        size = struct.pack("!I", len(first))
        return password_message(b"SCRAM-SHA-256\0" + size + first)
    if code == CONTINUE:
        server_first = body[4:]
        said = {part[:1]: part[2:] for part in server_first.split(b",")}
        key = keys.client_key(base64.b64decode(said[b"s"]), int(said[b"i"]))
        without_proof = b"c=biws,r=" + said[b"r"]
        everything = b",".join((FIRST_BARE, server_first, without_proof))
        stored_key = hashlib.sha256(key).digest()
        signature = hmac.digest(stored_key, everything, "sha256")
        proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
        return password_message(without_proof + b",p=" + base64.b64encode(proof))
    if code not in (OK, FINAL):
        raise ClientError(f"asks for authentication {code}; expected SCRAM")
    return b""


@dataclass(slots=True)
class Client:
    """One client; it is in when it has seen ReadyForQuery."""

    sock: socket.socket
    begun: bool = False
    data: bytes = b""

    def go_on(self, startup: bytes, keys: Keys) -> bool:
        """Take what has come and answer it; whether the client is in."""
        if not self.begun:
            error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, "connect")
            self.sock.send(startup)
            self.begun = True
            return False
        chunk = self.sock.recv(READ_BYTES)
        if not chunk:
            raise ClientError("the connection was closed")
        self.data += chunk
        while len(self.data) >= HEADER.size:
            kind, length = HEADER.unpack_from(self.data)
            if len(self.data) < length + 1:
                return False
            body = self.data[HEADER.size : length + 1]
            self.data = self.data[length + 1 :]
            if kind == b"E":
                raise ClientError(error_text(body))
            if kind == b"Z":
                return True
            if kind == b"R" and (said := answer(body, keys)):
                self.sock.send(said)
        return False


@contextlib.contextmanager
def logged_in(address: Address, password: str, count: int) -> Iterator[float]:
    """Log in ``count`` clients at once and hold them; yields the seconds it took.

    One that fails raises ``ClientError`` or ``OSError``.
    """
    startup = startup_message(address.user, address.database)
    keys = Keys(password.encode())
    clients: list[socket.socket] = []
    begin = time.monotonic()
    try:
        with selectors.DefaultSelector() as selector:
            for _ in range(count):
                sock = socket.socket()
                clients.append(sock)
                sock.setblocking(False)
                sock.connect_ex((address.host, address.port))
                selector.register(sock, selectors.EVENT_WRITE, Client(sock))
            left = count
            while left:
                ready = selector.select(begin + TIMEOUT_S - time.monotonic())
                if not ready:
                    raise ClientError(f"{left} of {count} are not in in time")
                for key, _ in ready:
                    if key.data.go_on(startup, keys):
                        selector.unregister(key.fileobj)
                        left -= 1
                    elif key.events != selectors.EVENT_READ:
                        selector.modify(key.fileobj, selectors.EVENT_READ, key.data)
        yield time.monotonic() - begin
    finally:
        for sock in clients:
            sock.close()
