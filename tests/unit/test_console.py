# SPDX-License-Identifier: MIT
"""The console without a socket: words, access, both protocols, any bytes."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.adapt import Transformer
from psycopg.pq import Format

from pooler.board.page import Kind, Page
from pooler.config import loading
from pooler.config.model import Config
from pooler.console.answers import Answer, ConsoleError, Type, columns, data_row
from pooler.console.commands import SHOWS, CommandTable
from pooler.console.controls import CONTROLS
from pooler.console.grammar import Command, parse
from pooler.console.session import EndOfSession, Session
from pooler.console.shows import PARAMETERS
from pooler.console.stats import COUNTERS, STATISTICS, Stats, log_line, snapshot
from pooler.ipc.board import Board
from pooler.ipc.socket_row import SocketRow
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
        ('set "a" = "b c"', Command("SET", "a", "b c")),
        ('set "a"\n to"b""c";', Command("SET", "a", 'b"c')),
        ('set a = b"c', Command("SET", "a", 'b"c')),
        (
            'show clients (id, "STATE", addr);',
            Command("SHOW", "clients", "", ("id", "STATE", "addr")),
        ),
        ("show clients(id)", Command("SHOW", "clients", "", ("id",))),
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
        "reload (a)",
        "show clients ()",
        "show clients (a",
        "show clients (a,)",
        "show clients (" + "a," * 100_000,
        "show clients (" + "a, " * 100_000 + "')",
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
        self.answers: dict[str, list[Any]] = {}  # of the workers, by what is asked
        self.stats = Stats(time.monotonic())
        self.board = Board.for_slots(2)
        self.page = Page(2, 16)
        self.waits: asyncio.Future[None] | None = None  # what workers wait for

    async def ask_master(self, kind: str, **payload: str) -> str:
        self.asked.append((kind, payload))
        return self.problem

    async def ask_workers(self, kind: str, **payload: str) -> list[Any]:
        self.asked.append((kind, payload))
        return self.answers.get(kind, [])

    async def list_workers(self, kind: str) -> list[list[Any]]:
        return self.answers.get(kind, [])

    async def wait_for_workers(self, kind: str, **payload: str) -> list[Any]:
        self.asked.append((kind, payload))
        if self.waits is not None:
            await self.waits
        return self.answers.get(kind, [])


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
            struct.pack("!ii", 4, 20),  # default_pool_size
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


def test_a_mode_is_told_in_decimal_and_its_default_as_it_is_written() -> None:
    found = values(Talk().query("show config"))
    assert ["unix_socket_mode", "511", "0777", "no"] in found


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
    **dict.fromkeys(COUNTERS, 0),
    "pid": 1,
    "cl_active_cancel_req": 1,
    "cl_waiting_cancel_req": 2,
    "sv_active_cancel": 3,
    "sv_being_canceled": 4,
}


def test_pools_are_summed_over_workers() -> None:
    talk = Talk()
    second = {**POOL, "waiting_since_us": 0, "waiting": 0}
    talk.console.answers["pools"] = [[POOL], [second, {**second, "user": "b"}]]
    talk.console.answers["counts"] = [{"consoles": 2}, {"consoles": 1}]
    *rows, own = values(talk.query("show pools"))
    assert [row[:4] for row in rows] == [["a", "b", "5", "0"], ["a", "u", "8", "2"]]
    assert rows[1][4:13] == ["2", "4", "6", "6", "8", "2", "0", "0", "2"]
    assert own[:4] == ["pgbouncer", "pgbouncer", "3", "0"]
    assert int(rows[1][13]) > 0  # the longest wait of both
    assert rows[0][13:] == ["0", "0", "session", None]


def test_databases_and_users() -> None:
    talk = Talk()
    talk.console.config = loading.load_text(
        "[databases]\na = host=h max_db_connections=0\n"
        "[users]\nv = max_user_connections=3 max_user_client_connections=0\n"
        "[pgbouncer]\nauth_type = any\nserver_lifetime = 60\nmax_db_connections = 9\n"
        "max_db_client_connections = 8\nmax_user_connections = 7\n"
        "max_user_client_connections = 6\n",
        "pooler.ini",
    )
    page = talk.console.page
    for row, database, user in ((0, "a", "u"), (1, "a", "v"), (1, "pgbouncer", "v")):
        of = (
            page.open(row, Kind.EVERYBODY),
            page.open(row, Kind.DATABASE, database),
            page.open(row, Kind.USER, user),
        )
        page.take_client(row, *of, limit=0, database_limit=0, user_limit=0)
    talk.console.answers["pools"] = [[POOL], [POOL]]
    first, last = values(talk.query("show databases"))
    assert first[:5] == ["a", "h", "5432", "a", None]
    assert first[8:] == ["60", None, None, "9", "10", "8", "2", "0", "0"]
    assert last[:1] + last[5:9] == ["pgbouncer", "2", "0", "0", "60"]
    assert last[9:] == ["statement", None, "9", "0", "8", "1", "0", "0"]
    assert values(talk.query("show users")) == [
        ["pgbouncer", "", "", None, "7", "0", "6", "0"],
        ["u", "", "", None, "7", "10", "6", "1"],
        ["v", "", "", None, "3", "0", "6", "2"],
    ]


def test_reconnect() -> None:
    talk = Talk()
    talk.console.answers["reconnect"] = [True, False]
    assert talk.query("reconnect")[0] == (b"C", b"RECONNECT\0")
    assert talk.query("reconnect a")[0] == (b"C", b"RECONNECT\0")
    assert [payload["database"] for _, payload in talk.console.asked] == ["", "a"]
    talk.console.answers["reconnect"] = [False]
    assert kinds(talk.query("reconnect b")) == b"EZ"
    assert kinds(talk.query("reconnect pgbouncer")) == b"EZ"


# What PgBouncer's users read, by the letters of ``columns``.
LONG_SOCKET = """type user database replication state addr port.i local_addr
local_port.i connect_time request_time wait.i wait_us.i close_needed.i ptr link
remote_pid.i tls application_name prepared_statements.i id.i"""
BUFFERS = """recv_pos.i pkt_pos.i pkt_remain.i send_pos.i send_remain.i pkt_avail.i
send_avail.i"""
CONTRACT = {
    "VERSION": "version",
    "STATE": "key value",
    "CONFIG": "key value default changeable",
    "DATABASES": """name host port.i database force_user pool_size.i min_pool_size.i
        reserve_pool_size.i server_lifetime.i pool_mode load_balance_hosts
        max_connections.i current_connections.i max_client_connections.i
        current_client_connections.i paused.i disabled.i""",
    "USERS": """name pool_size reserve_pool_size pool_mode max_user_connections.i
        current_connections.i max_user_client_connections.i
        current_client_connections.i""",
    "POOLS": """database user cl_active.i cl_waiting.i cl_active_cancel_req.i
        cl_waiting_cancel_req.i sv_active.i sv_active_cancel.i sv_being_canceled.i
        sv_idle.i sv_used.i sv_tested.i sv_login.i maxwait.i maxwait_us.i pool_mode
        load_balance_hosts""",
    "PEERS": "peer_id.i host port.i pool_size.i",
    "PEER_POOLS": """peer_id.i cl_active_cancel_req.i cl_waiting_cancel_req.i
        sv_active_cancel.i sv_login.i""",
    "LISTS": "list items.i",
    "CLIENTS": LONG_SOCKET,
    "SERVERS": LONG_SOCKET,
    "SOCKETS": f"{LONG_SOCKET} {BUFFERS}",
    "ACTIVE_SOCKETS": f"{LONG_SOCKET} {BUFFERS}",
    "FDS": """fd.i task user database addr port.i cancel.q link.i client_encoding
        std_strings datestyle timezone password scram_client_key.b
        scram_server_key.b""",
    "STATS": """database total_server_assignment_count.n total_xact_count.n
        total_query_count.n total_received.n total_sent.n total_xact_time.n
        total_query_time.n total_wait_time.n total_client_parse_count.n
        total_server_parse_count.n total_bind_count.n total_client_login_count.n
        avg_server_assignment_count.n avg_xact_count.n avg_query_count.n avg_recv.n
        avg_sent.n avg_xact_time.n avg_query_time.n avg_wait_time.n
        avg_client_parse_count.n avg_server_parse_count.n avg_bind_count.n
        avg_client_login_count.n""",
    "STATS_TOTALS": """database server_assignment_count.n xact_count.n query_count.n
        bytes_received.n bytes_sent.n xact_time.n query_time.n wait_time.n
        client_parse_count.n server_parse_count.n bind_count.n client_login_count.n""",
    "STATS_AVERAGES": """database server_assignment_count.n xact_count.n query_count.n
        bytes_received.n bytes_sent.n xact_time.n query_time.n wait_time.n
        avg_client_parse_count.n avg_server_parse_count.n avg_bind_count.n
        avg_client_login_count.n""",
    "TOTALS": "name value.n",
    "MEM": "name size.i used.i free.i memtotal.i",
    "DNS_HOSTS": "hostname ttl.q addrs",
    "DNS_ZONES": "zonename serial.q count.i",
    "HELP": "",
    # Ours.
    "WORKERS": """worker.i pid.i age.i heartbeat_ms.i clients.i login_clients.i
        servers.i statements.i statement_bytes.q""",
    "LATENCY": "database kind count.q p50.q p90.q p95.q p99.q p999.q max.q",
    "PREPARED_STATEMENTS": "database query clients.i servers.i uses.q bytes.q",
    "HANDOVERS": "database user given.i received.i refused.i returned.i closed.i",
}


def test_every_show_of_pgbouncer_has_its_columns() -> None:
    assert CONTRACT.keys() == SHOWS.keys() - {name.upper() for name in PARAMETERS}
    letters = {Type.TEXT: "", Type.INT4: ".i", Type.INT8: ".q"}
    letters |= {Type.NUMERIC: ".n", Type.BYTEA: ".b"}
    for name, wanted in CONTRACT.items():
        found = [one.name + letters[one.type] for one in SHOWS[name].columns]
        assert found == wanted.split(), name


def test_names_are_told_once_by_who_has_asked_last() -> None:
    talk = Talk()
    talk.console.answers["dns_hosts"] = [
        [["db.example", 3, "10.0.0.1"], ["a.example", 9, ""]],
        [["db.example", 12, "10.0.0.2,10.0.0.3"]],
    ]
    talk.console.answers["dns_zones"] = [[["example", 7, 2]], [["example", 8, 1]]]
    assert values(talk.query("show dns_hosts")) == [
        ["a.example", "9", ""],
        ["db.example", "12", "10.0.0.2,10.0.0.3"],
    ]
    assert values(talk.query("show dns_zones")) == [["example", "8", "1"]]


def test_some_columns_in_another_order() -> None:
    talk = Talk()
    talk.console.answers["clients"] = [list(SOCKET), list(SOCKET._replace(id=4))]
    assert values(talk.query("show clients (id, state)")) == [
        ["4", "active"],
        ["9", "active"],
    ]
    described = talk.query("show clients (state, state)")[0][1]
    assert described[:2] == b"\0\2"
    kind, body = talk.query("show clients (id, nope)")[0]
    assert (kind, packets.read_report(body)["C"]) == (b"E", "42703")


@pytest.mark.parametrize("name", sorted(name for name in SHOWS if SHOWS[name].columns))
def test_columns_of_every_show_may_be_chosen(name: str) -> None:
    """The last first, and the others left out."""
    names = [column.name for column in SHOWS[name].columns]
    talk = Talk()
    whole = talk.query(f"show {name}")
    assert kinds(whole)[:1] == b"T"
    chosen = [names[-1], names[0]]
    some = talk.query(f"show {name} ({', '.join(chosen)})")
    assert some[-2:] == whole[-2:]
    assert [row[1] for row in values(some)] == [row[0] for row in values(whole)]


SOCKET = SocketRow(
    *("C", "u", "a", "none", "active", "10.0.0.1", 5, "10.0.0.2", 6432),
    *(1_700_000_000.0, 1_700_000_001.5, 2_000_003, 0, "0x1", "0x2", 0),
    *("TLSv1.3/X", "app", 7, 9, 11, 12, 33),
)


def test_clients_servers_and_sockets() -> None:
    talk = Talk()
    talk.console.answers["clients"] = [
        list(SOCKET._replace(state=state, id=at))
        for at, state in enumerate(("idle", "active", "waiting", "login"))
    ]
    talk.console.answers["servers"] = [
        list(SOCKET._replace(type="S", state=state, id=at))
        for at, state in enumerate(("being_canceled", "idle", "tested"))
    ]
    clients = values(talk.query("show clients"))
    assert [row[4] for row in clients] == ["idle", "active", "waiting"]
    assert clients[1][:9] == ["C", "u", "a", "none", "active", *SOCKETS_ENDS]
    assert clients[1][11:] == (
        ["2", "3", "0", "0x1", "0x2", "0", "TLSv1.3/X", "app", "7", "1"]
    )
    states = [row[4] for row in values(talk.query("show sockets"))]
    assert states[:4] == ["cl_active", "cl_active", "cl_waiting", "cl_login"]
    assert states[4:] == ["sv_idle", "sv_idle", "sv_tested"]
    assert values(talk.query("show sockets"))[0][21:] == [*"00000", "11", "12"]
    quiet = list(SOCKET._replace(held_bytes=0, unsent_bytes=0))
    talk.console.answers["clients"] = [quiet]
    assert len(values(talk.query("show active_sockets"))) == 3


SOCKETS_ENDS = ["10.0.0.1", "5", "10.0.0.2", "6432"]


def test_no_secret_is_in_a_list_of_descriptors() -> None:
    talk = Talk()
    talk.console.answers["clients"] = [list(SOCKET), list(SOCKET._replace(tls=""))]
    (row,) = values(talk.query("show fds"))
    assert row == ["33", "client", "u", "a", "10.0.0.1", "5", "0", "0", *[None] * 7]


def test_workers_also_one_that_does_not_answer() -> None:
    talk = Talk()
    board, now_us = talk.console.board, time.monotonic_ns() // 1000
    for slot, pid in enumerate((11, 12)):
        board.set(slot, "pid", pid)
        board.set(slot, "started_us", now_us - 60_500_000)
        board.set(slot, "heartbeat_us", now_us - 2000)
    counts = {"clients": 1, "logins": 2, "servers": 3, "statements": 4}
    talk.console.answers["counts"] = [{"slot": 1, "statement_bytes": 5, **counts}]
    first, second = values(talk.query("show workers"))
    assert first[:3] == ["0", "11", "60"]
    assert first[4:] == [None] * 5
    assert second[:3] == ["1", "12", "60"]
    assert int(second[3] or 0) >= 2
    assert second[4:] == ["1", "2", "3", "4", "5"]
    board.clear(0)
    assert values(talk.query("show workers"))[0] == ["0", "0", *[None] * 7]


# Latency


def test_percentiles_over_workers_and_pools_of_a_database() -> None:
    talk = Talk()
    page = talk.console.page
    pools = [page.open(0, Kind.POOL, "a", user) for user in "uv"]
    for row, pool in enumerate(pools):
        for us in range(1, 501):  # 1 to 1000, one half each
            page.note_time(row, pool, 1, us + 500 * row)
    page.note_time(1, pools[0], 0, 0)
    talk.console.answers["pools"] = [
        [{"database": "a", "user": "u"}, {"database": "a", "user": "v"}],
        [{"database": "a", "user": "u"}, {"database": "b", "user": "gone"}],
    ]
    rows = values(talk.query("show latency"))
    assert [row[:3] for row in rows] == [
        ["a", "wait", "1"],
        ["a", "transaction", "1000"],
        ["a", "query", "0"],
        *(["b", kind, "0"] for kind in ("wait", "transaction", "query")),
    ]
    assert rows[0][3:] == ["0"] * 6
    assert rows[2][3:] == [None] * 6
    *ranks, most = map(int, rows[1][3:])
    assert most == 1000
    for true, told in zip((500, 900, 950, 990, 999), ranks, strict=True):
        assert true <= told <= min(true * 1.25, most)


# Prepared statements


def test_texts_of_all_workers_are_one() -> None:
    talk = Talk()
    talk.console.answers["statements"] = [
        ["b", "SELECT 1", "", 1, 1, 5, 100],
        ["a", "SELECT 1", "", 2, 1, 5, 100],
        ["a", "SELECT 2", "", 1, 0, 7, 101],
        ["a", "SELECT 1", "", 3, 0, 6, 100],
        ["a", "long", "0a", 1, 1, 1, 900],
        ["a", "long", "0b", 1, 1, 1, 901],
    ]
    assert values(talk.query("show prepared_statements")) == [
        ["a", "SELECT 1", "5", "1", "11", "200"],
        ["a", "SELECT 2", "1", "0", "7", "101"],
        ["a", "long…", "1", "1", "1", "900"],
        ["a", "long…", "1", "1", "1", "901"],
        ["b", "SELECT 1", "1", "1", "5", "100"],
    ]


def test_texts_are_for_admins() -> None:
    answer = Talk(admin=False).query("show prepared_statements")
    assert packets.read_report(answer[0][1])["M"] == "admin access needed"


# Statistics


def report(pid: int, database: str, **counters: int) -> dict[str, Any]:
    return {**POOL, "pid": pid, "database": database, **counters}


def test_averages_count_from_the_older_of_two_marks() -> None:
    stats = Stats(100.0)
    stats.mark(110.0, snapshot([[report(1, "a", queries=100, query_us=500)]]))
    stats.mark(120.0, snapshot([[report(1, "a", queries=300, query_us=2500)]]))
    now = snapshot([[report(1, "a", queries=500, query_us=4500)]])
    totals, averages = stats.by_database(130.0, now)["a"]
    assert totals["queries"] == 500
    assert averages["queries"] == 20  # 400 in 20 seconds
    assert averages["query_us"] == 10  # 4000 for 400
    assert averages["wait_us"] == 0
    assert stats.of_all(130.0, now)[1]["queries"] == 20


def test_a_worker_that_dies_takes_its_totals_and_no_average() -> None:
    """Nor does its successor, which counts from 0, or a pool that begins anew."""
    stats = Stats(100.0)
    both = [[report(1, "a", xacts=1000)], [report(2, "a", xacts=10)]]
    stats.mark(110.0, snapshot(both))
    stats.mark(120.0, snapshot(both))
    now = snapshot([[report(3, "a", xacts=5)], [report(2, "a", xacts=20)]])
    totals, averages = stats.by_database(115.0, now)["a"]
    assert (totals["xacts"], averages["xacts"]) == (25, 3)
    anew = snapshot([[report(2, "a", xacts=1)]])
    assert stats.by_database(115.0, anew)["a"][1]["xacts"] == 0


def test_the_line_of_the_log() -> None:
    averages = Stats(0.0).of_all(
        1.0, snapshot([[report(1, "a", xacts=2, queries=4, query_us=8, binds=6)]])
    )[1]
    assert log_line(averages) == (
        "stats: 1 xacts/s, 2 queries/s, 0 client parses/s, 0 server parses/s,"
        " 3 binds/s, in 0 B/s, out 0 B/s, xact 0 us, query 2 us, wait 0 us"
    )


def test_commands_of_the_console_are_counted() -> None:
    talk = Talk()
    for _ in range(3):
        talk.query("show version")
    talk.console.answers["pools"] = [[report(1, "a", queries=5)]]
    rows = dict(map(tuple, values(talk.query("show totals"))))
    assert rows["total_query_count"] == "9"
    assert len(rows) == 2 * len(STATISTICS)
    stats = {row[0]: row for row in values(talk.query("show stats"))}
    assert (stats["a"][3], stats["pgbouncer"][3]) == ("5", "5")
    assert sorted(stats) == ["a", "pgbouncer"]


# Control commands


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("pause", [("state", "PAUSE", ""), ("until_paused", "")]),
        ("pause a", [("state", "PAUSE", "a"), ("until_paused", "a")]),
        ("resume", [("state", "RESUME", "")]),
        ("suspend", [("state", "SUSPEND", ""), ("until_suspended", "")]),
        ("takeover x", [("takeover", "x")]),
        ("RESUME a", [("state", "RESUME", "a")]),
        ("kill a", [("state", "KILL", "a"), ("kill", "a")]),
        ("disable a", [("state", "DISABLE", "a")]),
        ("enable a", [("state", "ENABLE", "a")]),
        ("wait_close", [("until_closed", "")]),
        ("wait_close a", [("until_closed", "a")]),
    ],
)
def test_what_a_command_asks_for(text: str, asked: list[tuple[str, ...]]) -> None:
    talk = Talk()
    verb = text.split()[0].upper()
    assert talk.query(text)[0] == (b"C", verb.encode() + b"\0")
    assert [(kind, *told.values()) for kind, told in talk.console.asked] == asked


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pause pgbouncer", "cannot pause admin db: pgbouncer"),
        ("kill pgbouncer", "cannot kill admin db: pgbouncer"),
        ("wait_close pgbouncer", "cannot wait in admin db: pgbouncer"),
        ("disable pgbouncer", "cannot disable admin db: pgbouncer"),
        ("pause b", "no such database: b"),
        ("resume b", "no such database: b"),
        ("kill b", "no such database: b"),
        ("wait_close b", "no such database: b"),
        ("suspend a", "invalid command 'suspend a', use SHOW HELP;"),
        ("takeover", "invalid command 'takeover', use SHOW HELP;"),
        ("kill", "a database is required"),
        ("disable", "a database is required"),
        ("kill_client", "invalid client pointer supplied"),
        ("kill_client x", "invalid client pointer supplied"),
        ("kill_client 5", "client not found"),
        ("kill_client 99999999999999999999", "client not found"),
        ("kill_client 9999999999", "client not found"),
    ],
)
def test_what_cannot_be(text: str, problem: str) -> None:
    talk = Talk()
    kind, body = talk.query(text)[0]
    report = packets.read_report(body)
    assert (kind, report["M"], report["C"]) == (b"E", problem, "08P01")
    assert not [kind for kind, _ in talk.console.asked if kind == "state"]


def test_kill_client_of_any_worker() -> None:
    talk = Talk()
    talk.console.answers["kill_client"] = [False, True]
    assert talk.query("kill_client 5")[0] == (b"C", b"KILL_CLIENT\0")
    assert talk.console.asked == [("kill_client", {"id": "5"})]


def test_a_pause_that_is_cancelled_is_undone() -> None:
    async def cancelled(verb: str) -> tuple[list[Any], list[tuple[bytes, bytes]]]:
        console = FakeConsole()
        console.waits = asyncio.get_running_loop().create_future()
        session = Session(CommandTable(console), admin=True, backend_pid=7)
        session.cancel()  # too early: of nothing
        answer = asyncio.ensure_future(session.receive(query(verb)))
        while len(console.asked) < 1 + (verb != "wait_close"):
            await asyncio.sleep(0)
        session.cancel()
        _, data = await answer
        return console.asked, split(data)

    for text, undone in (
        ("pause", [("state", {"verb": "RESUME", "database": ""})]),
        ("pause a", [("state", {"verb": "RESUME", "database": "a"})]),
        ("wait_close", []),
    ):
        asked, answer = asyncio.run(cancelled(text))
        assert kinds(answer) == b"EZ"
        assert packets.read_report(answer[0][1])["C"] == "57014"
        assert asked[1 + (text != "wait_close") :] == undone


def test_a_pause_that_somebody_ends() -> None:
    talk = Talk()
    talk.console.answers["until_paused"] = ["gone", "resumed"]
    kind, body = talk.query("pause")[0]
    assert (kind, packets.read_report(body)["M"]) == (b"E", "PAUSE was ended by RESUME")
    talk.console.answers["until_suspended"] = ["gone", "resumed"]
    kind, body = talk.query("suspend")[0]
    assert packets.read_report(body)["M"] == "SUSPEND was ended by RESUME"


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
