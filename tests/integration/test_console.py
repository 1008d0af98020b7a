# SPDX-License-Identifier: MIT
"""The console through real workers: who may in, and what all processes then do."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import struct
import subprocess
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import psycopg
import pytest

from pooler import VERSION_TEXT
from pooler.demo.postgres import Postgres
from tests.integration.fake_server import FakeServer
from tests.integration.harness import (
    DATABASE,
    HOST,
    MakePooler,
    Pooler,
    is_console,
    wait_until,
)
from tests.wire_client import query, startup

CONSOLE = "pgbouncer"
USERS = '"chief" "x"\n"watcher" "x"\n"other" "x"\n"app" "x"\n'


@pytest.fixture
def pooler(make_pooler: MakePooler, tmp_path: Path) -> Pooler:
    return make_pooler(
        {"bench": ""},
        USERS,
        auth_type="trust",
        admin_users="chief",
        stats_users="watcher",
        unix_socket_dir=tmp_path,
        workers=2,
    )


def console(
    pooler: Pooler, user: str = "chief", **more: Any
) -> psycopg.Connection[tuple[Any, ...]]:
    return pooler.connect(CONSOLE, user, autocommit=True, **more)


def test_who_may_in(pooler: Pooler, tmp_path: Path) -> None:
    for user in ("chief", "watcher"):
        with console(pooler, user) as connection:
            assert connection.execute("show version").fetchall() == [(VERSION_TEXT,)]
    with pytest.raises(psycopg.OperationalError, match="FATAL:  not allowed"):
        console(pooler, "other")
    # The name alone is nothing; with our own user of the system it is an operator.
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        console(pooler, CONSOLE)
    own = psycopg.connect(
        host=str(tmp_path), port=pooler.port, user=CONSOLE, dbname=CONSOLE
    )
    with own as connection:
        connection.autocommit = True
        assert connection.execute("reload").statusmessage == "RELOAD"
    assert "other@" in pooler.log()
    assert "not in admin_users nor in stats_users" in pooler.log()


def test_a_watcher_changes_nothing(pooler: Pooler) -> None:
    with console(pooler, "watcher") as connection:
        for text in ("reload", "set default_pool_size = 3", "shutdown"):
            with pytest.raises(psycopg.Error, match="admin access needed"):
                connection.execute(text)


def test_anybody_may_look_if_anybody_may_in(make_pooler: MakePooler) -> None:
    pooler = make_pooler(admin_users="chief")
    with console(pooler, "nobody") as connection:
        connection.execute("show config").fetchall()
        with pytest.raises(psycopg.Error, match="admin access needed"):
            connection.execute("reload")
    with console(pooler) as connection:
        connection.execute("reload")


def test_full_of_clients(pooler: Pooler) -> None:
    with console(pooler) as connection:
        connection.execute("set max_client_conn = 1")
        with pooler.connect() as first:
            first.execute("select 1")
            with pytest.raises(psycopg.OperationalError, match="max_client_conn"):
                pooler.connect()
            with console(pooler) as second:
                second.execute("show version")


def test_drivers(pooler: Pooler) -> None:
    async def ask() -> str:
        connection = await asyncpg.connect(pooler.dsn(CONSOLE, "watcher"))
        try:
            return str(await connection.fetchval("show version"))
        finally:
            await connection.close()

    assert asyncio.run(ask()) == VERSION_TEXT
    with console(pooler) as connection:
        rows = connection.execute("show state", prepare=True, binary=True).fetchall()
        assert ("active", "yes") in rows
    done = subprocess.run(
        ["psql", "-XAt", pooler.dsn(CONSOLE, "chief"), "-c", "show version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == VERSION_TEXT


def test_set_serves_the_very_next_client(pooler: Pooler) -> None:
    """Whichever worker takes it, and as often as it is changed."""
    with console(pooler) as connection:
        for refused in (True, False) * 10:
            name = "pgbouncer_test" if not refused else ""
            connection.execute(f"set ignore_startup_parameters = '{name}'")
            for _ in range(4):
                if refused:
                    with pytest.raises(psycopg.Error, match="unsupported startup"):
                        pooler.connect(options="-c pgbouncer_test=1")
                else:
                    pooler.connect(options="-c pgbouncer_test=1").close()


def test_set_lasts_until_reload(pooler: Pooler) -> None:
    def size(connection: psycopg.Connection[tuple[Any, ...]]) -> str:
        rows = connection.execute("show config").fetchall()
        return str(next(row[1] for row in rows if row[0] == "default_pool_size"))

    with console(pooler) as connection:
        before = size(connection)
        connection.execute("set default_pool_size = 77")
        assert size(connection) == "77"
        connection.execute("set listen_port = 1")  # needs a restart: ignored
        assert size(connection) == "77"
        connection.execute("reload")
        assert size(connection) == before


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("set default_pool_size = x", "default_pool_size"),
        ("set nonsense = 1", "unknown setting"),
        ("set auth_type = 'kerberos'", "auth_type"),
        ("set auth_file = '/nonexistent'", "auth_file"),
    ],
)
def test_a_value_that_cannot_be(pooler: Pooler, text: str, problem: str) -> None:
    with console(pooler) as connection:
        with pytest.raises(psycopg.Error, match=f"SET failed: .*{problem}"):
            connection.execute(text)
        pooler.connect().close()


def test_reload_of_a_bad_file(pooler: Pooler) -> None:
    with console(pooler) as connection:
        good = pooler.ini.read_text()
        pooler.ini.write_text(good + "nonsense = 1\n")
        with pytest.raises(psycopg.Error, match="RELOAD failed, see logs"):
            connection.execute("reload")
        pooler.ini.write_text(good)
        connection.execute("reload")
    assert 'unknown setting "nonsense"' in pooler.log()


def test_tls_that_does_not_fit_leaves_the_old(pooler: Pooler) -> None:
    """Never plain text for who was asked to come by TLS."""
    with console(pooler) as connection:
        connection.execute("set client_tls_sslmode = require")
    with pytest.raises(psycopg.OperationalError, match="SSL required"):
        pooler.connect(sslmode="disable")
    with pytest.raises(psycopg.OperationalError, match="SSL"):
        pooler.connect(sslmode="require")
    assert "TLS settings could not be applied" in pooler.log()


def pid_of(connection: psycopg.Connection[tuple[Any, ...]]) -> int:
    row = connection.execute("select pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


def test_reconnect_replaces_servers(pooler: Pooler) -> None:
    with console(pooler) as operator, pooler.connect() as client:
        client.autocommit = True
        before = pid_of(client)
        operator.execute("reconnect")
        assert pid_of(client) != before
        before = pid_of(client)
        operator.execute("reconnect bench")
        assert pid_of(client) != before
        with pytest.raises(psycopg.Error, match="no such database: nope"):
            operator.execute("reconnect nope")


def test_kill_client_in_the_midst_of_a_row(
    make_pooler: MakePooler, server: FakeServer
) -> None:
    """It is told nothing: what it was told would become a part of its row."""
    pooler = make_pooler(
        {"bench": f"host={HOST} port={server.port}"},
        USERS,
        auth_type="trust",
        admin_users="chief",
        cancel_abandoned=0,
        workers=1,
    )
    half = b"D" + struct.pack("!IHI", 30, 1, 20) + b"half"
    with console(pooler) as connection, pooler.wire() as client:
        client.send(startup("app", "bench"))
        backend = server.accept().greet()
        client.read_greeting().send(query("select 'half of a row'"))
        assert backend.read().code == "Q"
        backend.send(half)
        heard = b""
        while heard != half:
            heard += client.socket.recv(100)
        rows = connection.execute("show clients (database, id)").fetchall()
        (number,) = [number for database, number in rows if database == "bench"]
        connection.execute(f"kill_client {number}")
        assert client.socket.recv(100) == b""
        assert backend.is_closed()


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ((1, 1), (1, 1)),
        ((0, 1), (0, 1)),  # the engine alone sees most clients off
        ((1, 0), (1, 0)),
    ],
)
def test_an_error_that_a_client_is_told_is_logged(
    pooler: Pooler, settings: tuple[int, int], lines: tuple[int, int]
) -> None:
    """Apart from the line that says that it has gone."""
    ends, errors = settings
    reason = "admin forced disconnect"

    def logged() -> tuple[int, int]:
        log = pooler.log()
        return (
            log.count(f"closing because: {reason}"),
            log.count(f"pooler error: {reason}"),
        )

    with console(pooler) as connection, pooler.connect(user="app") as client:
        connection.execute(f"set log_disconnections = {ends}")
        connection.execute(f"set log_pooler_errors = {errors}")
        rows = connection.execute("show clients (database, id)").fetchall()
        (number,) = [number for database, number in rows if database == "bench"]
        connection.execute(f"kill_client {number}")
        with pytest.raises(psycopg.OperationalError, match=reason):
            client.execute("select 1")
        wait_until(lambda: logged() == lines, "the lines")


@pytest.mark.parametrize("wanted", [0, 1])
def test_what_a_command_fails_for_is_logged(pooler: Pooler, wanted: int) -> None:
    """As PgBouncer does: an ERROR, and what the client is told by its setting."""
    with console(pooler) as operator:
        operator.execute(f"set log_pooler_errors = {wanted}")
        for command, text in (
            ("disable nope", "no such database: nope"),
            ("show nothing", "invalid command 'show nothing', use SHOW HELP;"),
        ):
            with pytest.raises(psycopg.Error, match=text):
                operator.execute(command)
            log = pooler.log()
            assert log.count(f" ERROR {text}\n") == 1
            told = rf"WARNING C-0x\w+: {CONSOLE}/\w+@{HOST}:\d+ pooler error: {text}\n"
            assert len(re.findall(told, log)) == wanted


def test_a_disabled_database_takes_no_new_clients(pooler: Pooler) -> None:
    """Those who are there go on; a reload changes nothing about it."""
    with console(pooler) as operator, pooler.connect() as client:
        operator.execute("disable bench")
        operator.execute("reload")
        assert operator.execute("show databases").fetchall()[0][16] == 1
        client.execute("select 1")
        for _ in range(4):
            with pytest.raises(psycopg.Error, match='database "bench" is disabled'):
                pooler.connect()
        operator.execute("enable bench")
        pooler.connect().close()
        for verb in ("disable", "enable"):
            with pytest.raises(psycopg.Error, match="no such database: nope"):
                operator.execute(f"{verb} nope")
            with pytest.raises(psycopg.Error, match=f"cannot {verb} admin db"):
                operator.execute(f"{verb} pgbouncer")
            with pytest.raises(psycopg.Error, match="a database is required"):
                operator.execute(verb)


def test_what_the_pools_do(pooler: Pooler) -> None:
    with console(pooler) as operator, pooler.connect() as client:
        client.execute("select 1")  # and a transaction is open
        row, own = operator.execute("show pools").fetchall()
        assert own == (CONSOLE, CONSOLE, 1, *(0,) * 12, "statement", None)
        assert row[:4] == ("bench", "app", 1, 0)
        assert row[6] == 1
        first, last = operator.execute("show databases").fetchall()
        assert (first[0], first[12], first[14]) == ("bench", 1, 1)
        assert last[0] == CONSOLE
        users = {row[0]: row for row in operator.execute("show users").fetchall()}
        assert (users["app"][5], users["chief"][5]) == (1, 0)


def test_names_that_are_no_text_are_shown_as_they_came(make_pooler: MakePooler) -> None:
    pooler = make_pooler({"*": ""}, admin_users="chief")
    with pooler.connect() as client, pooler.wire() as hostile:
        client.execute("select 1")
        parts = (b"user", b"caf\xe9", b"database", b"bench", b"")
        body = struct.pack("!I", 0x30000) + b"\0".join(parts) + b"\0"
        hostile.send(struct.pack("!I", len(body) + 4) + body)
        hostile.read_fatal()  # PostgreSQL knows nobody of that name
        with console(pooler) as operator:
            found = operator.pgconn.exec_(b"show pools")
            users = {found.get_value(row, 1) for row in range(found.ntuples)}
            done = operator.pgconn.exec_(b'reconnect "caf\xe9"')
            assert done.command_status == b"RECONNECT", done.error_message
    assert users == {b"app", b"caf\xe9", b"pgbouncer"}


def test_a_failed_login_is_tried_again_after_a_change(
    make_pooler: MakePooler, postgres: Postgres
) -> None:
    """Not after server_login_retry: somebody may just have put it right."""
    pooler = make_pooler({"bench": "dbname=nowhere"}, admin_users="chief")
    with pytest.raises(psycopg.OperationalError, match="nowhere"):
        pooler.connect()
    pooler.databases = {"bench": f"dbname={DATABASE}"}
    pooler.write()
    with console(pooler) as operator:
        operator.execute("reload")
    with pooler.connect() as client:
        client.execute("select 1")


def test_its_death_costs_no_query(pooler: Pooler) -> None:
    children = psutil.Process(pooler.pid).children()
    (pid,) = (child.pid for child in children if is_console(child.pid))
    with console(pooler) as connection, pooler.connect() as client:
        connection.execute("show version")
        os.kill(pid, signal.SIGKILL)
        assert client.execute("select 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("show version")

    def answers() -> bool:
        try:
            with console(pooler) as again:
                return bool(again.execute("show version").fetchone())
        except psycopg.OperationalError:
            return False

    wait_until(answers, "a successor")


@pytest.mark.parametrize(
    ("text", "farewell"),
    [
        ("shutdown", ""),
        ("shutdown wait_for_clients", "client connections dropped, exiting"),
        ("SHUTDOWN WAIT_FOR_SERVERS", "server connections dropped, exiting"),
    ],
)
def test_shutdown(pooler: Pooler, text: str, farewell: str) -> None:
    connection = console(pooler)
    if farewell:
        assert connection.execute(text).statusmessage == "SHUTDOWN"
        connection.close()
    else:
        with pytest.raises(psycopg.OperationalError):
            connection.execute(text)
    assert pooler.wait() == 0
    assert farewell in pooler.log()


def test_a_fallback_entry_is_not_the_console(make_pooler: MakePooler) -> None:
    """Nor is its name a database of the server, even if there is one."""
    pooler = make_pooler({"*": ""}, admin_users="chief")
    with console(pooler) as connection:
        assert connection.execute("show version").fetchall() == [(VERSION_TEXT,)]
    with pytest.raises(psycopg.OperationalError, match="not allowed"):
        psycopg.connect(pooler.dsn(CONSOLE, "chief"), replication="database")


def test_postgres_is_not_asked(make_pooler: MakePooler, postgres: Postgres) -> None:
    pooler = make_pooler(
        {"bench": f"host=127.0.0.1 port={postgres.port + 1}"}, admin_users="chief"
    )
    with console(pooler) as connection:
        connection.execute("show version")
