# SPDX-License-Identifier: MIT
"""A slow, obvious backend: PostgreSQL's rules for prepared statements, and no SQL.

It speaks the protocol over bytes. A text is one word and perhaps a name::

    begin  commit  rollback   end or begin a transaction block
    bad                       a syntax error when it is read
    fail                      an error when it is run
    stale                     an error of a plan that is out of date, when it is bound,
                              if it was prepared before ``alter()`` was last called;
                              its column has another name then
    prepare NAME as TEXT      execute NAME      deallocate NAME      deallocate all
    anything else             a row with the text itself

A Query may have several of them, with semicolons in between.

Source: PostgreSQL documentation, "Extended Query", "Pipelining", "PREPARE".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tests.wire_client import message, messages_in
from tests.wire_client import text as cstring


@dataclass(frozen=True)
class Prepared:
    text: str
    age: int  # of the schema when it was prepared


class Failure(Exception):
    """An ErrorResponse is due."""

    def __init__(self, state: str, text: str, routine: str = "") -> None:
        super().__init__(text)
        self.state = state
        self.text = text
        self.routine = routine


def error(failure: Failure) -> bytes:
    """An ErrorResponse as the backend words it."""
    fields = f"SERROR\0VERROR\0C{failure.state}\0M{failure.text}\0"
    if failure.routine:
        fields += f"R{failure.routine}\0"
    return message("E", fields.encode() + b"\0")


def cut(name: str) -> str:
    """Names are told apart by 63 bytes."""
    return name.encode()[:63].decode()


class Backend:
    """One backend; ``feed`` takes what a client sends and returns the answers."""

    def __init__(self) -> None:
        self.status = "I"
        self.named: dict[str, Prepared] = {}
        self.unnamed: Prepared | None = None
        self.portals: dict[str, str] = {}
        self.age = 0
        self.parses = 0
        self._skipping = False
        self._held = b""

    def alter(self) -> None:
        """Whatever was prepared so far has another result type now."""
        self.age += 1

    def feed(self, data: bytes) -> bytes:
        """Take bytes; a message may come in pieces."""
        self._held += data
        end = 0
        while end + 5 <= len(self._held):
            (length,) = struct.unpack_from("!I", self._held, end + 1)
            if end + 1 + length > len(self._held):
                break
            end += 1 + length
        whole, self._held = self._held[:end], self._held[end:]
        return b"".join(self._one(m.code, m.body) for m in messages_in(whole))

    def _one(self, code: str, body: bytes) -> bytes:
        if code == "S":
            return self._sync()
        if code == "H" or self._skipping:
            return b""
        if code == "Q":
            return self._query(body[:-1].decode())
        try:
            return {
                "P": self._parse,
                "B": self._bind,
                "D": self._describe,
                "E": self._execute,
                "C": self._close,
            }[code](body)
        except Failure as failure:
            self._skipping = True
            return self._failed(failure)

    def _failed(self, failure: Failure) -> bytes:
        if self.status == "T":
            self.status = "E"
        self.portals.clear()
        return error(failure)

    def _ready(self) -> bytes:
        if self.status == "I":
            self.portals.clear()
        return message("Z", self.status.encode())

    def _sync(self) -> bytes:
        self._skipping = False
        return self._ready()

    # ------------------------------------------------------------ the rules

    def _read(self, sql: str) -> None:
        """What PostgreSQL finds when it parses and analyses."""
        if sql == "bad":
            raise Failure("42601", 'syntax error at or near "bad"')
        if self.status == "E" and sql not in ("rollback", "commit", ""):
            raise Failure("25P02", "current transaction is aborted")

    def _lookup(self, name: str) -> Prepared:
        found = self.named.get(cut(name)) if name else self.unnamed
        if found is None and not name:
            raise Failure("26000", "unnamed prepared statement does not exist")
        if found is None:
            raise Failure(
                "26000",
                f'prepared statement "{name}" does not exist',
                "FetchPreparedStatement",
            )
        return found

    def _check_plan(self, prepared: Prepared) -> None:
        if prepared.text.startswith("stale") and prepared.age != self.age:
            raise Failure(
                "0A000",
                "cached plan must not change result type",
                "RevalidateCachedQuery",
            )

    def _store(self, name: str, sql: str) -> None:
        if cut(name) in self.named:
            raise Failure(
                "42P05",
                f'prepared statement "{name}" already exists',
                "StorePreparedStatement",
            )
        self.named[cut(name)] = Prepared(sql, self.age)

    def _parse(self, body: bytes) -> bytes:
        name, sql = (part.decode() for part in body.split(b"\0")[:2])
        self.parses += 1
        if not name:
            self.unnamed = None
        self._read(sql)
        if name:
            self._store(name, sql)
        else:
            self.unnamed = Prepared(sql, self.age)
        return message("1")

    def _bind(self, body: bytes) -> bytes:
        portal, name = (part.decode() for part in body.split(b"\0")[:2])
        prepared = self._lookup(name)
        if self.status == "E" and prepared.text not in ("rollback", "commit"):
            raise Failure("25P02", "current transaction is aborted")
        self._check_plan(prepared)
        self.portals[portal] = prepared.text
        return message("2")

    def _describe(self, body: bytes) -> bytes:
        kind, name = chr(body[0]), body[1:-1].decode()
        if kind == "P":
            if name not in self.portals:
                raise Failure("34000", f'portal "{name}" does not exist')
            return self._described(self.portals[name])
        prepared = self._lookup(name)
        if self.status == "E":
            raise Failure("25P02", "current transaction is aborted")
        self._check_plan(prepared)
        return message("t", b"\0\0") + self._described(prepared.text)

    def _described(self, sql: str) -> bytes:
        """What EXECUTE returns is what its statement returns, if there is one.

        Commands that change names return nothing.
        """
        target = self.named.get(sql.removeprefix("execute ").strip('"'))
        if target is not None and sql.startswith("execute "):
            return self._described(target.text)
        if sql.startswith(("prepare ", "deallocate ")):
            return message("n")
        shown = "no such" if sql.startswith("execute ") else sql
        if sql.startswith("stale"):
            shown += f" {self.age}"
        return message("T", b"\0\1" + cstring(shown) + bytes(18))

    def _close(self, body: bytes) -> bytes:
        kind, name = chr(body[0]), body[1:-1].decode()
        if kind == "P":
            self.portals.pop(name, None)
        elif name:
            self.named.pop(cut(name), None)
        else:
            self.unnamed = None
        return message("3")

    def _execute(self, body: bytes) -> bytes:
        portal = body.split(b"\0")[0].decode()
        if portal not in self.portals:
            raise Failure("34000", f'portal "{portal}" does not exist')
        return self._run(self.portals[portal])

    def _query(self, sql: str) -> bytes:
        """All of it is read, then one command after the other is carried out."""
        self.unnamed = None
        self.portals.pop("", None)
        commands = [one.strip() for one in sql.split(";") if one.strip()]
        answer = b"" if commands else message("I")
        try:
            for one in commands:
                if one.split(" ")[-1] == "bad":
                    self._read("bad")
            for one in commands:
                self._read(one)
                answer += self._run(one)
        except Failure as failure:
            answer += self._failed(failure)
        return answer + self._ready()

    def _run(self, sql: str) -> bytes:
        words = [word.strip('"') for word in sql.split(" ")]
        verb = words[0].lower()
        if self.status == "E" and verb not in ("rollback", "commit"):
            raise Failure("25P02", "current transaction is aborted")
        if verb == "fail":
            raise Failure("22012", "division by zero")
        if verb == "begin":
            self.status = "T"
        elif verb in ("rollback", "commit"):
            self.status = "I"
        elif verb == "prepare":
            self._read(" ".join(words[3:]))
            self._store(words[1], " ".join(words[3:]))
        elif verb == "execute":
            prepared = self._lookup(words[1])
            self._check_plan(prepared)
            return self._run(prepared.text)
        elif sql.lower() == "deallocate all":
            self.named.clear()
            return message("C", cstring("DEALLOCATE ALL"))
        elif verb == "deallocate":
            self._lookup(words[1])
            del self.named[cut(words[1])]
        else:
            row = sql.encode()
            told = message("D", b"\0\1" + struct.pack("!I", len(row)) + row)
            return told + message("C", cstring("SELECT 1"))
        return message("C", cstring(verb.upper()))
