# SPDX-License-Identifier: MIT
"""What an operator has added to logins: the client's address, a notice."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import psycopg
import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import DATABASE, HOST, USER, Pooler, wait_until
from tests.wire_client import Message, codes, startup

pytestmark = pytest.mark.timeout(60)

NOTICE = "Maintenance tonight; it's at 22:00, read the wiki"
LABEL_BYTES = 63  # NAMEDATALEN - 1


@pytest.fixture(scope="module")
def pooler(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pooler]:
    with tempfile.TemporaryDirectory(prefix="pooler-", dir="/tmp") as sockets:
        settings: dict[str, object] = {
            "unix_socket_dir": sockets,
            "unix_socket_mode": "0777",
            "application_name_add_host": 1,
            "login_notify_message": NOTICE,
            "admin_users": USER,
        }
        made = Pooler(
            tmp_path_factory.mktemp("extras"), postgres.port, settings=settings
        )
        try:
            yield made.start()
        finally:
            made.finish()


@pytest.fixture
def plain(pooler: Pooler) -> Iterator[Pooler]:
    """The same pooler with both settings off."""
    names = ("application_name_add_host", "login_notify_message")
    asked = {name: pooler.settings[name] for name in names}
    reloaded(pooler, application_name_add_host=0, login_notify_message="")
    yield pooler
    reloaded(pooler, **asked)


def reloaded(pooler: Pooler, **settings: object) -> None:
    pooler.reload(**settings)
    shown = str(settings["application_name_add_host"])

    def follows() -> bool:
        with pooler.connect("pgbouncer", autocommit=True) as console:
            rows = console.execute("SHOW CONFIG").fetchall()
        return any(one[:2] == ("application_name_add_host", shown) for one in rows)

    wait_until(follows, "reload")


def greeting(pooler: Pooler, **parameters: str) -> list[Message]:
    with pooler.wire() as client:
        client.send(startup(USER, DATABASE, **parameters))
        return client.read_until("Z")


def notices(told: list[Message]) -> list[str]:
    return [one.fields["M"] for one in told if one.code == "N"]


# ---------------------------------------------------------------- application_name


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"application_name": "psql"}, "psql"),
        ({"application_name": ""}, "app"),
        ({}, "app"),
        ({"options": "-c application_name=by_options"}, "by_options"),
        ({"application_name": "it's; \\x"}, "it's; \\x"),
    ],
)
def test_the_address_is_behind_the_name(
    pooler: Pooler, given: dict[str, str], kept: str
) -> None:
    """Each client has its own, also where a login like it was seen before."""
    for _ in range(3):
        with pooler.client(**given) as client:
            port = client.socket.getsockname()[1]
            expected = f"{kept} - {HOST}:{port}"
            assert client.parameters["application_name"] == expected
            assert client.value("SHOW application_name") == expected
            seen = client.value(
                "SELECT application_name FROM pg_stat_activity"
                " WHERE pid = pg_backend_pid()"
            )
            assert seen == expected


@pytest.mark.parametrize(
    "given", ["x" * 63, "x" * 64, "y" * 500, "é" * 40, "a" * 30 + "é" * 30]
)
def test_a_long_name_gives_way_to_the_address(pooler: Pooler, given: str) -> None:
    with pooler.client(application_name=given) as client:
        shown = client.value("SHOW application_name")
        port = client.socket.getsockname()[1]
        assert client.parameters["application_name"] == shown
        assert shown.endswith(f" - {HOST}:{port}")
        assert len(shown) <= LABEL_BYTES
    told = greeting(pooler, application_name=given)
    assert notices(told) == [NOTICE]  # and no word of a cut


def test_what_is_set_later_is_left_alone(pooler: Pooler) -> None:
    with pooler.client(application_name="first") as client:
        client.rows("SET application_name = 'second'")
        assert client.value("SHOW application_name") == "second"
        client.rows("BEGIN")
        assert client.value("SHOW application_name") == "second"
        client.rows("ROLLBACK")
        client.rows("RESET application_name")


def test_by_a_unix_socket_it_is_the_process(pooler: Pooler) -> None:
    for _ in range(2):
        with psycopg.connect(
            host=str(pooler.settings["unix_socket_dir"]),
            port=pooler.port,
            user=USER,
            dbname=DATABASE,
            application_name="local",
        ) as connection:
            [[shown]] = connection.execute("SHOW application_name").fetchall()
        host = os.uname().nodename[:32]
        assert shown == f"local - unix({os.getpid()}@{host}):{pooler.port}"


def test_without_it_names_are_as_given(plain: Pooler) -> None:
    for _ in range(2):
        with plain.client(application_name="psql") as client:
            assert client.value("SHOW application_name") == "psql"
        with plain.client() as client:
            assert client.value("SHOW application_name") == ""


# ---------------------------------------------------------------- login_notify_message


def test_the_notice_comes_before_the_first_ready(pooler: Pooler) -> None:
    for _ in range(3):  # the second login is the engine's, if it may be
        told = greeting(pooler, application_name="psql")
        assert codes(told).strip("S")[-3:] in ("NKZ", "KNZ"), codes(told)
        [notice] = [one for one in told if one.code == "N"]
        assert notice.fields["S"] == notice.fields["V"] == "NOTICE"
        assert notice.fields["C"] == "00000"
        assert notice.fields["M"] == NOTICE


def test_the_notice_of_known_logins(pooler: Pooler, plain: Pooler) -> None:
    """A login that the engine leads alone has it, and loses it by a reload."""
    for expected in (["one"], ["two"], []):
        told = "".join(expected)
        reloaded(plain, application_name_add_host=0, login_notify_message=told)
        for _ in range(3):
            assert notices(greeting(pooler)) == expected


def test_a_driver_gets_the_notice_and_goes_on(pooler: Pooler) -> None:
    with pooler.connect() as connection:
        assert connection.execute("SELECT 1").fetchall() == [(1,)]


def test_the_console_has_neither(pooler: Pooler) -> None:
    with pooler.wire() as client:
        client.send(startup(USER, "pgbouncer", application_name="psql"))
        assert "N" not in codes(client.read_until("Z"))


def test_a_new_database_of_the_fallback_entry_is_told(pooler: Pooler) -> None:
    """Once, whoever comes; not for names that nobody could log in with."""
    for _ in range(2):
        with pooler.client("postgres") as client:
            assert client.value("SELECT current_database()") == "postgres"
    pooler.wait_log("registered new auto-database: postgres")
    assert pooler.log().count("registered new auto-database: postgres") == 1
    assert pooler.log().count("registered new auto-database: pgbouncer") == 0


def test_a_replication_client_keeps_its_name(
    postgres: Postgres, pooler: Pooler
) -> None:
    """By that synchronous_standby_names knows it."""
    postgres.psql("CREATE ROLE copier LOGIN REPLICATION")
    asked = {"replication": "database", "application_name": "standby"}
    with pooler.wire() as client:
        client.send(startup("copier", DATABASE, **asked))
        told = client.read_until("Z")
        pairs = [one.strings for one in told if one.code == "S"]
        assert ["application_name", "standby"] in pairs
        assert codes(told).count("N") == 1
