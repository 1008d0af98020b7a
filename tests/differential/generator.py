# SPDX-License-Identifier: MIT
"""Makes exchanges from the grammar, each by what has come of the last one."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.differential import grammar
from tests.differential.grammar import Text
from tests.differential.messages import (
    PAD,
    Bind,
    Close,
    CopyData,
    CopyDone,
    CopyFail,
    Describe,
    Exchange,
    Execute,
    Flush,
    FunctionCall,
    Leave,
    Message,
    Parse,
    Query,
    Scenario,
    Sync,
)
from tests.differential.oddly import CURSOR_NAMES, FUNCTIONS, cuts, has_copy, make_odd
from tests.differential.play import Played
from tests.differential.referee import Referee

LONGEST = 40
ATTEMPTS = 60

# Kind -> what its exchanges are made of: the name of a source, and its weight.
KINDS: dict[str, dict[str, int]] = {
    "simple": {"plain": 6, "writes": 3, "errors": 3, "block": 3, "many": 3},
    "extended": {"plain": 6, "writes": 3, "errors": 3, "block": 2},
    "context": {"context": 6, "parameters": 5, "block": 2, "plain": 1},
    "login": {"context": 6, "parameters": 5, "block": 2, "plain": 1},
    "untracked": {"untracked": 5, "changes": 3, "block": 3, "plain": 1},
    "ddl": {"ddl reads": 6, "ddl": 4, "block": 2, "hidden ddl": 2},
    "stale": {"stale reads": 6, "ddl": 4, "block": 2},
    "temp": {"temp reads": 5, "temp": 4, "block": 3, "plain": 1},
    "prepare": {"prepare": 8, "plain": 2, "block": 2, "errors": 1, "context": 1},
    "copy": {"copy": 6, "writes": 2, "block": 2, "plain": 2},
    "big": {"big": 5, "plain": 2, "writes": 2, "block": 1},
    "hidden": {
        "hidden": 4,
        "untracked": 2,
        "temp reads": 2,
        "ddl reads": 3,
        "stale reads": 2,
        "block": 3,
    },
    "mixed": {
        "plain": 4,
        "writes": 3,
        "errors": 3,
        "context": 3,
        "parameters": 2,
        "untracked": 3,
        "changes": 1,
        "ddl": 1,
        "hidden ddl": 1,
        "ddl reads": 2,
        "temp": 1,
        "copy": 2,
        "big": 1,
        "block": 4,
        "many": 1,
    },
}
KINDS["session"] = {"session reads": 6, "session": 4, "block": 3, "plain": 1}
KINDS["odd"] = {"plain": 5, "writes": 2, "errors": 2, "block": 2, "call": 1}
KINDS["portals"] = {"plain": 3, "portals": 6, "cursors": 4, "block": 3, "writes": 2}
KINDS["odd names"] = {"plain": 3, "prepare": 4, "portals": 2, "block": 2, "errors": 1}
KINDS["encoding"] = {
    "encoded": 6, "encoding": 3, "prepare": 3, "parameters": 1, "block": 1
}  # fmt: skip
KINDS["meaning"] = {
    "prepare": 6, "context": 4, "parameters": 4, "block": 2, "encoding": 1
}  # fmt: skip
KINDS["types"] = {"types": 6, "ddl": 1, "block": 2, "plain": 1, "ddl reads": 1}
KINDS["everything"] = {**KINDS["mixed"], "prepare": 4}
for _sources in KINDS.values():
    _sources["joined"] = 1
# Kinds whose commands go by one protocol only.
PROTOCOL = {"simple": 0.0, "extended": 1.0}
# No commands.
UNJOINED = ("joined", "many", "call", "big")
# How often there is something odd in an exchange.
ODD = {"odd": 0.8, "odd names": 0.6, "portals": 0.15}


@dataclass
class _Client:
    """What a client has prepared, as far as it knows itself."""

    names: dict[str, Text] = field(default_factory=dict)
    portals: set[str] = field(default_factory=set)


class Generator:
    """One scenario's exchanges. Everything depends on the seed and the answers."""

    def __init__(self, seed: int, kind: str) -> None:
        self.kind = kind
        self._random = random.Random(f"{seed} {kind}")
        self._sources: dict[str, Callable[[int], list[Message]]] = {
            "plain": self._from(grammar.PLAIN),
            "writes": self._from(grammar.WRITES),
            "errors": self._from(grammar.ERRORS),
            "context": self._from(grammar.CONTEXT),
            "untracked": self._from(grammar.UNTRACKED_READS),
            "ddl reads": self._from(grammar.DDL_READS),
            "stale reads": self._from(grammar.STALE_READS + grammar.DDL_READS),
            "temp reads": self._from(grammar.TEMP_READS),
            "big": self._big,
            "many": self._many,
            "block": self._block,
            "parameters": self._parameters,
            "changes": self._changes,
            "ddl": self._ddl,
            "hidden ddl": self._hidden_ddl,
            "temp": self._temp,
            "hidden": self._from(grammar.HIDDEN),
            "prepare": self._prepare,
            "copy": self._copy,
            "call": self._call,
            "portals": self._portals,
            "cursors": self._from(grammar.CURSORS),
            "session reads": self._from(grammar.SESSION_READS),
            "session": self._session,
            "encoded": self._from(grammar.ENCODED),
            "encoding": self._encoding,
            "types": self._from(grammar.TYPES),
            "joined": self._joined,
        }
        self._extended = PROTOCOL.get(kind, 0.6)
        self.scenario = self._scenario()
        self._clients = [_Client() for _ in self.scenario.logins]

    def _scenario(self) -> Scenario:
        pick = self._random
        size = pick.choice((1, 1, 2))
        clients = min(4, size + pick.choice((0, 1, 1, 2)))
        logins: list[dict[str, str]] = []
        for _ in range(clients):
            login: dict[str, str] = {}
            if self.kind == "login":
                name = pick.choice(("TimeZone", "DateStyle", "application_name"))
                login[name] = pick.choice(grammar.PARAMETERS[name])
            logins.append(login)
        return Scenario(tuple(logins), size, pick.choice((1, 2, 2, 200)))

    # One exchange after the other.

    def next(self, referee: Referee) -> Exchange | None:
        """An exchange that is legal and fair now; None when none was found."""
        able = [n for n in range(len(self._clients)) if referee.may_speak(n)]
        for _ in range(ATTEMPTS):
            client = self._random.choice(able)
            standing = referee.clients[client]
            if self._random.random() < 0.02:
                self._clients[client] = _Client()
                return Exchange(client, (Leave(self._random.random() < 0.5),))
            if standing.status == "E" and self._random.random() < 0.6:
                sql = self._random.choice(("rollback", "rollback", "rollback to s1"))
                parts = self._command(client, Text(sql))
            elif standing.status == "T" and self._random.random() < 0.25:
                parts = self._command(client, Text(self._random.choice(grammar.ENDS)))
            else:
                parts = self._parts(client)
            made = self._finish(client, parts, standing.open_batch)
            if referee.allows(made):
                self._learn(made)
                return made
        return None

    def end(self, referee: Referee) -> list[Exchange]:
        """What ends every open transaction."""
        return [
            Exchange(n, (Sync(), Query("rollback")))
            for n, one in enumerate(referee.clients)
            if one.holds_server
        ]

    def played(self, exchange: Exchange, played: Played) -> None:
        """Told what has come of an exchange."""
        if played.status == "I" and not played.open_batch:
            self._clients[exchange.client].portals.clear()

    def _parts(self, client: int) -> list[Message]:
        """One to four things to do, sent at once."""
        weights = KINDS[self.kind]
        names = self._random.choices(
            list(weights),
            list(weights.values()),
            k=self._random.choice((1, 1, 1, 2, 3)),
        )
        parts: list[Message] = []
        for name in names:
            parts += self._sources[name](client)
            # A Sync between them, or one batch.
            if parts and not isinstance(parts[-1], Query | Sync | CopyDone | CopyFail):
                if self._random.random() < 0.5:
                    parts.append(Sync())
                elif self._random.random() < 0.1:
                    parts.append(Flush())
        return parts

    def _finish(self, client: int, parts: list[Message], open_batch: bool) -> Exchange:
        """Ends the batch, mostly; says where the sends are cut."""
        pick = self._random
        if pick.random() < ODD.get(self.kind, 0.04):
            parts = make_odd(pick, parts)
        in_batch = open_batch
        for one in parts:
            in_batch = not isinstance(one, Query | Sync | FunctionCall)
        if in_batch:
            stays = pick.random() < 0.06 and not has_copy(parts)
            parts.append(Flush() if stays else Sync())
        made = Exchange(client, tuple(parts))
        return replace(made, cuts=cuts(pick, made.messages))

    def _learn(self, made: Exchange) -> None:
        client = self._clients[made.client]
        for one in made.messages:
            if isinstance(one, Bind):
                client.portals.add(one.portal)

    # Texts.

    def _from(self, texts: tuple[Text, ...]) -> Callable[[int], list[Message]]:
        def source(client: int) -> list[Message]:
            return self._command(client, self._random.choice(texts))

        return source

    def _command(self, client: int, text: Text) -> list[Message]:
        """One command, by one of the protocols."""
        sql = text.sql.replace("{who}", str(client))
        text = replace(text, sql=sql)
        if self._random.random() >= self._extended:
            return [Query(self._literal(text), self._pad(sql))]
        return self._by_messages(client, text)

    def _literal(self, text: Text) -> str:
        """The text with values in the place of its parameters."""
        sql = text.sql
        for number, choices in enumerate(text.values, 1):
            value = self._random.choice(choices)
            said = "null"
            if value is not None:
                said = "'" + value.decode("utf-8", "surrogateescape") + "'"
            sql = sql.replace(f"${number}", said)
        return sql

    def _pad(self, sql: str) -> int:
        if PAD not in sql:
            return 0
        big = self.kind == "big" or self._random.random() < 0.05
        return self._random.choice(grammar.PADS) if big else self._random.choice((0, 9))

    def _by_messages(self, client: int, text: Text) -> list[Message]:
        """By the extended protocol: new or known, named or not, whole or in part."""
        pick = self._random
        known = self._clients[client].names
        if pick.random() < 0.04:  # what SQL may have prepared
            values = pick.choice(((), (b"1",), (b"a", b"1")))
            text = Text("", tuple((one,) for one in values))
            return self._run(client, pick.choice(grammar.SQL_NAMES), text)
        name = pick.choice(("", "", *grammar.NAMES))
        if name and name in known and pick.random() < 0.6:
            return self._known(client, name, known[name])
        types = text.types if text.types and pick.random() < 0.8 else ()
        parts: list[Message] = []
        if name in known and name and pick.random() < 0.7:
            parts.append(Close("S", name))
        parts.append(Parse(text.sql, name, types, self._pad(text.sql)))
        known[name] = text
        if pick.random() < 0.2:
            parts.append(Describe("S", name))
        if pick.random() < 0.15:
            parts.append(Sync())
            if pick.random() < 0.5:
                return parts
        parts += self._run(client, name, text)
        if name and pick.random() < 0.15:
            parts.append(Close("S", name))
        return parts

    def _known(self, client: int, name: str, text: Text) -> list[Message]:
        """Use, describe or close what should be there."""
        pick = self._random
        way = pick.random()
        if way < 0.1:
            return [Describe("S", name)]
        if way < 0.2:
            return [Close("S", name)]
        if way < 0.25:
            return self._run(client, pick.choice(("nobody", "S1", "pooler_0_1")), text)
        return self._run(client, name, text)

    def _run(self, client: int, name: str, text: Text) -> list[Message]:
        """Bind, Describe, Execute, perhaps in steps of a few rows."""
        pick = self._random
        values, formats = self._values(text)
        if pick.random() < 0.04:
            values = (*values, b"1")
        portal = pick.choice(grammar.PORTALS)
        results = pick.choice(((), (), (), (0,), (1,)))
        pad = self._pad(PAD) if any(v and PAD.encode() in v for v in values) else 0
        parts: list[Message] = [Bind(values, name, portal, formats, results, pad)]
        if pick.random() < 0.4:
            parts.append(Describe("P", portal))
        rows = pick.choice((0, 0, 0, 1, 2))
        parts.append(Execute(portal, rows))
        if rows and pick.random() < 0.7:
            if pick.random() < 0.3:
                parts.append(Flush())
            parts.append(Execute(portal, pick.choice((0, rows))))
        if portal and pick.random() < 0.5:
            parts.append(Close("P", portal))
        return parts

    def _values(self, text: Text) -> tuple[tuple[bytes | None, ...], tuple[int, ...]]:
        pick = self._random
        values = tuple(pick.choice(choices) for choices in text.values)
        if "::int" in text.sql and values and pick.random() < 0.2:
            try:
                packed = tuple(
                    None if v is None else int(v).to_bytes(4, "big", signed=True)
                    for v in values
                )
            except (ValueError, OverflowError):
                return values, ()
            return packed, (1,)
        return values, ()

    # Sources.

    def _big(self, client: int) -> list[Message]:
        texts = [text for text in grammar.PLAIN if "@" in repr(text)]
        return self._command(client, self._random.choice(texts))

    def _many(self, client: int) -> list[Message]:
        """Several commands in one Query."""
        pick = self._random
        texts = grammar.PLAIN[:4] + grammar.WRITES + grammar.ERRORS[:7]
        said = [
            self._literal(pick.choice(texts)).replace("{who}", str(client))
            for _ in range(pick.randint(2, 4))
        ]
        if pick.random() < 0.3:
            said = ["begin", *said, pick.choice(("commit", "rollback", "select 1"))]
        return [Query("; ".join(said))]

    def _block(self, client: int) -> list[Message]:
        pick = self._random
        which = pick.choice(
            (grammar.BEGINS, grammar.BEGINS, grammar.INSIDE, grammar.ENDS)
        )
        return self._command(client, Text(pick.choice(which)))

    def _parameters(self, client: int) -> list[Message]:
        pick = self._random
        if pick.random() < 0.1:
            return self._command(client, Text(pick.choice(grammar.PARAMETER_ERRORS)))
        sql = self._setting(grammar.PARAMETERS)
        if pick.random() < 0.2:
            said = sql.replace("'", "''")
            perform = re.sub(r"^select", "perform", sql)
            sql = pick.choice((
                f"do $x$ begin {perform}; end $x$",
                f"call public.run_it('{said}')",
                f"select public.run('{said}')",
                f"select 1 where public.run('{said}') = 2",
            ))  # fmt: skip
        return self._command(client, Text(sql))

    def _encoding(self, client: int) -> list[Message]:
        name = self._random.choice(grammar.ENCODINGS)
        return self._command(client, Text(self._random.choice((
            f"set client_encoding to '{name}'",
            f"set names '{name}'",
            f"set local client_encoding = {name}",
            f"select set_config('client_encoding', '{name}', false)",
            "reset client_encoding",
        ))))  # fmt: skip

    def _joined(self, client: int) -> list[Message]:
        """A Query of several commands, each from one of the kind's own sources."""
        pick = self._random
        weights = {k: n for k, n in KINDS[self.kind].items() if k not in UNJOINED}
        said: list[str] = []
        before, self._extended = self._extended, 0.0
        for name in pick.choices(
            list(weights), list(weights.values()), k=pick.choice((2, 2, 3, 4))
        ):
            for one in self._sources[name](client):
                if isinstance(one, Query) and "from stdin" not in one.sql:
                    said.append(one.sql)
        self._extended = before
        pad = pick.choice((0, 9, 9, *grammar.PADS)) if PAD in repr(said) else 0
        if "prepare" in weights:
            pad = min(pad, grammar.NAMES_PAD)
        return [Query(pick.choice((";", "; ", ";;", " ;\n")).join(said), pad)]

    def _setting(self, table: dict[str, tuple[str, ...]]) -> str:
        """One of the ways to set a parameter."""
        pick = self._random
        name = pick.choice(list(table))
        value = pick.choice(table[name])
        listed = name == "search_path" or name == "role"
        quoted = value if listed and value else f"'{value}'"
        local = pick.choice(("", "", "local ", "session "))
        return pick.choice((
            f"set {local}{name} to {quoted}",
            f"set {local}{name} = {quoted}",
            f"set {local}{name} to {quoted}",
            f"reset {name}",
            f"set {local}{name} to default" if name != "role" else "reset role",
            f"select set_config('{name}', '{value}', false)",
            f"select set_config('{name}', '{value}', true)",
        ))  # fmt: skip

    def _changes(self, client: int) -> list[Message]:
        if self._random.random() < 0.3:
            return self._command(client, self._random.choice(grammar.UNTRACKED_OTHERS))
        return self._command(client, Text(self._setting(grammar.UNTRACKED)))

    def _session(self, client: int) -> list[Message]:
        if self._random.random() < 0.6:
            return self._command(client, self._random.choice(grammar.SESSION))
        return self._command(client, Text(self._setting(grammar.SESSION_SETTINGS)))

    def _ddl(self, client: int) -> list[Message]:
        return self._command(client, Text(self._random.choice(grammar.DDL)))

    def _hidden_ddl(self, client: int) -> list[Message]:
        pick = self._random
        sql = pick.choice(grammar.DDL)
        said = sql.replace("'", "''")
        return self._command(client, Text(pick.choice((
            f"do $x$ begin execute '{said}'; end $x$",
            f"call public.run_it('{said}')",
        ))))  # fmt: skip

    def _temp(self, client: int) -> list[Message]:
        return self._command(client, Text(self._random.choice(grammar.TEMP)))

    def _prepare(self, client: int) -> list[Message]:
        """PREPARE, EXECUTE, DEALLOCATE, DISCARD ALL: alone, and among others."""
        pick = self._random
        said = [self._of_names(client) for _ in range(pick.choice((1, 1, 1, 2, 3)))]
        if pick.random() < 0.15:
            said.insert(pick.randrange(len(said) + 1), "select 1")
        if len(said) == 1 and pick.random() < 0.3:
            # One that executes itself would end PostgreSQL (54001, or its stack).
            safe = re.sub(r'(execute) (s\d|"S 5")', r"\1 p1", said[0], flags=re.I)
            return self._by_messages(client, Text(safe))
        sql = pick.choice((";", "; ", " ; /* x */ ")).join(said)
        pad = self._pad(sql)
        return [Query(sql, pad if len(said) == 1 else min(pad, grammar.NAMES_PAD))]

    def _of_names(self, client: int) -> str:
        pick = self._random
        name = self._sql_name()
        types, sql, values = pick.choice(grammar.PREPARE_TEXTS)
        value = pick.choice(values) if values else ""
        return pick.choice((
            f"prepare {name}{types} as {sql}",
            f"prepare {name}{types} as {sql}",
            f"execute {name}{value}",
            f"execute {name}{value}",
            f"execute {name}",
            f"deallocate {name}",
            f"deallocate prepare {name}",
            "DEALLOCATE ALL",
            "discard all",
            f"explain (costs off) execute {name}",
        )).replace("{who}", str(client))  # fmt: skip

    def _sql_name(self) -> str:
        """As SQL spells it: those of the protocol may have capitals and blanks."""
        pick = self._random
        name = pick.choice((*grammar.SQL_NAMES, *grammar.SQL_NAMES, "s2", '"S 5"'))
        if self.kind == "encoding" and pick.random() < 0.4:
            return pick.choice(grammar.ENCODED_NAMES)
        return pick.choice((name, name, name.upper() if name[0] != '"' else name))

    def _call(self, client: int) -> list[Message]:
        return [self._random.choice(FUNCTIONS)]

    def _portals(self, client: int) -> list[Message]:
        """What may still be there: bound before, or a cursor, or gone."""
        pick = self._random
        names = sorted(self._clients[client].portals - {""}) + list(CURSOR_NAMES)
        name = pick.choice(names)
        choices: tuple[list[Message], ...] = (
            [Execute(name, pick.choice((0, 1, 2)))],
            [Execute(name, 1), Execute(name, 1)],
            [Describe("P", name)],
            [Close("P", name)],
            [Query(f"fetch {pick.choice((1, 2, 'all'))} from {name}")],
            [Query(f"move 1 in {name}")],
            [Query(f"close {name}")],
            [Query("close all")],
        )
        return pick.choice(choices)

    def _copy(self, client: int) -> list[Message]:
        pick = self._random
        if pick.random() < 0.4:
            return self._command(client, Text(pick.choice(grammar.COPY_OUT)))
        sql = pick.choice(grammar.COPY_IN)
        mark = "," if "csv" in sql else "\t"
        lines = [
            mark.join((str(client), str(pick.randrange(9)), "x" + str(i))) + "\n"
            for i in range(pick.randrange(4))
        ]
        if pick.random() < 0.2:
            lines.append("nonsense\n")
        parts: list[Message] = [CopyData(one.encode()) for one in lines]
        if pick.random() < 0.2:
            line = mark.join((str(client), "7", PAD)) + "\n"
            parts.append(CopyData(line.encode(), pick.choice(grammar.PADS)))
        parts.append(CopyFail() if pick.random() < 0.2 else CopyDone())
        if pick.random() < 0.5:
            return [Query(sql), *parts]
        return [Parse(sql), Bind(), Execute(), *parts, Sync()]
