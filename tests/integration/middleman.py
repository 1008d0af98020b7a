# SPDX-License-Identifier: MIT
"""Somebody between two that speak TLS, with a certificate of his own."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable

from tests.certificates import Certificates
from tests.integration.harness import HOST
from tests.wire_client import SSL_REQUEST

TIMEOUT_S = 20.0
Change = Callable[[bytes], bytes]


def unchanged(data: bytes) -> bytes:
    return data


def without_plus(data: bytes) -> bytes:
    """A server's offer of SCRAM-SHA-256-PLUS is taken out."""
    plus = b"SCRAM-SHA-256-PLUS\0"
    at = data.find(plus)
    head = at - 9  # R, length, 10
    if at < 0 or data[head : head + 1] != b"R":
        return data
    size = int.from_bytes(data[head + 1 : head + 5], "big") - len(plus)
    end = at + len(plus)
    return data[: head + 1] + size.to_bytes(4, "big") + data[head + 5 : at] + data[end:]


class Middleman:
    """Decrypts, may change what the server says, encrypts again."""

    def __init__(
        self, target: int, certificates: Certificates, change: Change = unchanged
    ) -> None:
        self._target = target
        self._change = change
        self._near = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._near.load_cert_chain(certificates.cert_file, certificates.key_file)
        self._far = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._far.check_hostname, self._far.verify_mode = False, ssl.CERT_NONE
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self.heard = bytearray()  # of who opens connections
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._stand_in, args=(near,), daemon=True).start()

    def _stand_in(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError), near:
            near.settimeout(TIMEOUT_S)
            if near.recv(len(SSL_REQUEST)) != SSL_REQUEST:
                return
            near.sendall(b"S")
            far = socket.create_connection((HOST, self._target), TIMEOUT_S)
            with far:
                far.sendall(SSL_REQUEST)
                if far.recv(1) == b"S":
                    self._pass_on(
                        self._near.wrap_socket(near, server_side=True),
                        self._far.wrap_socket(far),
                    )

    def _pass_on(self, near: ssl.SSLSocket, far: ssl.SSLSocket) -> None:
        with near, far:
            while True:
                ready = [one for one in (near, far) if one.pending()]
                ready = ready or select.select([near, far], [], [], TIMEOUT_S)[0]
                if not ready:
                    return
                for one in ready:
                    one.setblocking(False)
                    try:
                        data = one.recv(65536)
                    except ssl.SSLWantReadError:  # a ticket, or a part of a record
                        continue
                    finally:
                        one.settimeout(TIMEOUT_S)
                    if not data:
                        return
                    if one is near:
                        self.heard += data
                        far.sendall(data)
                    else:
                        near.sendall(self._change(data))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
