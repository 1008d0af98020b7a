# SPDX-License-Identifier: MIT
"""Passwords that LDAP servers judge. Worker layer, cold; blocks.

A bind without a password succeeds everywhere, as nobody, and would let everybody in:
it is never made for a user.

Source: PostgreSQL documentation, "LDAP Authentication"; RFC 4511, 4513.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from pooler.config.ldap import LdapOptions
from pooler.login import packets
from pooler.worker.judges import Verdict
from pooler.worker.libldap import (
    SIZE_LIMIT_EXCEEDED,
    SUCCESS,
    Connection,
    LdapError,
    LibLdap,
)

_AT_MOST = 2  # entries: more than one is one too many


class LdapCheck:
    """Whether a password is a user's: a call in a thread, which another may cut."""

    def __init__(
        self, library: LibLdap, options: LdapOptions, user: str, password: str
    ) -> None:
        self._library = library
        self._options = options
        self._user = user
        self._password = password
        self._changing = threading.Lock()
        self._connection: Connection | None = None  # the last one
        self._is_cut = False

    def __call__(self) -> Verdict:
        """Ask. Blocks as long as servers do, or until it is cut."""
        try:
            self._check()
        except (LdapError, ValueError) as error:
            return Verdict(str(error))
        return Verdict()

    def cut(self) -> None:
        """End it soon, with any verdict; from another thread."""
        with self._changing:
            self._is_cut = True
            if self._connection is not None:
                self._connection.cut()

    def _check(self) -> None:
        if not self._password:
            raise LdapError("empty password")
        options = self._options
        if options.searches:
            # refused before a server hears of it
            entry = self._find(packets.encode(options.filter_of(self._user)))
        else:
            entry = packets.encode(options.entry_of(self._user))
        if not entry:
            raise LdapError("the user's entry has no name")
        with self._connected() as connection:
            code = connection.bind(entry, packets.encode(self._password))
            connection.must(code, f'LDAP login failed for "{packets.decode(entry)}"')

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connection]:
        options = self._options
        uris = options.uris() or self._library.servers_of(
            options.basedn or "", options.scheme
        )
        connection = Connection(self._library, uris, tls=options.tls)
        with self._changing:
            if self._is_cut:
                raise LdapError("cut")
            self._connection = connection
        with connection:
            yield connection

    def _find(self, wanted: bytes) -> bytes:
        """The name of the user's entry."""
        options, user = self._options, self._user
        with self._connected() as connection:
            code = connection.bind(
                packets.encode(options.binddn), packets.encode(options.bindpasswd)
            )
            connection.must(
                code,
                "could not perform initial LDAP bind for ldapbinddn"
                f' "{options.binddn}"',
            )
            code, count, name = connection.search(
                packets.encode(options.basedn or ""),
                int(options.scope),
                wanted,
                _AT_MOST,
            )
            if code != SIZE_LIMIT_EXCEEDED:
                what = f'could not search LDAP for filter "{packets.decode(wanted)}"'
                connection.must(code, what)
        if count == 0 and code == SUCCESS:
            raise LdapError(f'LDAP user "{user}" does not exist')
        if count != 1 or code != SUCCESS:
            raise LdapError(f'LDAP user "{user}" is not unique')
        return name
