# SPDX-License-Identifier: MIT
"""OpenLDAP's library by ctypes: connections that somebody else can cut.

Worker layer, cold. The library is the one that PostgreSQL and PgBouncer use, so
``ldap.conf`` and the ``LDAP*`` variables mean the same: whose certificates are trusted
(``TLS_CACERT``), and that they are looked at (``TLS_REQCERT``, demand by default).

Everything here blocks. The library can limit how long a connection is made and an
answer waited for, but no TLS handshake (with GnuTLS it asks the socket over and over
then, if the time to connect is limited). So the connection is made here and given to
it, and ``Connection.cut`` ends whatever goes on over it.

Source: man pages ldap_sasl_bind(3), ldap_search_ext(3), ldap_set_option(3),
ldap_start_tls(3); OpenLDAP's openldap.h (ldap_init_fd).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
from typing import Any, Self

from pooler.config.kinds import AuthType
from pooler.config.libraries import load_library
from pooler.login import packets

# To reach one server (PgBouncer's value), and for each answer.
CONNECT_S = 3
ANSWER_S = 10

SUCCESS = 0
SIZE_LIMIT_EXCEEDED = 4
_NO_ATTRIBUTES = b"1.1"

_REFERRALS = 0x0008
_RESTART = 0x0009
_PROTOCOL_VERSION = 0x0011
_DIAGNOSTIC_MESSAGE = 0x0032
_TIMEOUT = 0x5002
_OFF = None
_PROTO_TCP = 1


class LdapError(Exception):
    """Why a user is not let in, for the log."""


class _Value(ctypes.Structure):
    """struct berval"""

    _fields_ = (("size", ctypes.c_size_t), ("text", ctypes.c_char_p))


class _Time(ctypes.Structure):
    """struct timeval"""

    _fields_ = (("seconds", ctypes.c_long), ("microseconds", ctypes.c_long))


class LibLdap:
    """The library. OSError if it is not here."""

    def __init__(self) -> None:
        self.library = load_library(AuthType.LDAP)
        pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
        self._declare(
            ("ldap_initialize", pointer, text),
            ("ldap_init_fd", number, number, text, pointer),
            ("ldap_install_tls", pointer),
            ("ldap_set_option", pointer, number, pointer),
            ("ldap_get_option", pointer, number, pointer),
            ("ldap_start_tls_s", pointer, pointer, pointer),
            ("ldap_sasl_bind_s", *(pointer, text, text), *[pointer] * 4),
            (
                "ldap_search_ext_s",
                *(pointer, text, number, text, pointer, number),
                *(pointer, pointer, pointer, number, pointer),
            ),
            ("ldap_count_entries", pointer, pointer),
            ("ldap_unbind_ext_s", pointer, pointer, pointer),
            ("ldap_msgfree", pointer),
            ("ldap_dn2domain", text, pointer),
            ("ldap_domain2hostlist", text, pointer),
        )
        self._declare(("ldap_first_entry", pointer, pointer), returns=pointer)
        self._declare(("ldap_get_dn", pointer, pointer), returns=pointer)
        self._declare(("ldap_memfree", pointer), returns=None)
        self._declare(("ldap_err2string", number), returns=text)
        # The first handle reads ldap.conf: once, and not in two threads.
        handle = ctypes.c_void_p()
        if self.library.ldap_initialize(ctypes.byref(handle), b"") == SUCCESS:
            self.library.ldap_unbind_ext_s(handle, None, None)

    def _declare(self, *rows: tuple[Any, ...], returns: Any = ctypes.c_int) -> None:
        for name, *arguments in rows:
            function = getattr(self.library, name)
            function.argtypes, function.restype = arguments, returns

    def servers_of(self, basedn: str, scheme: str) -> list[str]:
        """Servers by the SRV records of the domain that a base names."""
        domain, hosts = ctypes.c_void_p(), ctypes.c_void_p()
        code = self.library.ldap_dn2domain(packets.encode(basedn), ctypes.byref(domain))
        name = self.taken(domain.value)
        if code != 0 or not name:
            raise LdapError("could not extract domain name from ldapbasedn")
        code = self.library.ldap_domain2hostlist(name, ctypes.byref(hosts))
        listed = packets.decode(self.taken(hosts.value))
        if code != 0 or not listed:
            raise LdapError(
                "LDAP authentication could not find DNS SRV records for"
                f' "{packets.decode(name)}"'
            )
        return [f"{scheme}://{one}" for one in listed.split()]

    def text_of(self, code: int) -> str:
        """What a result means."""
        return packets.decode(self.library.ldap_err2string(code) or b"")

    def taken(self, address: int | None) -> bytes:
        """A text that the library has made for us."""
        if not address:
            return b""
        try:
            return ctypes.string_at(address)
        finally:
            self.library.ldap_memfree(address)


class Connection:
    """A handle for one exchange with the first server that can be reached.

    Referrals are not followed: they would take a password to another server.
    """

    def __init__(self, owner: LibLdap, uris: list[str], *, tls: bool) -> None:
        """``tls``: speak it first (ldaps:// does by itself)."""
        self._owner = owner
        self._library = owner.library
        self._uris = uris
        self._tls = tls
        self._uri = ""
        self._handle = ctypes.c_void_p()
        self._changing = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_cut = False

    def cut(self) -> None:
        """End what goes on, with an error, and let nothing more begin."""
        with self._changing:
            self._is_cut = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        try:
            self._connect()
            self._take_over()
            self._set_options()
            self._secure()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle:
            self._library.ldap_unbind_ext_s(self._handle, None, None)
        with self._changing:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _connect(self) -> None:
        """Reach the first server that can be reached."""
        problems: list[str] = []
        for uri in self._uris:
            host, _, port = uri.partition("://")[2].rpartition(":")
            try:
                link = socket.create_connection(
                    (host.strip("[]"), int(port)), CONNECT_S
                )
            except (OSError, ValueError) as error:
                problems.append(f'"{uri}": {error}')
                continue
            link.settimeout(None)
            with self._changing:
                self._uri, self._socket = uri, link
                if self._is_cut:
                    raise LdapError("cut")
            return
        raise LdapError(f"cannot reach an LDAP server: {'; '.join(problems)}")

    def _take_over(self) -> None:
        """Give the library a copy of the socket, which it closes."""
        assert self._socket is not None  # noqa: S101 - what _connect has made
        fd = os.dup(self._socket.fileno())
        code = self._library.ldap_init_fd(
            fd, _PROTO_TCP, packets.encode(self._uri), ctypes.byref(self._handle)
        )
        if code != SUCCESS:
            os.close(fd)
            raise LdapError(f"could not initialize LDAP: {self._owner.text_of(code)}")

    def _set_options(self) -> None:
        version, on = ctypes.c_int(3), ctypes.c_int(1)
        for option, value in (
            (_PROTOCOL_VERSION, ctypes.byref(version)),
            (_REFERRALS, _OFF),
            (_RESTART, ctypes.byref(on)),  # a signal of the worker's is no error
            (_TIMEOUT, ctypes.byref(_Time(ANSWER_S, 0))),
        ):
            code = self._library.ldap_set_option(self._handle, option, value)
            self.must(code, f"could not set LDAP option {option:#x}")

    def _secure(self) -> None:
        """Speak TLS from now on, if it is to be."""
        if self._uri.startswith("ldaps:"):
            code = self._library.ldap_install_tls(self._handle)
        elif self._tls:
            code = self._library.ldap_start_tls_s(self._handle, None, None)
        else:
            return
        self.must(code, "could not start LDAP TLS session")

    # What is asked.

    def bind(self, name: bytes, password: bytes) -> int:
        """A simple bind; the result."""
        proof = _Value(len(password), password)
        code: int = self._library.ldap_sasl_bind_s(
            self._handle, name, None, ctypes.byref(proof), None, None, None
        )
        return code

    def search(
        self, basedn: bytes, scope: int, wanted: bytes, most: int
    ) -> tuple[int, int, bytes]:
        """(result, number of entries, name of the first of them)."""
        names = (ctypes.c_char_p * 2)(_NO_ATTRIBUTES, None)
        limit = _Time(ANSWER_S, 0)
        found = ctypes.c_void_p()
        code: int = self._library.ldap_search_ext_s(
            *(self._handle, basedn, scope, wanted, names, 0, None, None),
            *(ctypes.byref(limit), most, ctypes.byref(found)),
        )
        if not found:
            return code, 0, b""
        try:
            count: int = self._library.ldap_count_entries(self._handle, found)
            entry = self._library.ldap_first_entry(self._handle, found)
            address = self._library.ldap_get_dn(self._handle, entry) if entry else None
            return code, count, self._owner.taken(address)
        finally:
            self._library.ldap_msgfree(found)

    def must(self, code: int, what: str) -> None:
        """LdapError unless the library says that it has worked."""
        if code == SUCCESS:
            return
        said = ctypes.c_void_p()
        self._library.ldap_get_option(
            self._handle, _DIAGNOSTIC_MESSAGE, ctypes.byref(said)
        )
        more = packets.decode(self._owner.taken(said.value))
        why = f"{self._owner.text_of(code)}{f' ({more})' if more else ''}"
        raise LdapError(f'{what} on server "{self._uri}": {why}')
