# SPDX-License-Identifier: MIT
"""A TLS client without a socket by OpenSSL itself, for what Python's ssl cannot do."""

from __future__ import annotations

import _ssl
import ctypes
import re
from pathlib import Path

KEY_UPDATE_REQUESTED = 1


def _library() -> ctypes.CDLL:
    """The libssl that Python's own module has loaded."""
    assert _ssl.OPENSSL_VERSION
    maps = Path("/proc/self/maps").read_text()
    found = re.search(r"\S*/libssl\.so\S*", maps)
    return ctypes.CDLL(found[0] if found else "libssl.so.3")


class OpensslPeer:
    """The client side of one connection, which trusts everybody."""

    def __init__(self) -> None:
        self._lib = _library()
        for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new", "BIO_s_mem",
                     "BIO_new"):  # fmt: skip
            getattr(self._lib, name).restype = ctypes.c_void_p
        method = ctypes.c_void_p(self._lib.TLS_client_method())
        self._context = ctypes.c_void_p(self._lib.SSL_CTX_new(method))
        self._ssl = ctypes.c_void_p(self._lib.SSL_new(self._context))
        memory = ctypes.c_void_p(self._lib.BIO_s_mem())
        self._into = ctypes.c_void_p(self._lib.BIO_new(memory))
        self._out = ctypes.c_void_p(self._lib.BIO_new(memory))
        self._lib.SSL_set_bio(self._ssl, self._into, self._out)
        self._lib.SSL_set_connect_state(self._ssl)

    def receive(self, data: bytes) -> None:
        """The other side has sent this."""
        assert self._lib.BIO_write(self._into, data, len(data)) == len(data)

    def to_send(self) -> bytes:
        """What the other side has to be sent."""
        room = ctypes.create_string_buffer(1 << 20)
        n = self._lib.BIO_read(self._out, room, len(room))
        return room.raw[: max(n, 0)]

    def shake_hands(self) -> bool:
        """Go on with the handshake; whether it is over."""
        return bool(self._lib.SSL_do_handshake(self._ssl) == 1)

    def ask_for_new_keys(self) -> None:
        """KeyUpdate with update_requested, which must be answered (RFC 8446, 4.6.3)."""
        assert self._lib.SSL_key_update(self._ssl, KEY_UPDATE_REQUESTED) == 1
        assert self.shake_hands()

    def close(self) -> None:
        self._lib.SSL_free(self._ssl)
        self._lib.SSL_CTX_free(self._context)
