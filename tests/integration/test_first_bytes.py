# SPDX-License-Identifier: MIT
"""What a connection begins with that is no login: answered as PostgreSQL answers it.

The same bytes go to PostgreSQL and to the pooler. Compared is whether anything comes
back at all, the SQLSTATE if it is an error, and that the connection is closed.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator, Mapping

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import (
    DATABASE,
    HOST,
    USER,
    MakePooler,
    Pooler,
)
from tests.wire_client import (
    PROTOCOL_3_0,
    SSL_REQUEST,
    SYNC,
    TERMINATE,
    cancel_request,
    message,
    messages_in,
    query,
    startup,
    text,
)

pytestmark = pytest.mark.timeout(120)

TIMEOUT_S = 10.0
SILENCE_S = 0.3
PASSWORD = "secret"
# The user that logs in by it, and how both sides call the method.
METHODS = {
    "by_password": ("password", "plain"),
    "by_md5": ("md5", "md5"),
    "by_scram": ("scram-sha-256", "scram-sha-256"),
}
HBA = "\n".join(
    [
        "local all all trust",
        *(f"host all {user} {HOST}/32 {kind}" for user, (kind, _) in METHODS.items()),
        f"host all all {HOST}/32 trust",
    ]
)

# What is sent; None ends our half of the connection.
Steps = tuple[bytes | None, ...]
END = None


def length_only(length: int) -> bytes:
    """A length, whatever may follow it."""
    return struct.pack("!I", length & 0xFFFF_FFFF)


def packet(body: bytes, code: int = PROTOCOL_3_0) -> bytes:
    """A packet without a type byte."""
    return struct.pack("!II", 8 + len(body), code) + body


def password_length(length: int) -> bytes:
    """The header of a password, whatever may follow it."""
    return b"p" + length_only(length)


HELLO = startup(USER, DATABASE)
NAMES = text("user") + text(USER) + text("database") + text(DATABASE)
FIRST: Mapping[str, Steps] = {
    "nothing": (END,),
    "one byte of a length": (b"\0", END),
    "three bytes of a length": (b"\0\0\0", END),
    "a length alone": (length_only(8), END),
    "half a packet": (HELLO[:20], END),
    "Terminate": (TERMINATE,),
    "Terminate, and gone": (TERMINATE, END),
    "half of a Terminate": (TERMINATE[:2], END),
    **{
        f"length {length}": (length_only(length),)
        for length in (0, 3, 4, 7, 10_005, 0x7FFF_FFFF, -1, -(1 << 31))
    },
    "length 8": (packet(b""),),
    "longest packet": (packet(bytes(10_004 - 8)),),
    "longer packet": (packet(bytes(10_005 - 8)),),
    "HTTP": (b"GET / HTTP/1.0\r\n\r\n",),
    "TLS": (b"\x16\x03\x01\x02\x00" + bytes(512),),
    "PasswordMessage": (message("p", text(PASSWORD)),),
    "Query": (query("SELECT 1"),),
    "Sync": (SYNC,),
    "ReadyForQuery": (message("Z", b"I"),),
    "AuthenticationOk": (message("R", bytes(4)),),
    "version 0": (packet(NAMES + b"\0", 0),),
    "version 2": (packet(bytes(288), 0x0002_0000),),
    "version 4": (packet(NAMES + b"\0", 0x0004_0000),),
    "no terminator": (packet(NAMES),),
    "name without a value": (packet(NAMES + b"DateStyle\0"),),
    "bytes behind the terminator": (packet(NAMES + b"\0x"),),
    "nothing in it": (packet(b"\0"),),
    "no user": (packet(text("database") + text(DATABASE) + b"\0"),),
    "empty user": (packet(text("user") + text("") + b"\0"),),
    "long user": (startup("u" * 128, DATABASE),),
    "long database": (startup(USER, "d" * 64),),
    "replication of no kind": (startup(USER, DATABASE, replication="x"),),
    "unknown parameter": (startup(USER, DATABASE, nonsense="1"),),
    "cancel request without a key": (cancel_request(b""),),
    "short cancel key": (cancel_request(bytes(7)),),
    "long cancel key": (cancel_request(bytes(261)),),
    "cancel request": (cancel_request(bytes(8)),),
    "bytes behind a cancel request": (cancel_request(bytes(8)) + b"xx",),
    "SSLRequest with a body": (packet(b"abcd", 80877103), END),
    "bytes behind SSLRequest": (SSL_REQUEST + HELLO,),
    "SSLRequest twice": (SSL_REQUEST, SSL_REQUEST),
    "login, then Terminate": (HELLO + TERMINATE,),
}
AFTER_SSL_REQUEST = {
    f"SSLRequest, then {name}": (SSL_REQUEST, *steps) for name, steps in FIRST.items()
}

SCRAM = message("p", b"SCRAM-SHA-256\0" + struct.pack("!i", 17) + b"n,,n=,r=abcdefghi")
# Instead of an answer to the first challenge.
CHALLENGED: Mapping[str, Steps] = {
    "nothing": (END,),
    "Terminate": (TERMINATE,),
    "Terminate, and gone": (TERMINATE, END),
    "half of a Terminate": (TERMINATE[:2], END),
    "Query": (query("SELECT 1"),),
    "AuthenticationOk": (message("R", bytes(4)),),
    "startup packet": (HELLO,),
    "SSLRequest": (SSL_REQUEST,),
    "HTTP": (b"GET / HTTP/1.0\r\n\r\n",),
    **{
        f"length {length}": (password_length(length),)
        for length in (0, 3, 65_536, 0x7FFF_FFFF, -1, -(1 << 31))
    },
    **{
        f"{size} bytes without a terminator": (message("p", b"x" * size),)
        for size in (1_020, 1_021, 65_531)
    },
    "half a header": (b"p\0\0", END),
    "half a password": (message("p", text(PASSWORD))[:8], END),
    "nothing in it": (message("p"),),
    "empty password": (message("p", text("")),),
    "two passwords": (message("p", text(PASSWORD) * 2),),
    "wrong password": (message("p", text("wrong")),),
    "other SASL mechanism": (message("p", text("OTHER") + struct.pack("!i", 0)),),
}
# By SCRAM only: instead of the answer to the second one.
CONTINUED: Mapping[str, Steps] = {
    "first": (SCRAM, END),
    **{
        f"first, then {name}": (SCRAM, *CHALLENGED[name])
        for name in ("Terminate", "Query", "length 3", "length -1", "nothing in it")
    },
    "no data, then Terminate": (
        message("p", text("SCRAM-SHA-256") + struct.pack("!i", -1)),
        TERMINATE,
    ),
    "1021 bytes without a proof": (SCRAM, message("p", b"x" * 1_021)),
}
AUTHENTICATION = {
    **{
        f"{user}: {name}": (startup(user, DATABASE), *steps)
        for user in METHODS
        for name, steps in CHALLENGED.items()
    },
    **{
        f"{user}: Terminate at once": (startup(user, DATABASE) + TERMINATE,)
        for user in METHODS
    },
    **{
        f"by_scram: {name}": (startup("by_scram", DATABASE), *steps)
        for name, steps in CONTINUED.items()
    },
}

VERSION_2 = "error of version 2"
# Where the pooler answers otherwise: what PostgreSQL answers, what the pooler, why.
DIFFERENCES = {
    # No client of version 2 is left that would understand it.
    "version 2": (VERSION_2, "0A000"),
    # What no server can be asked for is refused before there is a server.
    "unknown parameter": ("42704", "08P01"),
    # Bytes of an attacker weigh more than the order of two requests.
    "SSLRequest, then bytes behind SSLRequest": ("0A000", "08P01"),
    # Who has closed his half has gone: nobody is told that it was too early.
    "by_scram: half a header": ("28P01", ""),
    "by_scram: half a password": ("28P01", ""),
}
DIFFERENCES |= {
    f"SSLRequest, then {name}": DIFFERENCES[name]
    for name in ("version 2", "unknown parameter")
}


def answer(port: int, steps: Steps) -> str:
    """What comes back: the SQLSTATE of an error, ``ready`` for a greeting, or nothing.

    Returns when the other side has closed, which it must.
    """
    raw = b""
    with socket.create_connection((HOST, port), timeout=TIMEOUT_S) as client:
        for number, step in enumerate(steps):
            if step is None:
                client.shutdown(socket.SHUT_WR)
                continue
            client.sendall(step)
            if steps[number + 1 : number + 2] not in ((), (END,)):
                raw += client.recv(65_536)
        # PostgreSQL may close with input unread.
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(65_536):
                raw += part
    if raw[1:2] != b"\0":
        # The answer to SSLRequest, and no NoticeResponse, which has a length.
        raw = raw.removeprefix(b"N")
    if raw.startswith(b"EFATAL"):
        return VERSION_2
    said = []
    for one in messages_in(raw):
        if one.code == "E":
            assert one.fields["S"] == "FATAL"
            said.append(one.fields["C"])
        elif one.code == "Z":
            said.append("ready")
    return " ".join(said)


@pytest.fixture(scope="module")
def asking() -> Iterator[Postgres]:
    """A server that asks each user in another way, and most not at all."""
    with Postgres(hba=HBA) as server:
        server.psql(f"CREATE ROLE {USER} LOGIN")
        server.psql(f"CREATE DATABASE {DATABASE} OWNER {USER}")
        for user, (kind, _) in METHODS.items():
            kept = "md5" if kind == "md5" else "scram-sha-256"
            server.psql(
                f"SET password_encryption = '{kept}';"
                f" CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'"
            )
        yield server


def pooler_before(make_pooler: MakePooler, server: Postgres, user: str) -> Pooler:
    """A pooler that asks this user as the server does."""
    databases = {"*": f"host={HOST} port={server.port}"}
    if user not in METHODS:
        return make_pooler(databases)
    return make_pooler(
        databases, f'"{user}" "{PASSWORD}"\n', auth_type=METHODS[user][1]
    )


def assert_same(cases: Mapping[str, Steps], server: Postgres, pooler: Pooler) -> None:
    wrong = {}
    for name, steps in cases.items():
        said = (answer(server.port, steps), answer(pooler.port, steps))
        if said != DIFFERENCES.get(name, (said[0], said[0])):
            wrong[name] = said
    assert wrong == {}


def test_instead_of_a_startup_packet(asking: Postgres, make_pooler: MakePooler) -> None:
    pooler = pooler_before(make_pooler, asking, USER)
    assert_same(FIRST, asking, pooler)
    assert_same(AFTER_SSL_REQUEST, asking, pooler)


@pytest.mark.parametrize("user", METHODS)
def test_instead_of_a_password(
    asking: Postgres, make_pooler: MakePooler, user: str
) -> None:
    pooler = pooler_before(make_pooler, asking, user)
    cases = {
        name: steps
        for name, steps in AUTHENTICATION.items()
        if name.startswith(f"{user}: ")
    }
    assert_same(cases, asking, pooler)


def test_what_is_incomplete_is_waited_for(
    asking: Postgres, make_pooler: MakePooler
) -> None:
    pooler = pooler_before(make_pooler, asking, USER)
    for said in (b"\0", length_only(8), length_only(10_004), HELLO[:-1], b"X\0\0"):
        for port in (asking.port, pooler.port):
            with socket.create_connection((HOST, port)) as client:
                client.sendall(said)
                client.settimeout(SILENCE_S)
                with pytest.raises(TimeoutError):
                    client.recv(1)


def test_who_is_sent_away_without_a_word_is_logged(make_pooler: MakePooler) -> None:
    """The operator reads who it was and why; a probe is not worth a line."""
    pooler = make_pooler()
    before = pooler.log()
    assert answer(pooler.port, (END,)) == ""
    assert answer(pooler.port, (SSL_REQUEST, END)) == ""
    with socket.create_connection((HOST, pooler.port)) as client:
        port = client.getsockname()[1]
        client.sendall(TERMINATE)
        assert client.recv(1) == b""
    pooler.wait_log(
        f"(nodb)/(nouser)@{HOST}:{port} pooler error: bad packet header:"
        " length 1476395008 of startup packet is outside 8..10004"
    )
    # The error, and the end of the connection.
    assert len(pooler.log().removeprefix(before).splitlines()) == 2
    assert answer(pooler.port, (cancel_request(bytes(7)),)) == ""
    pooler.wait_log("bad cancel request")
