# SPDX-License-Identifier: MIT
"""Two answers, message by message, without what may differ."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tests.wire_client import Message

# What may differ, and why; ``Comparison`` applies it.
ALLOWED = {
    "K": "a cancel key is the pooler's own",
    "A": "the process id of a notification is that of a backend, and those differ",
    "S in the greeting": "their order; the set and the values must be the same",
    "E and N, fields F and L": "file and line of PostgreSQL's source",
    "T and t, object identifiers from 16384 on": "each way has a database of its own;"
    " equal ones of one way must be equal ones of the other",
}
FIRST_OWN_OID = 16384
UNCOMPARED_FIELDS = "FL"
SHOWN_BYTES = 200


@dataclass
class Comparison:
    """Compares the answers of one scenario; knows which objects are the same."""

    messages: int = 0
    _oids: dict[int, int] = field(default_factory=dict)
    _back: dict[int, int] = field(default_factory=dict)

    def same(self, straight: Message, pooled: Message) -> bool:
        """Whether two messages are the same but for what is allowed."""
        self.messages += 1
        if straight.code != pooled.code:
            return False
        if straight.body == pooled.body and straight.code not in "Tt":
            return True
        compare = _COMPARED.get(straight.code)
        return compare is not None and compare(self, straight.body, pooled.body)

    def _same_oids(self, straight: list[int], pooled: list[int]) -> bool:
        if len(straight) != len(pooled):
            return False
        for one, other in zip(straight, pooled, strict=True):
            if one < FIRST_OWN_OID or other < FIRST_OWN_OID:
                if one != other:
                    return False
            elif (
                self._oids.setdefault(one, other) != other
                or self._back.setdefault(other, one) != one
            ):
                return False
        return True

    def _rows(self, straight: bytes, pooled: bytes) -> bool:
        plain, oids = _described(straight)
        others, other_oids = _described(pooled)
        return plain == others and self._same_oids(oids, other_oids)

    def _parameters(self, straight: bytes, pooled: bytes) -> bool:
        return self._same_oids(_oid_list(straight), _oid_list(pooled))

    def _fields(self, straight: bytes, pooled: bytes) -> bool:
        return error_fields(straight) == error_fields(pooled)

    def _notification(self, straight: bytes, pooled: bytes) -> bool:
        return straight[4:] == pooled[4:]


_COMPARED = {
    "T": Comparison._rows,
    "t": Comparison._parameters,
    "E": Comparison._fields,
    "N": Comparison._fields,
    "A": Comparison._notification,
}


def error_fields(body: bytes) -> list[bytes]:
    """The fields of an ErrorResponse but for those that are not compared."""
    parts = body.split(b"\0")
    return [part for part in parts if part and chr(part[0]) not in UNCOMPARED_FIELDS]


def _described(body: bytes) -> tuple[list[object], list[int]]:
    """A RowDescription without its object identifiers, and those alone."""
    (count,) = struct.unpack_from("!H", body)
    at = 2
    plain: list[object] = [count]
    oids = []
    for _ in range(count):
        end = body.index(b"\0", at)
        plain.append(body[at:end])
        table, column, kind, size, modifier, form = struct.unpack_from(
            "!IhIhih", body, end + 1
        )
        at = end + 1 + 18
        plain.append((column, size, modifier, form))
        oids += [table, kind]
    plain.append(body[at:])
    return plain, oids


def _oid_list(body: bytes) -> list[int]:
    (count,) = struct.unpack_from("!H", body)
    return list(struct.unpack_from(f"!{count}I", body, 2))


def shown(one: Message | None) -> str:
    """A message for people."""
    if one is None:
        return "(nothing)"
    if one.code in "EN":
        fields = one.fields
        said = {
            name: fields[name][:SHOWN_BYTES] for name in fields if name not in "VFL"
        }
        return f"{one.code} {said}"
    body = repr(one.body[:SHOWN_BYTES])
    more = f" … {len(one.body)} bytes" if len(one.body) > SHOWN_BYTES else ""
    return f"{one.code} {body}{more}"


def kind_of(one: Message | None, other: Message | None = None) -> str:
    """A message in a word or two, to tell one kind of difference from another."""
    if one is None:
        return "nothing"
    if one.code in "EN":
        said = f"{one.code} {one.fields.get('C', '')}"
        if other is not None and other.code == one.code:
            mine, others = one.fields, other.fields
            names = sorted({*mine, *others} - set(UNCOMPARED_FIELDS))
            said += " in " + "".join(n for n in names if mine.get(n) != others.get(n))
        return said
    if one.code in "SC":
        return f"{one.code} {one.strings[0].split(' ')[0]}"
    return one.code
