# SPDX-License-Identifier: MIT
"""What a client sends, as values that can be printed as Python and read back.

``PAD`` in a text stands for ``pad`` letters: a text of a megabyte stays readable.
"""

from __future__ import annotations

import dataclasses
import itertools
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.wire_client import message

PAD = "@PAD@"


def text(value: str) -> bytes:
    """A string with its end; bytes that are no UTF-8 stand as surrogates."""
    return value.encode("utf-8", "surrogateescape") + b"\0"


class _Printed:
    """Prints only what differs from the defaults, and the required fields by place."""

    def __repr__(self) -> str:
        said = []
        for one in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            if one.default is dataclasses.MISSING:
                said.append(repr(value))
            elif value != one.default:
                said.append(f"{one.name}={value!r}")
        return f"{type(self).__name__}({', '.join(said)})"


@dataclass(frozen=True, repr=False)
class Query(_Printed):
    sql: str
    pad: int = 0

    def raw(self) -> bytes:
        return message("Q", text(self.sql.replace(PAD, "x" * self.pad)))


@dataclass(frozen=True, repr=False)
class Parse(_Printed):
    sql: str
    name: str = ""
    types: tuple[int, ...] = ()
    pad: int = 0

    def raw(self) -> bytes:
        count = len(self.types)
        types = struct.pack(f"!H{count}I", count, *self.types)
        sql = self.sql.replace(PAD, "x" * self.pad)
        return message("P", text(self.name) + text(sql) + types)


@dataclass(frozen=True, repr=False)
class Bind(_Printed):
    """``pad`` letters replace ``PAD`` in the values."""

    values: tuple[bytes | None, ...] = ()
    statement: str = ""
    portal: str = ""
    formats: tuple[int, ...] = ()
    results: tuple[int, ...] = ()
    pad: int = 0

    def raw(self) -> bytes:
        body = text(self.portal) + text(self.statement) + _shorts(self.formats)
        body += struct.pack("!H", len(self.values))
        for value in self.values:
            if value is None:
                body += struct.pack("!i", -1)
            else:
                whole = value.replace(PAD.encode(), b"x" * self.pad)
                body += struct.pack("!i", len(whole)) + whole
        return message("B", body + _shorts(self.results))


@dataclass(frozen=True, repr=False)
class Describe(_Printed):
    kind: str
    name: str = ""

    def raw(self) -> bytes:
        return message("D", self.kind.encode() + text(self.name))


@dataclass(frozen=True, repr=False)
class Execute(_Printed):
    portal: str = ""
    rows: int = 0

    def raw(self) -> bytes:
        return message("E", text(self.portal) + struct.pack("!I", self.rows))


@dataclass(frozen=True, repr=False)
class Close(_Printed):
    kind: str
    name: str = ""

    def raw(self) -> bytes:
        return message("C", self.kind.encode() + text(self.name))


@dataclass(frozen=True, repr=False)
class FunctionCall(_Printed):
    """Of a function of int4, by its object identifier; values as text."""

    oid: int
    values: tuple[bytes, ...] = ()

    def raw(self) -> bytes:
        body = struct.pack("!IHH", self.oid, 0, len(self.values))
        for value in self.values:
            body += struct.pack("!i", len(value)) + value
        return message("F", body + struct.pack("!H", 0))


@dataclass(frozen=True, repr=False)
class Flush(_Printed):
    def raw(self) -> bytes:
        return message("H")


@dataclass(frozen=True, repr=False)
class Sync(_Printed):
    def raw(self) -> bytes:
        return message("S")


@dataclass(frozen=True, repr=False)
class CopyData(_Printed):
    data: bytes
    pad: int = 0

    def raw(self) -> bytes:
        return message("d", self.data.replace(PAD.encode(), b"x" * self.pad))


@dataclass(frozen=True, repr=False)
class CopyDone(_Printed):
    def raw(self) -> bytes:
        return message("c")


@dataclass(frozen=True, repr=False)
class CopyFail(_Printed):
    why: str = "no more"

    def raw(self) -> bytes:
        return message("f", text(self.why))


@dataclass(frozen=True, repr=False)
class Leave(_Printed):
    """Says goodbye, or only closes, and comes back as somebody new. Stands alone."""

    rudely: bool = False

    def raw(self) -> bytes:
        return b"" if self.rudely else message("X")


Message = (
    Leave
    | Query
    | Parse
    | Bind
    | Describe
    | Execute
    | Close
    | FunctionCall
    | Flush
    | Sync
    | CopyData
    | CopyDone
    | CopyFail
)


@dataclass(frozen=True, repr=False)
class Exchange(_Printed):
    """What one client sends at once; sends towards the pooler end at ``cuts``."""

    client: int
    messages: tuple[Message, ...]
    cuts: tuple[int, ...] = ()

    def raw(self) -> bytes:
        return b"".join(one.raw() for one in self.messages)

    def pieces(self) -> list[bytes]:
        """The bytes in the pieces that the cuts make of them."""
        raw = self.raw()
        places = [0, *sorted({at for at in self.cuts if 0 < at < len(raw)}), len(raw)]
        return [raw[a:b] for a, b in itertools.pairwise(places)]


@dataclass(frozen=True)
class Scenario:
    """A whole conversation. ``logins``: each client's startup parameters."""

    logins: tuple[Mapping[str, str], ...]
    pool_size: int
    max_prepared_statements: int
    exchanges: tuple[Exchange, ...] = field(default=())

    def python(self) -> str:
        """As Python that ``read`` understands."""
        logins = ", ".join(repr(dict(one)) for one in self.logins)
        lines = [
            "Scenario(",
            f"    logins=({logins},),",
            f"    pool_size={self.pool_size},",
            f"    max_prepared_statements={self.max_prepared_statements},",
            "    exchanges=(",
        ]
        lines += [f"        {one!r}," for one in self.exchanges]
        return "\n".join([*lines, "    ),", ")"])


def _shorts(values: tuple[int, ...]) -> bytes:
    return struct.pack(f"!H{len(values)}H", len(values), *values)


WORDS = {
    one.__name__: one
    for one in (
        Leave,
        Query,
        Parse,
        Bind,
        Describe,
        Execute,
        Close,
        FunctionCall,
        Flush,
        Sync,
        CopyData,
        CopyDone,
        CopyFail,
        Exchange,
        Scenario,
    )
}


def read(python: str) -> Scenario:
    """A scenario from what ``Scenario.python`` has written (our own files only)."""
    made = eval(python, {"__builtins__": {}}, dict(WORDS))
    assert isinstance(made, Scenario)
    return made
