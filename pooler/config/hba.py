# SPDX-License-Identifier: MIT
"""``auth_hba_file`` and ``auth_ident_file``: who may log in, from where, how.

The first line that fits a connection decides; none means no. A line that cannot be
read is a ConfigError with file and line: the next one might let somebody in whom it
keeps out.

Source: PostgreSQL documentation, "The pg_hba.conf File", "User Name Maps"; PgBouncer
documentation, "HBA file format".
"""

from __future__ import annotations

import contextlib
import io
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pooler.config.hbafile import Line, Word, read_lines
from pooler.config.inifile import Report, refuse
from pooler.config.kinds import AuthType
from pooler.config.ldap import LdapOptions, read_ldap_options, split_options
from pooler.config.pam import PamOptions, read_pam_options
from pooler.errors import ConfigError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

REJECT = "reject"
METHODS: Mapping[str, AuthType | None] = MappingProxyType(
    {
        "trust": AuthType.TRUST,
        REJECT: None,
        "md5": AuthType.MD5,
        "password": AuthType.PLAIN,
        "scram-sha-256": AuthType.SCRAM_SHA_256,
        "peer": AuthType.PEER,
        "cert": AuthType.CERT,
        "pam": AuthType.PAM,
        "ldap": AuthType.LDAP,
    }
)
_MAPPED = frozenset({AuthType.PEER, AuthType.CERT})
# Fields in front of the method.
_TYPES: Mapping[str, tuple[bool, bool | None]] = MappingProxyType(
    {  # (by a Unix socket, by TLS or not; None: either)
        "local": (True, None),
        "host": (False, None),
        "hostssl": (False, True),
        "hostnossl": (False, False),
    }
)


@dataclass(frozen=True, slots=True)
class Connection:
    """What is known of a client when it has said who it is."""

    database: str
    user: str
    address: Address | None  # None: it came by a Unix socket
    secured: bool = False  # by TLS
    replication: bool = False  # physical: it names no database


@dataclass(frozen=True, slots=True)
class Names:
    """A list of databases or users. ``every``: it says ``all``."""

    exact: frozenset[str] = frozenset()
    patterns: tuple[re.Pattern[str], ...] = ()
    every: bool = False
    same_user: bool = False
    replication: bool = False

    def have(self, name: str) -> bool:
        """Whether it is one of them."""
        return (
            self.every
            or name in self.exact
            or any(pattern.search(name) for pattern in self.patterns)
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """A line. ``method`` None rejects; ``networks`` None fits every address."""

    local: bool
    secured: bool | None
    databases: Names
    users: Names
    networks: tuple[Network, ...] | None
    method: AuthType | None
    map: str
    file: str
    line: int
    options: LdapOptions | PamOptions | None = None  # of these two methods

    def fits(self, one: Connection) -> bool:
        """Whether it is the one that decides, if none before it does."""
        if self.local != (one.address is None):
            return False
        if self.secured is not None and self.secured != one.secured:
            return False
        if self.networks is not None and not any(
            one.address in network for network in self.networks
        ):
            return False
        return self._fits_database(one) and self.users.have(one.user)

    def _fits_database(self, one: Connection) -> bool:
        if one.replication:
            return self.databases.replication
        return self.databases.have(one.database) or (
            self.databases.same_user and one.database == one.user
        )


@dataclass(frozen=True, slots=True)
class Hba:
    """The rules in their order, and the maps by name."""

    rules: tuple[Rule, ...]
    maps: Mapping[str, tuple[MapLine, ...]]

    def rule_for(self, one: Connection) -> Rule | None:
        """The first that fits. Cost: O(rules)"""
        return next((rule for rule in self.rules if rule.fits(one)), None)

    def is_mapped(self, rule: Rule, system_user: str, user: str) -> bool:
        """Whether who the system or a certificate names may be this user."""
        if not rule.map:
            return system_user == user
        return any(line.lets(system_user, user) for line in self.maps[rule.map])


# ---------------------------------------------------------------- rules


def read_hba(hba_file: str, ident_file: str | None, report: Report = refuse) -> Hba:
    """Read both files; ``report`` hears of what cannot be read or is not built."""
    maps: dict[str, tuple[MapLine, ...]] = {}
    rules: list[Rule] = []

    def take_map(line: Line) -> None:
        name, entry = _map_line(line)
        maps[name] = (*maps.get(name, ()), entry)

    def take_rule(line: Line) -> None:
        rules.append(_rule(line, maps))

    for file, take in ((ident_file, take_map), (hba_file, take_rule)):
        for line in read_lines(file, report=report) if file else ():
            try:
                take(line)
            except ConfigError as error:
                report(error)
    return Hba(tuple(rules), MappingProxyType(maps))


def _rule(line: Line, maps: Mapping[str, object]) -> Rule:
    kind = _one(line, 0, "the type of connection").text
    if kind in ("hostgssenc", "hostnogssenc"):
        raise line.error(f"{kind} is not known here: there is no GSSAPI")
    if kind not in _TYPES:
        raise line.error(
            f"unknown type of connection {kind!r}; known are {', '.join(_TYPES)}"
        )
    local, secured = _TYPES[kind]
    databases = _names(line, 1, "databases")
    users = _names(line, 2, "users")
    networks, at = (None, 3) if local else _networks(line)
    method_name = _one(line, at, "a method").text
    if method_name not in METHODS:
        raise line.error(
            f"unknown method {method_name!r}; known are {', '.join(METHODS)}"
        )
    method = METHODS[method_name]
    if method is AuthType.PEER and not local:
        raise line.error("peer is for local lines only")
    if method is AuthType.CERT and local:
        raise line.error("cert is for host lines only")
    map_name, options = "", None
    if method in _READ_OPTIONS:
        options = _outside_options(line, at + 1, method_name)
    else:
        map_name = _map_option(line, at + 1, method)
    if map_name and map_name not in maps:
        raise line.error(f"map {map_name!r} is not in auth_ident_file")
    return Rule(
        local,
        secured,
        databases,
        users,
        networks,
        method,
        map_name,
        line.file,
        line.number,
        options,
    )


def _one(line: Line, at: int, what: str) -> Word:
    if len(line.fields) <= at:
        raise line.error(f"{what} is missing")
    if len(line.fields[at]) != 1:
        raise line.error(f"{what} cannot be a list")
    return line.fields[at][0]


def _names(line: Line, at: int, what: str) -> Names:
    if len(line.fields) <= at:
        raise line.error(f"{what} are missing")
    exact: set[str] = set()
    patterns: list[re.Pattern[str]] = []
    flags: dict[str, bool] = {}
    for word in line.fields[at]:
        special = _SPECIAL[what].get(word.text) if not word.quoted else None
        if special:
            flags[special] = True
        elif not word.quoted and word.text in ("samerole", "samegroup"):
            raise line.error(f"{word.text} is not known here: nobody asks for members")
        elif not word.quoted and word.text.startswith("+"):
            raise line.error(
                f"{word.text}: groups are not known here; list the users, or name a"
                " file of them with @"
            )
        elif not word.quoted and word.text.startswith("/"):
            patterns.append(_pattern(line, word.text[1:]))
        else:
            exact.add(word.text)
    return Names(frozenset(exact), tuple(patterns), **flags)


_SPECIAL = {
    "databases": {
        "all": "every",
        "sameuser": "same_user",
        "replication": "replication",
    },
    "users": {"all": "every"},
}


def _pattern(line: Line, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise line.error(f"bad regular expression {text!r}: {error}") from None


# ---------------------------------------------------------------- addresses


def _networks(line: Line) -> tuple[tuple[Network, ...] | None, int]:
    """Whose address fits (None: everybody's), and the field behind that."""
    word = _one(line, 3, "an address")
    if word.means("all"):
        return None, 4
    if word.means("samehost") or word.means("samenet"):
        return tuple(_own_networks(whole=word.text == "samenet")), 4
    try:
        if "/" in word.text:
            return (ipaddress.ip_network(word.text, strict=False),), 4
        address = ipaddress.ip_address(word.text)
    except ValueError:
        raise line.error(
            f"{word.text!r} is no address, no network, and none of all, samehost and"
            " samenet; names of hosts are not known here"
        ) from None
    mask = _one(line, 4, "the mask of the address").text
    try:
        if ipaddress.ip_address(mask).version != address.version:
            raise ValueError
        return (ipaddress.ip_network(f"{address}/{_prefix(mask)}", strict=False),), 5
    except ValueError:
        raise line.error(f"{mask!r} is no mask for {address}") from None


def _own_networks(*, whole: bool) -> Iterator[Network]:
    """Of this machine's interfaces; not ``whole``: its addresses alone."""
    # It prints a traceback where it cannot read /proc/stat (ProcSubset=pid), which is
    # of no account for addresses.
    with contextlib.redirect_stderr(io.StringIO()):
        import psutil
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            text = one.address.partition("%")[0]
            try:
                address = ipaddress.ip_address(text)
            except ValueError:
                continue  # a hardware address
            bits: int = address.max_prefixlen
            if whole and one.netmask:
                bits = _prefix(one.netmask)
            yield ipaddress.ip_network(f"{address}/{bits}", strict=False)


def _prefix(mask: str) -> int:
    """How many bits a mask that is written as an address leaves; ValueError: none."""
    address = ipaddress.ip_address(mask)
    bits = f"{int(address):0{address.max_prefixlen}b}"
    ones = bits.rstrip("0")
    if "0" in ones:
        raise ValueError
    return len(ones)


def _map_option(line: Line, at: int, method: AuthType | None) -> str:
    """The name of the map, the only option; empty: there is none."""
    found = ""
    for field in line.fields[at:]:
        for word in field:
            name, equals, value = word.text.partition("=")
            if name != "map" or not equals or not value:
                raise line.error(f"unknown option {word.text!r}; known is map=NAME")
            if method not in _MAPPED:
                raise line.error("map= is for peer and cert only")
            found = value
    return found


def _outside_options(line: Line, at: int, name: str) -> LdapOptions | PamOptions:
    """What a method that asks elsewhere is told. No value is in an error."""
    words = [word for field in line.fields[at:] for word in field]
    try:
        return _READ_OPTIONS[METHODS[name]](split_options(words))
    except ValueError as error:
        raise line.error(f"{name}: {error}") from None


_READ_OPTIONS: Mapping[
    AuthType | None, Callable[[list[tuple[str, str]]], LdapOptions | PamOptions]
] = MappingProxyType({AuthType.PAM: read_pam_options, AuthType.LDAP: read_ldap_options})


# ---------------------------------------------------------------- maps


@dataclass(frozen=True, slots=True)
class MapLine:
    """Who may be whom. With a pattern ``\\1`` in the user is its first group."""

    system_user: str
    pattern: re.Pattern[str] | None
    user: str
    every_user: bool

    def lets(self, system_user: str, user: str) -> bool:
        """Whether this one may log in as that one."""
        wanted = self.user
        if self.pattern is None:
            if system_user != self.system_user:
                return False
        else:
            match = self.pattern.search(system_user)
            if match is None:
                return False
            if self.pattern.groups:
                wanted = wanted.replace("\\1", match[1] or "")
        return self.every_user or user == wanted


def _map_line(line: Line) -> tuple[str, MapLine]:
    if len(line.fields) != 3:
        raise line.error("expected: map system-user database-user")
    name, system, user = (_one(line, at, "a name") for at in range(3))
    pattern = None
    if not system.quoted and system.text.startswith("/"):
        pattern = _pattern(line, system.text[1:])
    if "\\1" in user.text and (pattern is None or not pattern.groups):
        raise line.error(r"\1 needs a regular expression with a group")
    return name.text, MapLine(system.text, pattern, user.text, user.means("all"))
