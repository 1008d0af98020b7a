# SPDX-License-Identifier: MIT
"""LDAP options, as lines of pg_hba.conf and ``auth_ldap_options`` give them.

Config layer. Nothing is asked of a server here. Errors are ValueErrors that name the
option and never its value: one of the values is a password.

Source: PostgreSQL documentation, "LDAP Authentication"; RFC 4516 (URLs), RFC 4514
(distinguished names).
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

from pooler.config.hbafile import Word

PLACEHOLDER = "$username"
DEFAULT_PORTS = MappingProxyType({"ldap": 389, "ldaps": 636})
MAX_PORT = 65535
# What would have to be escaped in a filter has no business in the name of a user.
_FORBIDDEN_IN_SEARCH = frozenset("*()\\/")
_SPECIAL_IN_DN = frozenset('"+,;<=>\\')


class Scope(enum.IntEnum):
    """How deep a search goes below its base; the numbers are the protocol's."""

    BASE = 0
    ONE = 1
    SUBTREE = 2


@dataclass(frozen=True, slots=True)
class LdapOptions:
    """How LDAP is asked about a user. ``None``: not said.

    With ``basedn`` the user's entry is searched for and its password tried (search
    and bind); else the name of the entry is made of prefix, user and suffix.
    """

    server: str = ""  # hosts, separated by spaces; empty: found by DNS
    port: int = 0
    scheme: str = "ldap"
    tls: bool = False
    prefix: str | None = None
    suffix: str | None = None
    basedn: str | None = None
    binddn: str = ""
    bindpasswd: str = field(default="", repr=False)
    searchattribute: str = ""
    searchfilter: str = ""
    scope: Scope = Scope.SUBTREE

    @property
    def searches(self) -> bool:
        """Whether the entry is searched for."""
        return self.basedn is not None

    def uris(self) -> list[str]:
        """Its servers, in the order in which they are tried; none: found by DNS."""
        port = self.port or DEFAULT_PORTS[self.scheme]
        return [f"{self.scheme}://{one}:{port}" for one in self.server.split()]

    def entry_of(self, user: str) -> str:
        """Whom a user is to LDAP, without a search.

        A name that follows ``attribute=`` is escaped, so that it stays one value: as
        ``guest,ou=elsewhere`` it would be another's entry. What is no distinguished
        name (``DOMAIN\\user``, ``user@domain``) has no escapes.
        """
        prefix = self.prefix or ""
        shown = escape_dn_value(user) if prefix.rstrip().endswith("=") else user
        return f"{prefix}{shown}{self.suffix or ''}"

    def filter_of(self, user: str) -> str:
        """What finds a user; ValueError for a name that could mean more than itself."""
        if not _FORBIDDEN_IN_SEARCH.isdisjoint(user):
            raise ValueError("invalid character in user name for LDAP authentication")
        if self.searchfilter:
            return self.searchfilter.replace(PLACEHOLDER, user)
        return f"({self.searchattribute or 'uid'}={user})"


def escape_dn_value(text: str) -> str:
    """A text as the value of an attribute in a distinguished name (RFC 4514, 2.4)."""
    escaped = "".join(f"\\{c}" if c in _SPECIAL_IN_DN else c for c in text)
    escaped = escaped.replace("\0", "\\00")
    if escaped.startswith((" ", "#")):
        escaped = f"\\{escaped}"
    if escaped.endswith(" ") and len(text) > 1:
        escaped = f"{escaped[:-1]}\\ "
    return escaped


# ---------------------------------------------------------------- reading


def read_ldap_options(pairs: Iterable[tuple[str, str]]) -> LdapOptions:
    """The options that (name, value) say; ValueError for what makes no sense.

    Of a name that is given twice the last counts, as in PostgreSQL.
    """
    values: dict[str, Any] = {}
    for name, text in pairs:
        read = _OPTIONS.get(name)
        if read is None:
            raise ValueError("no such option; known are " + ", ".join(_OPTIONS))
        try:
            values |= read(text)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    options = LdapOptions(**values)
    problem = _contradiction(options)
    if problem:
        raise ValueError(problem)
    return options


def split_options(words: Iterable[Word]) -> list[tuple[str, str]]:
    """The (name, value) that words are; ValueError for one that is no option."""
    pairs = []
    for number, word in enumerate(words, start=1):
        name, equals, value = word.text.partition("=")
        if not equals or not name:
            raise ValueError(
                f"option {number} is not name=value; values with spaces or commas need"
                " quotes"
            )
        if "\0" in value:
            raise ValueError(f"{name}: a zero byte")
        pairs.append((name, value))
    return pairs


def _contradiction(options: LdapOptions) -> str:
    """What PostgreSQL refuses as well, and TLS within TLS."""
    by_name = options.prefix is not None or options.suffix is not None
    about_search = (
        options.basedn is not None
        or options.binddn
        or options.bindpasswd
        or options.searchattribute
        or options.searchfilter
    )
    if by_name and about_search:
        return (
            "ldapbasedn, ldapbinddn, ldapbindpasswd, ldapsearchattribute,"
            " ldapsearchfilter and ldapurl do not go together with ldapprefix and"
            " ldapsuffix"
        )
    if not by_name and options.basedn is None:
        return "ldapbasedn, ldapprefix or ldapsuffix is missing"
    if options.searchattribute and options.searchfilter:
        return "ldapsearchattribute does not go together with ldapsearchfilter"
    if options.searchfilter and PLACEHOLDER not in options.searchfilter:
        return f"ldapsearchfilter does not name the user: {PLACEHOLDER} is missing"
    if not options.server and not options.basedn:
        return "ldapserver is missing, and there is no ldapbasedn to find it by"
    if options.tls and options.scheme == "ldaps":
        return "ldaptls=1 is for ldap; ldaps has TLS from its first byte"
    return ""


def _text(name: str) -> Callable[[str], dict[str, Any]]:
    return lambda text: {name: text}


def _servers(text: str) -> dict[str, Any]:
    return {"server": " ".join(text.split())}


def _port(text: str) -> dict[str, Any]:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= MAX_PORT):
        raise ValueError(f"expected a port, 1 to {MAX_PORT}")
    return {"port": int(text)}


def _scheme(text: str) -> dict[str, Any]:
    if text not in DEFAULT_PORTS:
        raise ValueError("expected ldap or ldaps")
    return {"scheme": text}


def _tls(text: str) -> dict[str, Any]:
    if text not in ("0", "1"):
        raise ValueError("expected 0 or 1")
    return {"tls": text == "1"}


_SCOPES: Mapping[str, Scope] = {
    "": Scope.BASE,
    "base": Scope.BASE,
    "one": Scope.ONE,
    "onelevel": Scope.ONE,
    "sub": Scope.SUBTREE,
    "subtree": Scope.SUBTREE,
}
_URL = re.compile(
    r"(?P<scheme>[a-z]+)://(?P<host>\[[0-9A-Fa-f:.]+\]|[^]\[:/? ]*)"
    r"(?::(?P<port>[0-9]+))?(?:/(?P<rest>.*))?\Z",
    re.DOTALL,
)


def _url(text: str) -> dict[str, Any]:
    """``ldap[s]://host[:port]/basedn[?attribute[?scope[?filter]]]``"""
    match = _URL.match(text)
    if match is None:
        raise ValueError("expected ldap://host:port/basedn?attribute?scope?filter")
    values = _scheme(match["scheme"]) | {"server": unquote(match["host"])}
    values |= _port(match["port"]) if match["port"] else {"port": 0}
    parts = (match["rest"] or "").split("?")
    if len(parts) > 4 and any(parts[4:]):
        raise ValueError("extensions of LDAP URLs are not known")
    basedn, attributes, scope, searchfilter = (*parts, "", "", "")[:4]
    if scope.lower() not in _SCOPES:
        raise ValueError("the scope is one of base, one, sub")
    values |= {"basedn": unquote(basedn), "scope": _SCOPES[scope.lower()]}
    if attributes:
        values["searchattribute"] = unquote(attributes.split(",")[0])
    if searchfilter:
        values["searchfilter"] = unquote(searchfilter)
    return values


_OPTIONS: Mapping[str, Callable[[str], dict[str, Any]]] = MappingProxyType(
    {
        "ldapport": _port,
        "ldapscheme": _scheme,
        "ldapserver": _servers,
        "ldaptls": _tls,
        "ldapurl": _url,
    }
    | {
        f"ldap{one.name}": _text(one.name)
        for one in dataclasses.fields(LdapOptions)
        if one.name not in ("server", "port", "scheme", "tls", "scope")
    }
)
