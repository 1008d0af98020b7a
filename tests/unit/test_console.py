# SPDX-License-Identifier: MIT
"""The console without a socket: words, access, both protocols, any bytes."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.adapt import Transformer
from psycopg.pq import Format

from pooler.config import loading
from pooler.config.loading import Config
from pooler.console.answers import Answer, ConsoleError, Type, columns, data_row
from pooler.console.commands import SHOWS, CommandTable
from pooler.console.controls import CONTROLS
from pooler.console.grammar import Command, parse
from pooler.console.session import EndOfSession, Session
from pooler.login import packets

# Words


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("show version", Command("SHOW", "version")),
        ("  SHOW\n\tVersion ; ", Command("SHOW", "Version")),
        ("select version", Command("SHOW", "version")),
        ('pause "My ""db"""', Command("PAUSE", 'My "db"')),
        ("RELOAD;", Command("RELOAD")),
        ("set a = 5", Command("SET", "a", "5")),
        (
            "SET Auth_Type='scram-sha-256';",
            Command("SET", "auth_type", "scram-sha-256"),
        ),
        ("set a to 'it''s; so'", Command("SET", "a", "it's; so")),
        ("set a=''", Command("SET", "a", "")),
        ("set a=/tmp/x", Command("SET", "a", "/tmp/x")),
        ("", Command("")),
        (" ;\n", Command("")),
    ],
)
def test_words(text: str, command: Command) -> None:
    assert parse(text) == command


@pytest.mark.parametrize(
    "text",
    [
        "show 'version",
        'show "version',
        "show version; show version",
        "show a b",
        "set a",
        "set a = 'x",
        "set a = b c",
        "reload \0",
        "\u0660",
        "x" * 1_000_000,
        "'" * 100_000,
        '"' * 100_001,
    ],
)
def test_what_is_no_command(text: str) -> None:
    with pytest.raises(ConsoleError) as caught:
        TABLE.columns(parse(text))
    assert caught.value.message.startswith("invalid command '")
    assert len(caught.value.message) < 200


@given(st.text())
def test_any_text_is_a_command_or_an_error(text: str) -> None:
    with contextlib.suppress(ConsoleError):
        TABLE.columns(parse(text))


# Sessions


class FakeConsole:
    """What commands work on, and what they have asked for."""

    def __init__(self) -> None:
        self.config: Config = loading.load_text(
            "[databases]\na = host=h\n[peers]\n3 = host=p port=5\n[pgbouncer]\n"
            "auth_type = any\n",
            "pooler.ini",
        )
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.problem = ""
        self.answers: list[Any] = []

    async def ask_master(self, kind: str, **payload: str) -> str:
        self.asked.append((kind, payload))
        return self.problem

    async def ask_workers(self, kind: str, **payload: str) -> list[Any]:
        self.asked.append((kind, payload))
        return self.answers


TABLE = CommandTable(FakeConsole())


class Talk:
    """A session that is fed, and what it has answered."""

    def __init__(self, *, admin: bool = True) -> None:
        self.console = FakeConsole()
        table = CommandTable(self.console)
        self.session = Session(table, admin=admin, backend_pid=7)

    def feed(self, *messages: bytes) -> list[tuple[bytes, bytes]]:
        data = b"".join(messages)
        used, answer = asyncio.run(self.session.receive(data))
        assert used == len(data)
        return split(answer)

    def query(self, text: str) -> list[tuple[bytes, bytes]]:
        return self.feed(query(text))


def split(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 0
    while message := packets.read_message(data, at, 1 << 24):
        found.append((message.kind, message.body))
        at = message.end
    assert at == len(data)
    return found


def kinds(answer: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(kind for kind, _ in answer)


def values(answer: list[tuple[bytes, bytes]]) -> list[list[Any]]:
    """The rows of an answer, as texts."""
    rows = []
    for kind, body in answer:
        if kind == b"D":
            reader = packets.Reader(body[2:], "DataRow")
            rows.append([_value(reader) for _ in range(body[1])])
    return rows


def _value(reader: packets.Reader) -> str | None:
    size = reader.int32()
    return None if size < 0 else reader.raw(size).decode()


def query(text: str) -> bytes:
    return packets.message(b"Q", packets.cstring(text))


def parse_message(name: str, text: str) -> bytes:
    body = packets.cstring(name) + packets.cstring(text) + b"\0\0"
    return packets.message(b"P", body)


def bind(portal: str, name: str, formats: Sequence[int] = ()) -> bytes:
    body = packets.cstring(portal) + packets.cstring(name) + b"\0\0\0\0"
    packed = struct.pack(f"!{len(formats) + 1}h", len(formats), *formats)
    return packets.message(b"B", body + packed)


def describe(kind: bytes, name: str) -> bytes:
    return packets.message(b"D", kind + packets.cstring(name))


def execute(portal: str) -> bytes:
    return packets.message(b"E", packets.cstring(portal) + b"\0\0\0\0")


SYNC = packets.message(b"S")


def test_greeting() -> None:
    found = split(Talk().session.greeting())
    assert kinds(found) == b"RSSSSSSSKZ"
    told = dict(packets.read_parameter_status(body) for kind, body in found[1:8])
    assert told["server_version"].endswith("/bouncer")


def test_simple_query() -> None:
    answer = Talk().query("show state")
    assert kinds(answer) == b"TDDDCZ"
    assert answer[-2][1] == b"SHOW\0"
    assert kinds(Talk().query("")) == b"IZ"
    assert kinds(Talk().query("show help")) == b"NCZ"


def test_an_error_leaves_the_session() -> None:
    talk = Talk()
    assert kinds(talk.query("nonsense")) == b"EZ"
    assert kinds(talk.query("show version")) == b"TDCZ"


def test_extended_protocol() -> None:
    answer = Talk().feed(
        parse_message("s", "show peers"),
        describe(b"S", "s"),
        bind("", "s", [1]),
        describe(b"P", ""),
        execute(""),
        SYNC,
    )
    assert kinds(answer) == b"1tT2TDCZ"
    assert answer[5][1] == b"".join(
        (
            struct.pack("!h", 4),
            struct.pack("!ii", 4, 3),
            struct.pack("!i", 1) + b"p",
            struct.pack("!ii", 4, 5),
            b"\xff\xff\xff\xff",
        )
    )


@pytest.mark.parametrize(
    "wrong",
    [
        parse_message("", "nonsense"),
        bind("", "unknown"),
        describe(b"S", "unknown"),
        describe(b"P", "unknown"),
        execute("unknown"),
    ],
)
def test_behind_an_error_all_is_skipped_up_to_sync(wrong: bytes) -> None:
    talk = Talk()
    skipped = (parse_message("a", "show version"), bind("", "a"), query("show state"))
    assert kinds(talk.feed(wrong, *skipped, SYNC)) == b"EZ"
    assert kinds(talk.feed(bind("", "a"), SYNC)) == b"EZ"  # it was skipped, too
    assert kinds(talk.query("show version")) == b"TDCZ"


def test_wrong_formats_and_parameters() -> None:
    talk = Talk()
    talk.feed(parse_message("s", "show state"))
    for formats in ([1, 1, 1], [2]):
        assert kinds(talk.feed(bind("", "s", formats), SYNC)) == b"EZ"
    body = packets.cstring("") + packets.cstring("s") + struct.pack("!hhi", 0, 1, -1)
    assert kinds(talk.feed(packets.message(b"B", body), SYNC)) == b"EZ"


def test_a_transaction_around_a_command() -> None:
    talk = Talk()
    assert talk.query("begin")[-1] == (b"Z", b"T")
    assert talk.query("show version")[-1] == (b"Z", b"T")
    assert talk.query("commit")[-1] == (b"Z", b"I")


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0\0",
        b"Q\0\0\0\3",
        b"Q\x7f\xff\xff\xff",
        b"?\0\0\0\4",
        packets.message(b"Q", b"no end"),
        packets.message(b"B", b"\0\0\x7f\xff"),
        packets.message(b"D", b""),
        packets.message(b"C", b"S"),
    ],
)
def test_malformed_messages_end_the_session(data: bytes) -> None:
    session = Talk().session
    with pytest.raises(EndOfSession) as caught:
        asyncio.run(session.receive(query("show version") + data))
    assert kinds(split(caught.value.farewell)) == b"TDCZE"


@given(st.binary())
def test_any_bytes(data: bytes) -> None:
    try:
        used, _ = asyncio.run(Talk().session.receive(data))
        assert 0 <= used <= len(data)
    except EndOfSession:
        pass


def test_terminate() -> None:
    with pytest.raises(EndOfSession) as caught:
        asyncio.run(Talk().session.receive(packets.message(b"X")))
    assert caught.value.farewell == b""


# Access


@pytest.mark.parametrize("verb", sorted(CONTROLS))
@pytest.mark.parametrize("argument", ["", "x"])
def test_a_reader_changes_nothing(verb: str, argument: str) -> None:
    talk = Talk(admin=False)
    text = f"set {argument or 'x'} = 1" if verb == "SET" else f"{verb} {argument}"
    assert kinds(talk.query(text)) == b"EZ"
    assert talk.console.asked == []


@pytest.mark.parametrize("name", sorted(SHOWS))
def test_a_reader_sees(name: str) -> None:
    assert (kinds(Talk(admin=False).query(f"show {name}"))[-2:] == b"CZ") is not (
        SHOWS[name].admin
    )


def test_what_drivers_set_is_ignored() -> None:
    for admin in (True, False):
        talk = Talk(admin=admin)
        assert kinds(talk.query("set client_encoding = 'x'")) == b"NCZ"
        assert talk.console.asked == []


# Commands


def test_set() -> None:
    talk = Talk()
    assert talk.query("set default_pool_size=7")[0] == (
        b"C",
        b"SET default_pool_size=7\0",
    )
    assert talk.console.asked == [("set", {"name": "default_pool_size", "value": "7"})]
    talk.console.problem = "no"
    kind, body = talk.query("set default_pool_size=7")[0]
    assert (kind, packets.read_report(body)["M"]) == (b"E", "SET failed: no")


def test_reload() -> None:
    talk = Talk()
    assert talk.query("reload")[0] == (b"C", b"RELOAD\0")
    talk.console.problem = "no"
    kind, body = talk.query("reload")[0]
    assert kind == b"E"
    assert packets.read_report(body)["C"] == "F0000"


def test_config_shows_no_secret(tmp_path: Path) -> None:
    talk = Talk()
    talk.console.config = loading.load_text(
        "[databases]\n[pgbouncer]\nauth_type = any\nauth_ldap_options = 'secret'\n",
        "pooler.ini",
    )
    answer = talk.query("show config")
    shown = b"".join(body for _, body in answer)
    assert b"secret'" not in shown
    assert b"511" in shown


POOL = {
    "database": "a",
    "user": "u",
    "clients": 5,
    "waiting": 2,
    "waiting_since_us": 1,
    "active": 3,
    "idle": 1,
    "tested": 0,
    "connecting": 1,
    "servers": 4,
}


def test_pools_are_summed_over_workers() -> None:
    talk = Talk()
    second = {**POOL, "waiting_since_us": 0, "waiting": 0}
    talk.console.answers = [[POOL], [second, {**second, "user": "b"}]]
    rows = values(talk.query("show pools"))
    assert [row[:4] for row in rows] == [["a", "b", "5", "0"], ["a", "u", "8", "2"]]
    assert rows[1][6:13] == ["6", "0", "0", "2", "0", "0", "2"]
    assert int(rows[1][13]) > 0  # the longest wait of both
    assert rows[0][13:] == ["0", "0", "session", None]


def test_databases_and_users() -> None:
    talk = Talk()
    talk.console.answers = [[POOL], [POOL]]
    first, last = values(talk.query("show databases"))
    assert first[:5] == ["a", "h", "5432", "a", None]
    assert (first[12], first[14]) == ("10", "10")
    assert last[0] == "pgbouncer"
    assert values(talk.query("show users")) == [
        ["u", "", "", None, "0", "10", "0", "10"]
    ]


def test_reconnect() -> None:
    talk = Talk()
    talk.console.answers = [True, False]
    assert talk.query("reconnect")[0] == (b"C", b"RECONNECT\0")
    assert talk.query("reconnect a")[0] == (b"C", b"RECONNECT\0")
    assert [payload["database"] for _, payload in talk.console.asked] == ["", "a"]
    talk.console.answers = [False]
    assert kinds(talk.query("reconnect b")) == b"EZ"
    assert kinds(talk.query("reconnect pgbouncer")) == b"EZ"


# Values


@given(
    st.sampled_from([(Type.INT4, 23), (Type.INT8, 20), (Type.NUMERIC, 1700)]),
    st.integers(-(2**31), 2**31 - 1),
)
def test_numbers_as_drivers_read_them(kind: tuple[Type, int], value: int) -> None:
    described = columns("a " + {Type.INT4: "i", Type.INT8: "q"}.get(kind[0], "n"))
    for format_ in (Format.TEXT, Format.BINARY):
        body = data_row(described, (value,), (int(format_),))[5:]
        loader = Transformer().get_loader(kind[1], format_)
        assert loader.load(body[6:]) in (value, Decimal(value))


def test_answers_without_values() -> None:
    row = data_row(columns("a, b i"), (None, 1))
    assert row[5:] == b"\0\2\xff\xff\xff\xff\0\0\0\x011"
    assert Answer("SHOW").rows == ()
