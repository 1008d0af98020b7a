# SPDX-License-Identifier: MIT
"""What is measured: each work is shown to be right before it is repeated.

``test_*.py`` take the time of the works, ``instructions.py`` counts their
instructions.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.micro import _loops
from pooler.login import packets
from pooler.login.client import ClientLogin, LoggedIn
from pooler.login.md5 import md5_secret
from pooler.login.packets import message, parameter_status, ready_for_query
from pooler.login.policy import AuthMethod, ClientPolicy
from pooler.login.scram import Verifier
from pooler.login.server import ServerLogin
from pooler.wire.messages import BY_CODE, Action, Sender

Repeat = Callable[[int], None]
Script = list[tuple[int, bytes]]

SMALL_READ_BYTES = 8192  # what libpq and PostgreSQL send at once
COPY_READ_BYTES = 65536
ROW_BYTES = 100
ROWS_PER_READ = 100

FIRST, SECOND, SERVER = 0, 1, -1  # who sends a read


@dataclass(frozen=True, slots=True)
class Work:
    """Something to repeat."""

    name: str
    per: str  # what one item is
    items: int  # of one repetition
    repetitions: int  # of one measurement, which takes about a millisecond
    prepare: Callable[[], Repeat]  # shows that the work is right


def check(truth: bool, what: str) -> None:
    """Refuse to measure wrong work."""
    if not truth:
        raise AssertionError(what)


# ------------------------------------------------------------------ messages


def query(sql: bytes) -> bytes:
    """Return a Query."""
    return message(b"Q", sql + b"\0")


def parse(name: bytes, sql: bytes) -> bytes:
    """Return a Parse with one parameter of type int4."""
    return message(b"P", name + b"\0" + sql + b"\0" + struct.pack("!HI", 1, 23))


def bind(name: bytes) -> bytes:
    """Return a Bind of the unnamed portal: one text parameter, text results."""
    names = b"\0" + name + b"\0"
    return message(b"B", names + struct.pack("!HHI5sH", 0, 1, 5, b"12345", 0))


def row(size: int) -> bytes:
    """Return a DataRow of one column, of this size in all."""
    value = size - 11
    return message(b"D", struct.pack("!HI", 1, value) + b"x" * value)


def copy_data(size: int) -> bytes:
    """Return a CopyData of this size in all."""
    return message(b"d", b"x" * (size - 5))


DESCRIBE = message(b"D", b"P\0")
EXECUTE = message(b"E", b"\0" + struct.pack("!I", 0))
SYNC = message(b"S")
PARSED = message(b"1")
BOUND = message(b"2")
COLUMN = b"abalance\0" + struct.pack("!IHIhih", 16385, 3, 23, 4, -1, 0)
ROWS_FOLLOW = message(b"T", struct.pack("!H", 1) + COLUMN)
SELECTED = message(b"C", b"SELECT 1\0")
READY = ready_for_query()

SELECT = b"SELECT abalance FROM pgbench_accounts WHERE aid = $1"
SIMPLE = query(SELECT.replace(b"$1", b"12345"))
SIMPLE_ANSWER = ROWS_FOLLOW + row(16) + SELECTED + READY
USE = DESCRIBE + EXECUTE + SYNC  # of what was bound
USE_ANSWER = BOUND + SIMPLE_ANSWER
ONE_OF_MANY = DESCRIBE + EXECUTE
ANSWER_OF_MANY = PARSED + BOUND + ROWS_FOLLOW + row(16) + SELECTED
COPY_BEGIN = query(b"COPY pgbench_accounts FROM STDIN")
COPY_IN = message(b"G", struct.pack("!BHHH", 0, 2, 0, 0))


# ---------------------------------------------------------------------- scan


def walk(data: bytes, sender: Sender) -> tuple[int, list[tuple[str, int, int]]]:
    """Return how many messages there are, and what the scanner shall find."""
    at = count = 0
    found = []
    while at < len(data):
        code, length = chr(data[at]), int.from_bytes(data[at + 1 : at + 5])
        if BY_CODE[sender, code].action is not Action.PASS:
            found.append((code, at, length))
        at += length + 1
        count += 1
    found.append(("", at, 0))
    return count, found


def scanned(name: str, sender: Sender, data: bytes, repetitions: int) -> Work:
    """Scan one read."""
    from_client = sender is Sender.CLIENT
    count, expected = walk(data, sender)

    def prepare() -> Repeat:
        check(_loops.messages(data, from_client) == expected, f"{name}: messages")

        def repeat(n: int) -> None:
            flagged = _loops.scan(data, from_client, n)
            check(flagged == n * (len(expected) - 1), f"{name}: count of messages")

        return repeat

    return Work(name, "message", count, repetitions, prepare)


def filled(unit: bytes, size: int) -> bytes:
    """Return as many whole units as fit into a read."""
    return unit * (size // len(unit))


SCAN = (
    scanned(
        "scan_small_client",
        Sender.CLIENT,
        filled(bind(b"s1") + USE, SMALL_READ_BYTES),
        500,
    ),
    scanned(
        "scan_small_server", Sender.SERVER, filled(USE_ANSWER, SMALL_READ_BYTES), 500
    ),
    scanned(
        "scan_data_row_100",
        Sender.SERVER,
        filled(row(ROW_BYTES), COPY_READ_BYTES),
        500,
    ),
    scanned("scan_copy_64k", Sender.CLIENT, copy_data(COPY_READ_BYTES), 100_000),
)


# ---------------------------------------------------------------------- step

VALUES = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "TimeZone": "Europe/Berlin",
    "standard_conforming_strings": "on",
    "application_name": "pgbench",
    "IntervalStyle": "postgres",
}


def new_core(second_application: str = "pgbench") -> _loops.Core:
    """Return a core whose clients differ in application_name, or in nothing."""
    second = {**VALUES, "application_name": second_application}
    return _loops.Core([(name, (VALUES[name], second[name])) for name in VALUES])


def step(
    name: str,
    script: Script,
    expected: list[tuple[bytes, bytes]],
    *,
    core: Callable[[], _loops.Core] = new_core,
    before: Script | None = None,
    free: bool = True,
    per: str = "transaction",
    items: int = 1,
    repetitions: int = 5_000,
) -> Work:
    """Play a script.

    ``expected``: what leaves for the client and for the server at each read.
    ``before`` is played once. ``free``: the server is idle at the end of the script.
    """

    def prepare() -> Repeat:
        played = core()
        played.play(before or [])
        # The first time may differ from all that follow in what it allocates.
        for _ in range(2):
            check(played.play(script) == expected, f"{name}: bytes")
            check(played.counts() == ((1, 0, 0) if free else (0, 1, 0)), f"{name}: end")
        client_bytes = sum(len(client) for client, _ in expected)
        server_bytes = sum(len(server) for _, server in expected)

        def repeat(n: int) -> None:
            left = played.run(script, n)
            check(left == (n * client_bytes, n * server_bytes), f"{name}: sizes")

        return repeat

    return Work(name, per, items, repetitions, prepare)


def one_request(
    name: str, request: bytes, answer: bytes, repetitions: int = 5_000
) -> Work:
    """Relay a request and its answer as they are."""
    return step(
        name,
        [(FIRST, request), (SERVER, answer)],
        [(b"", request), (answer, b"")],
        repetitions=repetitions,
    )


def prepared(name: str) -> Work:
    """Bind a statement that client and server know, each under its own name."""

    def prepare() -> Repeat:
        before: Script = [
            (FIRST, parse(b"s1", SELECT) + SYNC),
            (SERVER, PARSED + READY),
        ]
        # The name on servers is the core's own affair: read from what it sends.
        (_, sent), _ = new_core().play(before)
        server_name = sent[5 : sent.index(b"\0", 5)]
        check(server_name not in {b"", b"s1"}, f"{name}: name on servers")
        check(sent == parse(server_name, SELECT) + SYNC, f"{name}: Parse")
        script: Script = [(FIRST, bind(b"s1") + USE), (SERVER, USE_ANSWER)]
        expected = [(b"", bind(server_name) + USE), (USE_ANSWER, b"")]
        return step(name, script, expected, before=before).prepare()

    return Work(name, "transaction", 1, 5_000, prepare)


def aligned(name: str) -> Work:
    """Serve two clients in turn whose application_name differs."""
    script: Script = []
    expected = []
    for who, application in ((SECOND, "other"), (FIRST, "pgbench")):
        set_query = query(b"SET application_name=E'%b';" % application.encode())
        told = parameter_status("application_name", application)
        set_answer = message(b"C", b"SET\0") + told + READY
        script += [(who, SIMPLE), (SERVER, set_answer + SIMPLE_ANSWER)]
        expected += [(b"", set_query + SIMPLE), (SIMPLE_ANSWER, b"")]
    return step(name, script, expected, core=lambda: new_core("other"), items=2)


def one_way(
    name: str, before: Script, who: int, read: bytes, repetitions: int = 5_000
) -> Work:
    """Relay one read of somebody who has more to say."""
    return step(
        name,
        [(who, read)],
        [(b"", read) if who == FIRST else (read, b"")],
        before=before,
        free=False,
        per="read",
        repetitions=repetitions,
    )


def steps() -> tuple[Work, ...]:
    """Return the works of the relay."""
    rows_begin: Script = [(FIRST, SIMPLE), (SERVER, ROWS_FOLLOW)]
    copy_begin: Script = [(FIRST, COPY_BEGIN), (SERVER, COPY_IN)]
    return (
        one_request("step_simple", SIMPLE, SIMPLE_ANSWER),
        one_request(
            "step_unnamed",
            parse(b"", SELECT) + bind(b"") + USE,
            PARSED + USE_ANSWER,
        ),
        prepared("step_prepared"),
        one_request(
            "step_pipeline8",
            (parse(b"", SELECT) + bind(b"") + ONE_OF_MANY) * 8 + SYNC,
            ANSWER_OF_MANY * 8 + READY,
            2_000,
        ),
        aligned("step_align"),
        one_way("step_rows_100", rows_begin, SERVER, row(ROW_BYTES) * ROWS_PER_READ),
        one_way("step_copy_64k", copy_begin, FIRST, copy_data(COPY_READ_BYTES)),
        one_way(
            "step_copy_rows_100", copy_begin, FIRST, copy_data(ROW_BYTES) * 100, 2_000
        ),
    )


STEP = steps()


# ---------------------------------------------------------------------- pool


def pooled(name: str, per: str, method: str) -> Work:
    """Repeat a method of the core that leaves its server idle."""

    def prepare() -> Repeat:
        core = new_core()
        check(core.counts() == (1, 0, 0), f"{name}: beginning")
        repeat: Repeat = getattr(core, method)
        repeat(1)
        check(core.counts() == (1, 0, 0), f"{name}: end")
        return repeat

    return Work(name, per, 1, 50_000, prepare)


POOL = (
    pooled("pool_attach_detach", "pair", "attach_detach"),
    pooled("pool_hand_over", "hand-over", "hand_over"),
)


# --------------------------------------------------------------------- login

USER, PASSWORD, DATABASE = "alice", "secret", "shop"
SECRETS = {
    AuthMethod.TRUST: "",
    AuthMethod.MD5: md5_secret(PASSWORD, USER),
    AuthMethod.SCRAM: Verifier.from_password(PASSWORD, salt=b"salt" * 4).to_text(),
}


def same_bytes(n: int) -> bytes:
    """Return what stands for randomness: the same messages fit every time."""
    return b"r" * n


def login(name: str, method: AuthMethod, repetitions: int) -> Work:
    """Let one client log in; what it says was recorded before."""
    policy = ClientPolicy(
        method=method,
        secrets={USER: SECRETS[method]}.get,
        database_exists={DATABASE}.__contains__,
        forced_user=dict[str, str]().get,
        ignore_startup_parameters=frozenset({"extra_float_digits"}),
        mock_key=b"mock",
    )

    def receive(said: list[bytes]) -> tuple[list[bytes], LoggedIn]:
        client = ClientLogin(policy, secure_random=same_bytes)
        replies = [client.receive(data) for data in said]
        outcome = replies[-1].outcome
        if not isinstance(outcome, LoggedIn):
            raise AssertionError(f"{name}: not logged in")
        return [reply.send for reply in replies], outcome

    def record() -> tuple[list[bytes], list[bytes]]:
        """Run our client half against our server half once."""
        client = ClientLogin(policy, secure_random=same_bytes)
        peer = ServerLogin(USER, DATABASE, PASSWORD, VALUES)
        said, answers = [], []
        going = peer.start()
        while going:
            reply = client.receive(going)
            check(reply.consumed == len(going), f"{name}: all is consumed")
            said.append(going)
            answers.append(reply.send)
            consumed, going = peer.receive(reply.send) if reply.send else (0, b"")
            check(consumed == len(reply.send), f"{name}: all is answered")
        # The client believes in it, which for SCRAM proves that we know the verifier.
        peer.receive(
            packets.authentication_ok() + packets.backend_key_data(7, b"keys") + READY
        )
        check(peer.greeting is not None, f"{name}: the client is content")
        return said, answers

    def prepare() -> Repeat:
        said, answers = record()
        sent, outcome = receive(said)
        check(sent == answers, f"{name}: answers")
        check((outcome.user, outcome.database) == (USER, DATABASE), f"{name}: who")
        check(outcome.parameters == VALUES, f"{name}: parameters")
        check((outcome.scram_keys is None) == (method is not AuthMethod.SCRAM), name)

        def repeat(n: int) -> None:
            for _ in range(n):
                receive(said)

        return repeat

    return Work(name, "login", 1, repetitions, prepare)


LOGIN = (
    login("login_trust", AuthMethod.TRUST, 100),
    login("login_md5", AuthMethod.MD5, 50),
    login("login_scram", AuthMethod.SCRAM, 20),
)

WORKS = (*SCAN, *STEP, *POOL, *LOGIN)
BY_NAME = {work.name: work for work in WORKS}
