# SPDX-License-Identifier: MIT
"""Write the first inputs of the fuzzer: ``python -m tests.fuzz.corpus FOLDER``.

They come from tests/vectors, from the conformance scripts and from conversations with
answers, each in the form that its target reads (see ``_play.pyx``, ``_server.pyx``,
``_tls.pyx``, ``login_target``, ``server_login_target``).
"""

from __future__ import annotations

import base64
import hashlib
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from pooler.login.policy import AuthMethod
from tests.conformance.script import COPY, COPY_DONE, copy_fail, data
from tests.conformance.scripts import all_scripts
from tests.feeding import load_vectors
from tests.fuzz.scram_reference import OUR_NONCE, proofs
from tests.wire_client import (
    FLUSH,
    GSSENC_REQUEST,
    SSL_REQUEST,
    SYNC,
    TERMINATE,
    bind,
    cancel_request,
    describe,
    execute,
    extended,
    message,
    parse,
    query,
    startup,
    text,
)

MOST_BYTES = 1500
RULES = {"client": 0, "server": 1, "idle_server": 2}

# As in _play.pyx.
OPERATIONS = 14
(
    CLIENT,
    SERVER,
    LOSE_CLIENT,
    LOSE_SERVER,
    CANCEL,
    ANSWER,
    FILL,
    SLOW,
    BREAK,
    VANISH,
    TIME,
    INQUIRE,
    RETIRE,
    PAUSE,
) = range(OPERATIONS)
FILL_BYTES = 512
RECORD_BYTES = 255
ONE_STATEMENT, TWO_STATEMENTS, MANY_STATEMENTS = 0, 1, 3
CACHE, STATEMENT_MODE, LIMITS, CLOSE_SERVERS, LONG, SHARE_ALL = 4, 8, 16, 32, 64, 128

# Choices as _server.pyx reads them.
SUCCESS, FAILURE, ASYNC = 0, 6, 7
STALE, MISSING, TAKEN, MADE_UP, REFUSED, SYNTAX = (
    FAILURE | error << 3 for error in range(1, 7)
)
PREPARED, DEALLOCATED, ALL_FORGOTTEN, DISCARDED = (tag << 3 for tag in (1, 2, 3, 4))
SOME_ROWS, OTHER_ROWS = (1 << 3, 2 << 3)  # to a Describe
SET, SET_AND_TELL = 6 << 3, 0x70
IN_BLOCK_STILL = SUCCESS | 0x80
BEGUN, ABORTED = 5 << 3 | 0x80, SUCCESS | 0xC0

ROWS = message("T", b"\0\0") + message("D", b"\0\0") + message("C", b"SELECT 1\0")
READY, IN_BLOCK, FAILED = (message("Z", status) for status in (b"I", b"T", b"E"))
ERROR = message("E", b"SERROR\0VERROR\0C22012\0Mno\0\0")
FATAL = message("E", b"SFATAL\0VFATAL\0C57P01\0Mend\0\0")
NOTICE = message("N", b"SNOTICE\0VNOTICE\0C00000\0Mhi\0\0")
NOTIFICATION = message("A", struct.pack("!I", 7) + b"channel\0\0")
PARAMETER = message("S", b"application_name\0abc\0")
COPY_IN = message("G", b"\0\0\0")
STEPS = message("1") + message("2") + message("n") + message("C", b"SET\0")

Talk = list[tuple[int, int, bytes]]  # operation, who, bytes


def records(talk: Talk) -> bytes:
    """A conversation in the form that the target relay reads."""
    out = b""
    for operation, who, raw in talk:
        head = bytes((who * OPERATIONS + operation,))
        pieces = [
            raw[at : at + RECORD_BYTES]
            for at in range(0, max(1, len(raw)), RECORD_BYTES)
        ]
        out += b"".join(head + bytes((len(piece),)) + piece for piece in pieces)
    return out


def talks() -> Iterator[Talk]:
    """Conversations with the answers of servers. The idle server is the last one."""
    yield from talks_of_leavers()
    yield from leaving_talks()
    one = (SERVER, 1, ROWS + READY)
    yield [(CLIENT, 0, query("select 1")), one, (CLIENT, 0, TERMINATE)]
    yield [
        (CLIENT, 0, query("begin")),
        (SERVER, 1, message("C", b"BEGIN\0") + IN_BLOCK),
    ]
    yield [(CLIENT, 0, extended("select 1") + SYNC), (SERVER, 1, STEPS + READY)]
    yield [
        (CLIENT, 0, (extended("select 1") + SYNC) * 2),
        (SERVER, 1, message("1") + ERROR + READY + STEPS + READY),
    ]
    yield [(CLIENT, 0, extended("x") + FLUSH), (SERVER, 1, ERROR), (CLIENT, 0, SYNC),
           (SERVER, 1, READY)]  # fmt: skip
    for end in (COPY_DONE, copy_fail()):
        yield [(CLIENT, 0, query(COPY)), (SERVER, 1, COPY_IN),
               (CLIENT, 0, data("1\n") + SYNC + end),
               (SERVER, 1, message("C", b"COPY 1\0") + READY)]  # fmt: skip
        yield [(CLIENT, 0, extended(COPY) + SYNC), (SERVER, 1, STEPS[:10] + COPY_IN),
               (CLIENT, 0, data("1\n")), (SERVER, 1, ERROR),
               (CLIENT, 0, data("2\n") + end + SYNC), (SERVER, 1, READY)]  # fmt: skip
    # A client with parameters: the server is aligned first, or refuses.
    aligned = message("C", b"SET\0") + PARAMETER + READY
    yield [(CLIENT, 1, query("select 1")), (SERVER, 1, aligned), one]
    yield [(CLIENT, 1, query("select 1")), (SERVER, 1, ERROR + READY)]
    yield [(CLIENT, 1, query("a")), (SERVER, 1, aligned), (CLIENT, 2, query("b")),
           (SERVER, 0, aligned + ROWS + READY), one]  # fmt: skip
    # A server is asked what it makes of a value: it answers, refuses, or is lost.
    asked = (INQUIRE, 0, b"")
    for answer in (ROWS + READY, ERROR + READY, NOTICE + ROWS[:9], FATAL):
        yield [asked, (SERVER, 1, answer), asked, (CLIENT, 0, query("x")),
               (SERVER, 0, ROWS + READY), (LOSE_SERVER, 1, b""), asked]  # fmt: skip
    # More clients than servers: somebody waits, gives up, is cancelled.
    three = [(CLIENT, who, query("select 1")) for who in (0, 0, 1, 2)]
    yield [*three, (SERVER, 1, ROWS + READY + ROWS + READY), (SERVER, 0, aligned), one]
    yield [*three, (CANCEL, 2, b""), (CLIENT, 2, SYNC), one]
    yield [*three, (LOSE_CLIENT, 2, b""), (LOSE_SERVER, 1, b""), (LOSE_SERVER, 0, b"")]
    # Losses in the middle of things.
    begun = (SERVER, 1, message("C", b"BEGIN\0") + IN_BLOCK)
    yield [(CLIENT, 0, query("begin")), begun]
    yield [
        (CLIENT, 0, extended("x")),
        (LOSE_CLIENT, 0, b""),
        (SERVER, 1, STEPS + READY),
    ]
    yield [(CLIENT, 0, query(COPY)), (SERVER, 1, COPY_IN), (LOSE_CLIENT, 0, b""),
           (SERVER, 1, ERROR + READY)]  # fmt: skip
    yield [(CLIENT, 0, query("x")), (SERVER, 1, ROWS[:9]), (LOSE_SERVER, 1, b"")]
    # What nobody asked for.
    yield [(SERVER, 1, NOTICE[:7]), (CLIENT, 0, query("x")),
           (SERVER, 1, NOTICE[7:] + ROWS + READY)]  # fmt: skip
    yield [(SERVER, 1, PARAMETER + NOTIFICATION), (CLIENT, 1, SYNC), (SERVER, 1, READY)]
    yield [(SERVER, 0, FATAL), (CLIENT, 0, query("x")), (SERVER, 1, FATAL)]
    yield [(CLIENT, 0, query("x")), (SERVER, 1, NOTICE + FAILED + NOTICE)]


def talks_of_leavers() -> Iterator[Talk]:
    """Clients that do not read, that are gone, or that leave in the middle."""
    one = (SERVER, 1, ROWS + READY)
    asked = (CLIENT, 0, query("select 1"))
    half = (SERVER, 1, ROWS + READY[:3])
    yield [asked, (SLOW, 0, b""), one, (SLOW, 0, b""), (CLIENT, 1, query("x"))]
    yield [asked, (BREAK, 0, b""), half, (SERVER, 1, READY[3:]), (CLIENT, 1, SYNC)]
    for left in (extended("insert") + FLUSH, extended(COPY) + SYNC, query("begin")):
        yield [(CLIENT, 0, left), (SERVER, 1, STEPS), (CLIENT, 0, TERMINATE), one]
        yield [(CLIENT, 0, left), (LOSE_CLIENT, 0, b""), one, (TIME, 0, b"\xff" * 9)]
    waiting = [(CLIENT, i, query("select 1")) for i in range(3)]
    yield [*waiting, (VANISH, 2, TERMINATE), one, one, (TIME, 0, b"\xff" * 9)]
    yield [*waiting, (VANISH, 2, b""), (CANCEL, 1, b""), (TIME, 0, b"\xff" * 9), one]


def named(name: str, sql: str = "select 1") -> bytes:
    """A batch that prepares a statement and runs it, without its Sync."""
    return parse(sql, name) + run(name)


def run(name: str) -> bytes:
    """A batch that runs a statement, without its Sync."""
    return bind(statement=name) + describe() + execute()


def close(name: str, kind: str = "S") -> bytes:
    """Close of a statement (S) or a portal (P)."""
    return message("C", kind.encode() + text(name))


def answer(*choices: int, server: int = 1) -> tuple[int, int, bytes]:
    """What a server says, choice by choice; without any: success, whatever it is."""
    return ANSWER, server, bytes(choices or (SUCCESS,) * 12)


def on(*batches: bytes, client: int = 0) -> Talk:
    """Batches of a client, each answered before the next."""
    talk: Talk = []
    for batch in batches:
        talk += [(CLIENT, client, batch), answer()]
    return talk


def filled(code: str, start: bytes, end: bytes = b"", blocks: int = 40) -> Talk:
    """One long message of a client, the middle of which is blanks."""
    raw = message(code, start + b" " * FILL_BYTES * blocks + end)
    return [(CLIENT, 0, raw[: 5 + len(start)]), (FILL, 0, b" " * blocks),
            (CLIENT, 0, end)]  # fmt: skip


def named_talks() -> Iterator[Talk]:
    """Statements that have names."""
    yield on(named("a") + SYNC, run("a") + SYNC, close("a") + SYNC, run("a") + SYNC)
    yield on(parse("select 1", "a") + describe("a", "S") + SYNC, run("a") + SYNC)
    yield on(named("a") + SYNC, named("a") + SYNC, run("a") + SYNC)
    yield [*on(named("a") + SYNC), (CLIENT, 0, named("a") + SYNC), answer(TAKEN, 0),
           *on(run("a") + SYNC)]  # fmt: skip
    yield [(CLIENT, 0, run("unknown") + SYNC), answer(MISSING, 0), *on(run("p_1"))]
    yield on(*(named(name, f"select '{name}'") + SYNC for name in "abc"),
             *(run(name) + SYNC for name in "abc"))  # fmt: skip
    yield [*on(named("a") + SYNC), *on(named("a") + SYNC, client=1),
           *on(run("a") + FLUSH, SYNC),
           *on(close("a") + FLUSH + SYNC, client=1)]  # fmt: skip
    # The server is lost, so the next one is given what it lacks.
    yield [*on(named("a") + SYNC), (LOSE_SERVER, 1, b""), (CLIENT, 0, run("a") + SYNC),
           answer(server=0)]  # fmt: skip
    yield [(CLIENT, 0, named("a")), (LOSE_SERVER, 1, b""), *on(run("a") + SYNC)]
    yield [(CLIENT, 0, named("a") + close("a")), (LOSE_CLIENT, 0, b""), answer()]
    yield [(CLIENT, 0, close("a") + parse("x", "a") + close("a") + SYNC), answer()]
    # Many names, and many requests that are not answered yet.
    yield [(CLIENT, 0, b"".join(parse(f"{i}", f"n{i}") for i in range(70))),
           answer(*(SUCCESS,) * 70), *on(SYNC, run("n3") + SYNC)]  # fmt: skip
    # A Parse that is answered without a server, and those that are not.
    yield [*on(named("a") + SYNC, client=1),
           *on(parse("select 1", "q") + SYNC + close("q") + SYNC, run("q") + SYNC,
               parse("deallocate a", "q") + SYNC, parse("x", "q") + SYNC)]  # fmt: skip
    # A name that is taken by a statement that this server lacks.
    yield [*on(named("a") + SYNC), (LOSE_SERVER, 1, b""),
           (CLIENT, 0, query("x") + parse("y", "a") + SYNC), answer(server=0),
           answer(server=0)]  # fmt: skip
    # Names that have no end, and messages that end in the wrong place.
    for code in "PBDCQ":
        yield [
            (CLIENT, 0, message(code, b"S" + b"name" * 3) + SYNC),
            answer(FAILURE, 0),
        ]
        yield [
            (CLIENT, 0, message(code, b"Sa\0bcdefghijkl") + SYNC),
            answer(FAILURE, 0),
        ]
        yield [(CLIENT, 0, message(code, b"Sa\0" + b"b\0" * 9) + SYNC), answer()]
    yield on(named("x" * 63) + SYNC, run("x" * 70) + SYNC, named("x" * 70) + SYNC)


def long_talks() -> Iterator[Talk]:
    """Long messages about statements, and such as come in pieces."""
    # A batch that is too long to be kept.
    yield [*on(named("a") + SYNC),
           *filled("B", b"\0a\0\0\0\0\1\0\0\x50\0", b"\0\0"),
           (CLIENT, 0, SYNC), answer(STALE), answer()]  # fmt: skip
    # A long Parse is kept, a short one is held, and one that is cut in its name.
    for start in (b"a\0select", b"\0select", b"\0deallocate"):
        long_parse = filled("P", start, b"a\0\0\0")
        yield [*long_parse, (CLIENT, 0, run("a") + SYNC), answer()]
        yield [*on(named("a") + SYNC), *long_parse,
               (CLIENT, 0, run("") + SYNC), answer()]  # fmt: skip
        yield [*long_parse[:2], (LOSE_CLIENT, 0, b"")]
        yield [*long_parse[:2], (LOSE_SERVER, 1, b"")]
        yield [(CLIENT, 0, parse("x", "b")), *long_parse[:2], answer(FAILURE),
               (CLIENT, 0, b"a\0\0\0" + SYNC), answer()]  # fmt: skip
        yield [(CLIENT, 0, parse("x", "b") + SYNC), *long_parse, *long_parse,
               (CLIENT, 0, SYNC), answer(), answer()]  # fmt: skip
    yield filled("P", b"a", b"\0\0\0\0", blocks=70)
    yield [*filled("Q", b"prepare a as x", b"\0"), answer(PREPARED), *on(run("a"))]
    long = parse("select 1 -- " + "x" * 90, "a")
    for cut in (3, 5, 6, 7, 20, len(long) - 1):
        yield [(CLIENT, 0, long[:cut]), (CLIENT, 0, long[cut:] + run("a") + SYNC),
               answer()]  # fmt: skip


def executed_talks() -> Iterator[Talk]:
    """EXECUTE by the extended protocol, whose name means something else later."""
    made = on(parse("one", "a") + SYNC, parse("execute a", "e") + SYNC)
    again = on(close("a") + parse("two", "a") + SYNC)
    for asked in (
        bind(statement="e") + execute(),
        bind(statement="e", portal="p") + describe("p") + execute("p"),
        parse("execute a") + bind() + describe() + execute() + close("p", "P"),
        describe("e", "S") + parse("deallocate all") + bind() + execute(),
    ):
        for between in ([], again, on(close("a") + SYNC)):
            yield [*made, *between, *on(asked + SYNC, run("e") + SYNC)]
            yield [*made, *between, (CLIENT, 0, asked + SYNC), answer(FAILURE),
                   *on(asked + SYNC)]  # fmt: skip
        yield [*made, (LOSE_SERVER, 1, b""), *on(asked + SYNC)]
        yield [*made, (CLIENT, 0, asked), (LOSE_CLIENT, 0, b""), answer()]
        yield [*made, *on(asked + SYNC, query("execute e"), query("fetch 1 from p"))]


def described_talks() -> Iterator[Talk]:
    """Clients that remember the rows of a statement."""
    known = [(CLIENT, 0, parse("x", "a") + describe("a", "S") + SYNC),
             answer(SUCCESS, SOME_ROWS, SUCCESS)]  # fmt: skip
    silent = bind(statement="a") + execute()
    yield [*known, *on(silent + SYNC, silent + SYNC)]
    elsewhere = [*known, (LOSE_SERVER, 1, b"")]
    for rows in (SOME_ROWS, OTHER_ROWS, FAILURE, 7 << 3 | 0x40):
        said = [answer(SUCCESS, rows, server=0), answer(server=0)]
        for batch in (silent + SYNC, silent + silent + SYNC, run("a") + SYNC):
            yield [*elsewhere, (CLIENT, 0, batch + close("a") + SYNC), *said]
        yield [*elsewhere, (CLIENT, 0, silent), (LOSE_CLIENT, 0, b""), *said]
    yield [*elsewhere, (CLIENT, 0, silent), (LOSE_SERVER, 0, b"")]
    for sql in ("deallocate a", "deallocate a; deallocate b", "deallocate all"):
        for request in (query(sql), extended(sql)):
            yield [(CLIENT, 0, named("a") + describe("a", "S") + SYNC + request + SYNC),
                   answer(), answer(), *on(silent + SYNC)]  # fmt: skip
    yield [(CLIENT, 0, parse("x", "a") + bind(statement="a") + close("a") + describe()),
           answer(), *on(SYNC)]  # fmt: skip
    yield [*known, (CLIENT, 0, query("alter table")), answer(7 << 3),
           *on(parse("x", "b") + SYNC, silent + SYNC)]  # fmt: skip


def unnamed_talks() -> Iterator[Talk]:
    """The unnamed statement, of which a server has one for all clients."""
    again = extended("select 1") + SYNC
    yield on(again, again, again)
    yield [*on(again), *on(again, again, client=1)]
    yield on(parse("select 1") + SYNC, run("") + SYNC)
    yield [*on(parse("select 1") + SYNC), *on(parse("x") + SYNC, client=1),
           *on(run("") + SYNC)]  # fmt: skip
    yield on(parse("select 1") + SYNC, close("") + SYNC, run("") + SYNC)
    yield on(parse("select 1") + SYNC, query("x"), run("") + SYNC)
    yield on(parse("select 'now'") + SYNC, again, parse("select 'now'") + SYNC)
    yield [(CLIENT, 0, parse("x") + parse("y") + SYNC), answer(SUCCESS, FAILURE, 0),
           *on(run("") + SYNC)]  # fmt: skip
    yield [*on(again), (CLIENT, 0, parse("select 1")[:9]),
           (CLIENT, 0, parse("select 1")[9:] + run("") + SYNC), answer()]  # fmt: skip


def failing_talks() -> Iterator[Talk]:
    """Errors: a batch in a pipeline, and statements that a server has not got."""
    three = (named("a") + SYNC) + (named("b", "x") + close("a") + SYNC) + (
        run("a") + SYNC
    )  # fmt: skip
    for fails in range(10):
        yield [(CLIENT, 0, three), answer(*(SUCCESS,) * fails, FAILURE),
               answer(), *on(run("a") + SYNC, run("b") + SYNC)]  # fmt: skip
    yield [(CLIENT, 0, query("begin")), answer(BEGUN),
           (CLIENT, 0, SYNC * 34 + named("a") + SYNC), answer(*(IN_BLOCK_STILL,) * 40),
           *on(run("a") + SYNC)]  # fmt: skip
    yield [(CLIENT, 0, three), answer(FAILURE), (LOSE_SERVER, 1, b"")]
    yield [(CLIENT, 0, three), answer(FAILURE), (LOSE_CLIENT, 0, b""), answer()]
    yield [(CLIENT, 0, named("a")), answer(FAILURE), (CLIENT, 0, run("a") + SYNC),
           answer()]  # fmt: skip
    yield [(CLIENT, 0, parse("x", "a") + query("x") + SYNC), answer(FAILURE), answer()]
    for stale in (STALE, MISSING, TAKEN, MADE_UP, REFUSED, SYNTAX):
        for batch in (run("a") + SYNC, describe("a", "S") + SYNC, query("execute a")):
            yield [*on(named("a") + SYNC), (CLIENT, 0, batch), answer(stale), answer(),
                   *on(batch)]  # fmt: skip
        yield [*on(named("a") + SYNC), (CLIENT, 0, run("a")), answer(stale),
               (CLIENT, 0, SYNC), answer()]  # fmt: skip
        yield [*on(named("a") + SYNC), (CLIENT, 0, query("begin")),
               answer(BEGUN), (CLIENT, 0, run("a") + SYNC), answer(stale, ABORTED),
               *on(named("b") + SYNC, query("rollback"))]  # fmt: skip


def sql_talks() -> Iterator[Talk]:
    """PREPARE, EXECUTE and DEALLOCATE, as Query and as Parse."""
    made = [(CLIENT, 0, query("prepare a as x")), answer(PREPARED)]
    yield [*made, *on(query("execute a"), run("a") + SYNC)]
    yield [*made, (CLIENT, 0, query("deallocate a")), answer(DEALLOCATED),
           *on(query("execute a"))]  # fmt: skip
    yield [*made, (CLIENT, 0, query("prepare a as y")), answer(TAKEN), *on(run("a"))]
    yield [(CLIENT, 0, query("prepare a as x")), answer(FAILURE), *on(run("a") + SYNC)]
    for word, choice in (("deallocate all", ALL_FORGOTTEN), ("discard all", DISCARDED)):
        yield [*made, (CLIENT, 0, query(word)), answer(choice), *on(run("a") + SYNC)]
        yield [*made, (CLIENT, 0, query(word) + run("a") + SYNC), answer(choice),
               answer()]  # fmt: skip
        yield [*made, (CLIENT, 0, extended(word) + SYNC),
               answer(SUCCESS, SUCCESS, SUCCESS, choice, SUCCESS),
               *on(run("a"))]  # fmt: skip
    for sql in (
        "prepare b as y",
        "execute a",
        "deallocate a",
        "explain analyze execute a",
        "prepare a as y",
        'deallocate prepare "a"',
    ):
        yield [*made, (CLIENT, 0, extended(sql) + SYNC), answer(), *on(run("b") + SYNC)]
        yield [*made, *on(named("b", sql) + SYNC, run("b") + SYNC)]
        yield [*made, (LOSE_SERVER, 1, b""), (CLIENT, 0, query(sql)),
               answer(server=0)]  # fmt: skip
    for raw in (query("prepare a as y"), message("Q", b"prepare a as y")):
        yield [(CLIENT, 0, query("prepare a as x")), (CLIENT, 0, raw[:9]),
               (CLIENT, 0, raw[9:]), answer(PREPARED), answer()]  # fmt: skip
    yield on(query("prepare a as x; execute a; deallocate a; execute p_1"))
    yield on(query("; ".join(f"execute {name}" for name in "abcdefghijklmnopqrst")))
    for sql in (
        "begin; prepare b as y; execute b; deallocate a; execute b; prepare a as y",
        "x; deallocate all; prepare a as z; execute a; execute b",
        "create table t as execute a; x; execute a; discard all",
    ):
        yield on(query(sql))
        yield [*on(query(sql)[:20]), (CLIENT, 0, query(sql)[20:]), answer()]
    yield on(query("execute a /* " + "x" * 300 + " */")[:300])
    for sql in ("execute p_9", "deallocate p_9", "prepare p_9 as x"):
        yield [(CLIENT, 0, query(sql)), answer(MADE_UP), *on(query('execute "p_""9"'))]
        yield [(CLIENT, 0, extended(sql) + SYNC), answer(MADE_UP), *on(SYNC)]
    yield [(CLIENT, 0, run("p_9") + SYNC), answer(MADE_UP), answer()]
    yield [*on(named("b", "execute a") + SYNC), *made,
           *on(named("b", "execute a") + SYNC,
               named("c", "execute b") + SYNC)]  # fmt: skip
    yield [*made, (CLIENT, 0, query("prepare b as execute a")), answer(SYNTAX)]
    yield [(CLIENT, 0, query(f"prepare {name} as x")) for name in "abcd"]
    copy = query("prepare a as x; copy t from stdin")
    yield [(CLIENT, 0, copy), (SERVER, 1, COPY_IN), *on(run("a") + SYNC)]
    yield [(CLIENT, 0, copy + run("a") + SYNC), (SERVER, 1, COPY_IN), answer()]
    yield [(CLIENT, 0, named("a") + SYNC + run("a") + SYNC), (SERVER, 1, COPY_IN),
           (CLIENT, 0, COPY_DONE), answer()]  # fmt: skip
    # A name that is none of ours is for one client alone, until it is forgotten.
    yield [(CLIENT, 0, query("x")), answer(PREPARED), answer()]


def long_query_talks() -> Iterator[Talk]:
    """Queries that are too long to be kept, with the option LONG."""
    blanks = " " * 60
    made = [(CLIENT, 0, query(f"prepare a as x{blanks}")), answer(PREPARED)]
    execute_a = [(CLIENT, 0, query(f"execute a{blanks}")), answer()]
    yield [*made, *execute_a, *on(run("a") + SYNC, query("deallocate a"))]
    yield [*made, (LOSE_SERVER, 1, b""), *execute_a[:1], answer(server=0)]
    yield [*made, (CLIENT, 0, query(f"deallocate a{blanks}")), answer(DEALLOCATED),
           *execute_a]  # fmt: skip
    yield [*made[:1], answer(FAILURE), *execute_a, *on(run("a") + SYNC)]
    yield [*made, (CLIENT, 0, query(f"prepare a as y{blanks}")), answer(TAKEN),
           *execute_a]  # fmt: skip
    for more in ("; execute a", "; prepare b as y", ";;", "; deallocate a"):
        long = query(f"prepare a as x{blanks}{more}")
        yield [(CLIENT, 0, long), answer(PREPARED), *execute_a]
        yield [(CLIENT, 0, long[:60]), (LOSE_CLIENT, 0, b"")]
        yield [(CLIENT, 0, long[:60]), (LOSE_SERVER, 1, b"")]
        yield [(CLIENT, 0, long[:60]), (SERVER, 1, ERROR + READY),
               (CLIENT, 0, long[60:]), answer(), *execute_a]  # fmt: skip
        yield [(CLIENT, 0, long[:60]), (SERVER, 1, ROWS + READY),
               (CLIENT, 0, long[60:]), answer(), *execute_a]  # fmt: skip
        yield [(CLIENT, 0, parse("x", "b") + long[:60]), answer(FAILURE),
               (CLIENT, 0, long[60:] + SYNC), answer(), *execute_a]  # fmt: skip
        yield [(CLIENT, 0, parse("x", "a") + close("a") + long[:60]), answer(FAILURE),
               (CLIENT, 0, long[60:] + SYNC), answer(), *execute_a]  # fmt: skip
    for word, choice in (("deallocate all", ALL_FORGOTTEN), ("discard all", DISCARDED)):
        yield [*made, (CLIENT, 0, query(word + blanks) + run("a") + SYNC),
               answer(choice), answer()]  # fmt: skip
    yield [(CLIENT, 0, query(f"execute p_9{blanks}")), answer(MADE_UP)]
    yield filled("Q", b"prepare a as x", b"\0")
    yield [*on(named("a") + SYNC), *filled("Q", b"execute a", b"\0"), answer()]
    yield filled("Q", b"prepare a as x", b"x")


LEAVES = {  # what leaves something in a session, takes it back, or may do so
    "set x = 1": SET,
    "select set_config('x', '1', false)": SUCCESS,
    "listen a": SUCCESS,
    "load 'a'": SUCCESS,
    "do $$ $$": SUCCESS,
    "discard all": DISCARDED,
    "reset all": SET_AND_TELL,
    "reset DateStyle": SET_AND_TELL,
    "set DateStyle = 'x'": SET_AND_TELL,
    "prepare a as x; set search_path = b; execute a": SET,
}


def leaving_talks() -> Iterator[Talk]:
    """Clients that leave something in their servers, and what becomes of it."""
    for sql, said in LEAVES.items():
        left = [(CLIENT, 0, query(sql)), answer(said), answer(said)]
        bound = on(named("a", sql) + SYNC)
        others = [(CLIENT, who, query("x")) for who in (1, 2)]
        served = [answer(server=0), answer(), answer(DISCARDED), answer()]
        yield [*left, *on(named("a") + SYNC, query("y"))]
        yield [*bound, *on(run("a") + SYNC, query(sql))]
        yield [*left, (CLIENT, 1, query(sql)), answer(said, server=0), *others,
               *served, *served]  # fmt: skip
        yield [*left, *others, *served, *on(named("b") + SYNC)]
        yield [*left, (LOSE_SERVER, 0, b""), *others, *served, *on(query("x"))]
        for end in (LOSE_CLIENT, LOSE_SERVER, RETIRE, PAUSE):
            yield [*left, (end, int(end != LOSE_CLIENT), b""), *others, *served,
                   (PAUSE, 0, b""), *served]  # fmt: skip
        yield [(CLIENT, 0, query("begin; " + sql)), answer(BEGUN, said), answer(BEGUN),
               (CLIENT, 0, parse("x", "a") + SYNC), answer(FAILURE, ABORTED),
               *on(query("rollback"), run("a") + SYNC)]  # fmt: skip
        yield [(CLIENT, 0, query(sql) + named("a", "select '1'") + SYNC + query(sql)),
               answer(said), answer(), answer(said), *others, *served]  # fmt: skip


def statement_talks() -> Iterator[Talk]:
    """Conversations about prepared statements."""
    yield from named_talks()
    yield from long_talks()
    yield from described_talks()
    yield from executed_talks()
    yield from unnamed_talks()
    yield from failing_talks()
    yield from sql_talks()
    yield from leaving_talks()


def texts() -> Iterator[bytes]:
    """SQL."""
    for sql in (
        "prepare a as select $1",
        'prepare "A b" (int, text) as select 1; execute "A b" (1, \'x;y\')',
        "/* x /* y */ */ -- z\n execute a",
        "explain (analyze, format 'text') execute a",
        "explain analyze verbose execute a",
        "deallocate prepare a; deallocate prepare; deallocate all; discard all",
        "prepare transaction 'x'",
        "execute a(E'\\';', $$;$$, $tag$;$$;$tag$)",
        "execute a; select ';'; execute b",
        'execute U&"a"',
        'execute "a""b"',
        "select 'now', today(), tomorrow",
        "rollback",
    ):
        yield sql.encode()


def logins() -> Iterator[bytes]:
    """First bytes of clients, behind the byte that chooses the policy."""
    first = startup("plain", "shop", application_name="x", options="-c geqo=off")
    password = message("p", text("secret"))
    scram = b"n,,n=,r=abcdefgh"
    sasl = message("p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(scram)) + scram)
    final = message("p", b"c=biws,r=abcdefgh,p=AAAA")
    newer = first[:4] + struct.pack("!I", 0x0003_0002) + first[8:]
    option = startup("plain", "shop", **{"_pq_.x": "1", "replication": "database"})
    for policy in range(2 * len(AuthMethod)):
        for raw in (
            first + password,
            first + sasl + final,
            newer + sasl + password,
            option,
            startup("nobody", "shop") + password,
            SSL_REQUEST,
            GSSENC_REQUEST,
            cancel_request(bytes(8)),
            cancel_request(bytes(36)),
            b"\x16\x03\x01",
        ):
            yield bytes((policy,)) + raw


def proven_logins() -> Iterator[bytes]:
    """Logins of clients by SCRAM that succeed, as our random bytes are zero."""
    first = startup("scram", "shop")
    salt = base64.b64encode(b"salt" * 4)
    for header in (b"n,,", b"y,,"):
        bare = b"n=,r=abcdefgh"
        server_first = b"r=abcdefgh" + OUR_NONCE + b",s=" + salt + b",i=2"
        without_proof = b"c=" + base64.b64encode(header) + b",r=abcdefgh" + OUR_NONCE
        proof, _ = proofs(b"secret", bare, server_first, without_proof)
        size = struct.pack("!I", len(header + bare))
        initial = b"SCRAM-SHA-256\0" + size + header + bare
        final = without_proof + b",p=" + proof
        for method in range(12):
            yield (
                bytes((method,)) + first + message("p", initial) + message("p", final)
            )


def auths() -> Iterator[bytes]:
    """Answers to a question, behind the byte of options (``_auth.pyx``)."""
    password, md5, scram = range(3)
    binding, doomed, right, other = 4, 8, 16, 32
    for more in (0, doomed, other, other | doomed):
        yield bytes((password | more,)) + message("p", text("secret"))
        yield bytes((password | more,)) + message("p", b"\0") + message("p", b"x\0y\0")
        yield bytes((md5 | more,)) + message("p", text("md5" + "0" * 32))
    for header, name in (
        (b"n,,", b"SCRAM-SHA-256"),
        (b"y,,", b"SCRAM-SHA-256"),
        (b"p=tls-server-end-point,,", b"SCRAM-SHA-256-PLUS"),
    ):
        bound = header + b"\2" * 32 if header[:1] == b"p" else header
        first = header + b"n=,r=abcdefgh"
        final = (
            b"c="
            + base64.b64encode(bound)
            + b",r=abcdefgh"
            + base64.b64encode(bytes(18))[:24]
            + b",p="
            + base64.b64encode(bytes(32))
        )
        size = struct.pack("!I", len(first))
        whole = message("p", name + b"\0" + size + first)
        held = message("p", name + b"\0" + b"\xff" * 4) + message("p", first)
        for more in (0, binding, right, right | binding, right | other, right | doomed):
            for begin in (whole, held):
                yield bytes((scram | more,)) + begin + message("p", final)


def server_logins() -> Iterator[bytes]:
    """What servers say, behind the byte that chooses what is known of the user."""
    welcome = (
        message("R", bytes(4))
        + message("S", text("server_version") + text("15.0"))
        + message("K", bytes(8))
        + message("Z", b"I")
    )
    mechanisms = text("SCRAM-SHA-256-PLUS") + text("SCRAM-SHA-256")
    offer = message("R", struct.pack("!I", 10) + mechanisms + b"\0")
    refusal = message("E", text("SFATAL") + text("C28P01") + text("Mno") + b"\0")
    for known in range(7):
        for said in (
            welcome,
            message("R", struct.pack("!I", 3)) + welcome,
            message("R", struct.pack("!I", 5) + b"salt") + welcome,
            message("v", struct.pack("!II", 0x0003_0000, 0)) + refusal,
            message("N", text("Mx") + b"\0") + refusal,
        ):
            yield bytes((known,)) + said
        for header in (b"n,,", b"p=tls-server-end-point,,hash"):
            bare = b"n=,r=" + OUR_NONCE
            salt = base64.b64encode(b"salt" * 4)
            first = b"r=" + OUR_NONCE + b"server,s=" + salt + b",i=2"
            without_proof = (
                b"c=" + base64.b64encode(header) + b",r=" + OUR_NONCE + b"server"
            )
            _, signature = proofs(b"secret", bare, first, without_proof)
            yield (
                bytes((known,))
                + offer
                + message("R", struct.pack("!I", 11) + first)
                + message("R", struct.pack("!I", 12) + b"v=" + signature)
                + welcome
            )


def tls_plays() -> Iterator[bytes]:
    """What is done over TLS, behind the byte of options (``_tls.pyx``)."""
    say, receive, send, hear, write, damage, drop, special, raw = range(9)
    settle, new_keys, close, lose = range(4)
    talk = [write, 100, say, 255, receive, 200, send, 100, hear, 0, special, settle]
    plays: tuple[list[int], ...] = (
        [],
        talk,
        talk * 4,
        [write, 200, damage, 3, special, settle, *talk],
        [write, 200, damage, 200, *talk],
        [write, 20, write, 20, drop, 60, *talk],
        [write, 20, drop, 61, *talk],
        [write, 255, say, 1, receive, 1, say, 0, receive, 2, say, 255, receive, 255],
        [special, new_keys, *talk, special, new_keys, *talk],
        [*talk, special, close, *talk],
        [*talk, special, lose, *talk],
        [send, 255, send, 255, send, 255, hear, 0, send, 240, special, settle],
        [raw, 5, 23, 3, 3, 0, 0, *talk],
        [raw, 7, 21, 3, 3, 0, 2, 1, 0, *talk],
        [raw, 12, *b"\x16\x03\x01\x40\x00GET / ", *talk],
        [say, 1, say, 2, receive, 1, *talk],
    )
    for options in range(16):
        for play in plays:
            yield bytes((options, *play))


def scans() -> Iterator[bytes]:
    """The vectors, behind the byte that chooses the rules."""
    for kind in ("valid", "invalid"):
        for vector in load_vectors(kind):
            yield bytes((RULES[vector.sender],)) + vector.raw
    for script in all_scripts():
        yield bytes((RULES["client"],)) + b"".join(raw for raw, _ in script.steps)


def statements() -> Iterator[bytes]:
    """All conversations, behind the byte of options."""
    for talk in statement_talks():
        for options in (ONE_STATEMENT | CACHE, TWO_STATEMENTS, MANY_STATEMENTS | CACHE):
            yield bytes((options,)) + records(talk)
    for talk in (*sql_talks(), *leaving_talks(), *long_query_talks()):
        for options in (ONE_STATEMENT | LONG, TWO_STATEMENTS | LONG | LIMITS):
            yield bytes((options,)) + records(talk)
    for talk in (*talks(), *statement_talks()):
        for options in (LIMITS | CACHE, TWO_STATEMENTS | STATEMENT_MODE, SHARE_ALL):
            yield bytes((options,)) + records(talk)


def relays() -> Iterator[bytes]:
    """The conversations, and the vectors as a client's or a server's bytes."""
    yield from map(records, talks())
    for scan in scans():
        if scan[0] == RULES["client"]:
            yield records([(CLIENT, 0, scan[1:]), (SERVER, 1, ROWS + READY)])
        else:
            yield records([(CLIENT, 0, query("x")), (SERVER, 1, scan[1:])])


def write(folder: Path) -> int:
    """Write all inputs that are small enough; returns how many there are."""
    count = 0
    for name, inputs in (
        ("scan", scans()),
        ("relay", relays()),
        ("statements", statements()),
        ("sql", texts()),
        ("tls", tls_plays()),
        ("auth", auths()),
        ("login", logins()),
        ("login", proven_logins()),
        ("server_login", server_logins()),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for raw in inputs:
            if len(raw) <= MOST_BYTES:
                digest = hashlib.sha256(raw).hexdigest()[:24]
                (folder / name / digest).write_bytes(raw)
                count += 1
    return count


if __name__ == "__main__":
    print(write(Path(sys.argv[1])), "first inputs")
