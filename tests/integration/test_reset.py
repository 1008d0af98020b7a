# SPDX-License-Identifier: MIT
"""RESET brings back what the client asked for at its login, not the server's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import DATABASE, USER, InProcess, wait_until
from tests.wire_client import (
    FLUSH,
    SYNC,
    Message,
    WireClient,
    bind,
    execute,
    extended,
    parse,
    query,
)

pytestmark = pytest.mark.timeout(60)

GIVEN = {
    "TimeZone": "Asia/Tokyo",
    "DateStyle": "German",
    "application_name": "me",
    "IntervalStyle": "iso_8601",
}
SHOW = [
    query(f"SHOW {name}")
    for name in ("TimeZone", "DateStyle", "application_name", "IntervalStyle")
]
# What a client does; a piece is sent when the one before is answered.
SCRIPTS: dict[str, list[bytes]] = {
    "reset": [query("SET TimeZone = 'America/New_York'"), query("RESET TimeZone")],
    "reset what is not set": [query("RESET TimeZone")],
    "to default": [
        query("SET TimeZone = 'America/New_York'"),
        query("SET timezone TO DEFAULT"),
    ],
    "= default": [query("SET DateStyle = 'ISO, YMD'"), query("SET DateStyle=default")],
    "time zone": [query("SET TIME ZONE 'UTC'"), query("SET TIME ZONE DEFAULT")],
    "local time zone": [query("SET TIME ZONE 'UTC'"), query("SET TIME ZONE LOCAL")],
    "all": [
        query("SET TimeZone = 'America/New_York'"),
        query("SET IntervalStyle = postgres; SET application_name = 'you'"),
        query("RESET ALL"),
    ],
    "discard": [query("SET TimeZone = 'America/New_York'"), query("DISCARD ALL")],
    "discard only": [query("DISCARD ALL")],
    "extended": [
        query("SET TimeZone = 'America/New_York'"),
        extended("RESET TimeZone") + SYNC,
    ],
    "application_name": [
        query("SET application_name = 'you'"),
        query("RESET application_name"),
    ],
    "application_name to the server's own": [query("SET application_name = ''")],
    "in a transaction": [
        query("BEGIN; SET TimeZone = 'UTC'"),
        query("RESET TimeZone"),
        query("SHOW TimeZone"),
        query("COMMIT"),
    ],
    "rolled back": [
        query("SET TimeZone = 'America/New_York'"),
        query("BEGIN; RESET TimeZone"),
        query("SHOW TimeZone"),
        query("ROLLBACK"),
    ],
    "failed": [
        query("SET TimeZone = 'America/New_York'"),
        query("RESET TimeZone; SELECT 1/0"),
    ],
    "pipelined": [
        query("SET TimeZone = 'UTC'")
        + query("RESET TimeZone")
        + query("SELECT '2024-01-01 00:00'::timestamptz"),
    ],
    "and set again": [query("RESET ALL; SET TimeZone = 'America/New_York'")],
    "and set again in the batch": [
        extended("RESET TimeZone")
        + extended("SET TimeZone = 'America/New_York'")
        + SYNC,
    ],
    "batches": [
        extended("SET TimeZone = 'UTC'")
        + SYNC
        + extended("RESET TimeZone")
        + SYNC
        + extended("SELECT '2024-01-01 00:00'::timestamptz")
        + SYNC,
    ],
    "behind a failure": [query("SELECT 1/0") + query("RESET TimeZone")],
    "behind a batch that fails": [
        query("SET TimeZone = 'UTC'"),
        bind(statement="nobody") + SYNC + extended("RESET TimeZone") + SYNC,
    ],
    "in a batch that goes on": [
        query("SELECT 1") + extended("RESET TimeZone") + FLUSH,
        SYNC,
    ],
    "in a batch behind a failure": [
        query("SELECT 1/0") + extended("RESET TimeZone") + FLUSH,
        SYNC,
    ],
    "in a batch that a Query ends": [
        query("SET TimeZone = 'UTC'"),
        extended("RESET TimeZone") + query("SELECT 1") + query("SHOW TimeZone"),
    ],
    "local": [
        query("SET TimeZone = 'America/New_York'"),
        query("BEGIN; SET LOCAL TimeZone TO DEFAULT"),
        query("SHOW TimeZone"),
        query("COMMIT"),
    ],
    "local of what is not set": [
        query("BEGIN"),
        query("SET LOCAL DateStyle = DEFAULT"),
        query("SHOW DateStyle"),
        query("ROLLBACK"),
    ],
    "local of all kinds": [
        query("BEGIN; SET TimeZone = 'UTC'; SET DateStyle = 'SQL, YMD'"),
        query("SET LOCAL TIME ZONE LOCAL; SET LOCAL DateStyle TO DEFAULT"),
        query("SET LOCAL application_name = default"),
        *(query(f"SHOW {name}") for name in ("TimeZone", "DateStyle")),
        query("SHOW application_name"),
        query("COMMIT"),
    ],
    "local extended": [
        query("BEGIN"),
        extended("SET LOCAL TIME ZONE DEFAULT") + SYNC,
        extended("SELECT '2024-01-01 00:00'::timestamptz") + SYNC,
        query("COMMIT"),
    ],
    "local to a savepoint": [
        query("BEGIN; SET LOCAL TimeZone = 'UTC'; SAVEPOINT a"),
        query("SET LOCAL TimeZone TO DEFAULT"),
        query("SHOW TimeZone"),
        query("ROLLBACK TO a"),
        query("SHOW TimeZone"),
        query("COMMIT"),
    ],
    "local outside a transaction": [query("SET LOCAL TimeZone TO DEFAULT")],
    "local by function": [
        query("BEGIN; SELECT set_config('TimeZone', NULL, true) IS NULL"),
        query("SHOW TimeZone"),
        query("COMMIT"),
    ],
    "by function": [
        query("SET TimeZone = 'UTC'"),
        query("SELECT set_config('TimeZone', NULL, false) IS NULL"),
    ],
    "by function of columns": [
        query("SET TimeZone = 'UTC'"),
        query(
            "SELECT set_config(a, b, false) IS NULL FROM (VALUES ('TimeZone', NULL),"
            " ('DateStyle', 'ISO, MDY')) AS v (a, b)"
        ),
    ],
    "by update": [
        query("SET TimeZone = 'UTC'"),
        query("UPDATE pg_settings SET setting = 'Etc/UTC' WHERE name = 'TimeZone'"),
    ],
    "in DO": [
        query("SET TimeZone = 'UTC'"),
        query("DO $$ BEGIN RESET TimeZone; END $$"),
    ],
    "in a function": [
        query("SET TimeZone = 'UTC'"),
        query("SELECT reset_it()"),
    ],
    "in a function's transaction": [
        query("SET TimeZone = 'UTC'"),
        query("BEGIN; SELECT reset_it()"),
        query("SHOW TimeZone"),
        query("ROLLBACK"),
    ],
    "and set to the server's own": [
        query("RESET DateStyle; SET DateStyle = 'ISO, MDY'")
    ],
    "and set to the server's own, and another": [
        query("RESET DateStyle; SET DateStyle = 'ISO, MDY'; RESET TimeZone")
    ],
    "all and set to the server's own": [query("RESET ALL; SET DateStyle = 'ISO, MDY'")],
    "set to the server's own and reset": [
        query("SET DateStyle = 'ISO, MDY'; RESET DateStyle")
    ],
    "set to the server's own, then reset": [
        query("SET DateStyle = 'ISO, MDY'"),
        query("RESET DateStyle"),
    ],
    "set to the server's own by function": [
        query("RESET DateStyle; SELECT set_config('DateStyle', 'ISO, MDY', false)")
    ],
    "set to the server's own in the batch": [
        extended("RESET DateStyle") + extended("SET DateStyle = 'ISO, MDY'") + SYNC,
    ],
    "set to the server's own behind it": [
        query("RESET DateStyle") + query("SET DateStyle = 'ISO, MDY'"),
    ],
    "set locally behind it": [
        query("BEGIN; RESET TimeZone; SET LOCAL TimeZone = 'UTC'"),
        query("SHOW TimeZone"),
        query("COMMIT"),
    ],
    "in front of a savepoint": [
        query("SET TimeZone = 'UTC'"),
        query("BEGIN; RESET TimeZone; SAVEPOINT a"),
        query("ROLLBACK TO a"),
        query("SHOW TimeZone"),
        query("COMMIT"),
    ],
    "locally in front of a savepoint": [
        query("SET TimeZone = 'UTC'"),
        query("BEGIN; SET LOCAL TimeZone TO DEFAULT; SAVEPOINT a"),
        query("ROLLBACK TO a"),
        query("SHOW TimeZone"),
        query("COMMIT"),
    ],
    "both": [
        query("SET TimeZone = 'UTC'"),
        query("BEGIN; SET LOCAL TimeZone TO DEFAULT; RESET TimeZone"),
        query("SHOW TimeZone"),
        query("COMMIT"),
    ],
    "set behind it, and that taken back": [
        query(
            "BEGIN; RESET DateStyle; SAVEPOINT a; SET DateStyle = 'ISO, MDY';"
            " ROLLBACK TO a; COMMIT"
        ),
    ],
    "in front of a failure in its transaction": [
        query("BEGIN; RESET TimeZone; SAVEPOINT a; SELECT 1/0"),
        query("ROLLBACK TO a"),
        query("SHOW TimeZone"),
        query("COMMIT"),
    ],
    "locally in front of a failure": [
        query("BEGIN; SET LOCAL TimeZone TO DEFAULT; SAVEPOINT a; SELECT 1/0"),
        query("ROLLBACK TO a"),
        query("SHOW TimeZone"),
        query("COMMIT"),
    ],
    "in front of a failure, committed": [
        query("SET TimeZone = 'UTC'"),
        query("BEGIN; RESET TimeZone; COMMIT; SELECT 1/0"),
    ],
    "failed, of the server's own": [
        query("SET DateStyle = 'ISO, MDY'"),
        query("RESET DateStyle; SELECT 1/0"),
    ],
    "rolled back to the server's own": [
        query("SET DateStyle = 'ISO, MDY'"),
        query("BEGIN; RESET DateStyle"),
        query("SHOW DateStyle"),
        query("ROLLBACK"),
    ],
    "rolled back to a savepoint, of the server's own": [
        query("SET DateStyle = 'ISO, MDY'"),
        query("BEGIN; SAVEPOINT a; RESET DateStyle"),
        query("SHOW DateStyle"),
        query("ROLLBACK WORK TO SAVEPOINT a"),
        query("SHOW DateStyle"),
        query("COMMIT"),
    ],
    "rolled back in one Query": [
        query("SET DateStyle = 'ISO, MDY'"),
        query("BEGIN; RESET DateStyle; ROLLBACK"),
    ],
    "in front of a failed COMMIT": [
        query("SET DateStyle = 'ISO, MDY'"),
        query("BEGIN; RESET DateStyle"),
        query("SELECT 1/0"),
        query("COMMIT"),
    ],
    "from current": [
        query("BEGIN; SET LOCAL TimeZone = 'UTC'; SET TimeZone FROM CURRENT; COMMIT"),
    ],
    "from current behind it": [
        query("SET TimeZone = 'UTC'"),
        query("RESET TimeZone"),
        query("SET TimeZone FROM CURRENT"),
    ],
    "session": [
        query("SET TimeZone = 'UTC'"),
        query("SET SESSION TIME ZONE DEFAULT; SET SESSION DateStyle TO DEFAULT"),
    ],
    "prepared": [
        query("SET TimeZone = 'UTC'"),
        query("PREPARE p AS SELECT set_config('TimeZone', NULL, false) IS NULL"),
        query("EXECUTE p"),
    ],
    "read behind it": [
        query("RESET TimeZone; SELECT '2024-01-01 00:00Z'::timestamptz; SELECT 1/0"),
        query("SET TimeZone = 'UTC'; RESET DateStyle;; RESET ALL ; SHOW TimeZone; s"),
        query("BEGIN; SET TIME ZONE LOCAL; SHOW TimeZone; RESET ALL; SHOW DateStyle"),
        query("SHOW TimeZone"),
        query("COMMIT; SELECT 'x'::int; SHOW DateStyle"),
    ],
    "read behind one that is undone": [
        query("SET TimeZone = 'UTC'"),
        query("BEGIN; RESET TimeZone; SHOW TimeZone; ROLLBACK; SHOW TimeZone"),
        query("BEGIN; SAVEPOINT a; RESET ALL; SHOW TimeZone; ROLLBACK TO a; COMMIT"),
    ],
    "read behind a local one": [
        query(
            "BEGIN; SET LOCAL TimeZone TO DEFAULT; SELECT now() IS NULL; SHOW DateStyle"
        ),
        query(
            "SET LOCAL TIME ZONE DEFAULT; SHOW TimeZone; SET LOCAL DateStyle = DEFAULT"
        ),
        query("SHOW TimeZone; SELECT '2024-02-01'::date; COMMIT"),
    ],
    "read behind it, with names": [
        query("PREPARE p AS SELECT '2024-01-01 00:00Z'::timestamptz"),
        query("RESET TimeZone; EXECUTE p; RESET DateStyle; EXECUTE p; DEALLOCATE p; x"),
        query("SET TimeZone TO DEFAULT; EXECUTE p; RESET ALL; DEALLOCATE p; EXECUTE p"),
        query("RESET ALL; PREPARE q AS SELECT current_setting('DateStyle'); EXECUTE q"),
        query("RESET ALL; EXECUTE q; SELECT nope, 1"),
    ],
    "a style by name": [
        query("SET DateStyle = 'ISO, YMD'"),
        query("SET DateStyle = 'Default'"),
        query("SET DateStyle = 'ISO, YMD'"),
        query("SELECT set_config('DateStyle', 'default', false) IS NULL"),
    ],
    "read behind a style by name": [
        query("SET DateStyle TO 'DEFAULT'; SELECT '2024-02-01'::date"),
    ],
    "read behind a function": [
        query("SELECT set_config('TimeZone', NULL, false) IS NULL; SHOW TimeZone"),
        extended("SELECT set_config('TimeZone', NULL, false) IS NULL")
        + extended("SHOW TimeZone")
        + SYNC,
    ],
    "read behind it in a batch": [
        extended("RESET TimeZone")
        + extended("SELECT '2024-01-01 00:00Z'::timestamptz")
        + extended("RESET ALL")
        + extended("SHOW DateStyle")
        + SYNC,
    ],
    "read behind a DISCARD ALL": [
        extended("DISCARD ALL") + extended("SHOW TimeZone") + SYNC,
    ],
    "read behind a local one in a batch": [
        query("BEGIN"),
        extended("SET LOCAL TimeZone TO DEFAULT") + extended("SHOW TimeZone") + SYNC,
        query("ROLLBACK"),
    ],
    "bound and not executed": [
        query("SET TimeZone = 'UTC'"),
        parse("RESET TimeZone")
        + bind()
        + extended("SELECT '2024-01-01 00:00Z'::timestamptz")
        + extended("SHOW TimeZone")
        + SYNC,
    ],
    "bound, and another executed": [
        query("SET TimeZone = 'UTC'"),
        parse("SHOW TimeZone")
        + bind(portal="a")
        + parse("RESET TimeZone")
        + bind()
        + execute("a")
        + execute()
        + extended("SHOW TimeZone")
        + SYNC,
    ],
    "read behind it in a batch that fails": [
        query("SET TimeZone = 'UTC'"),
        extended("RESET TimeZone")
        + extended("SHOW TimeZone")
        + extended("SELECT 1/0")
        + SYNC,
    ],
    "failed before it is read": [
        query("SET TimeZone = 'UTC'"),
        query("SELECT 1/0; RESET TimeZone; SHOW TimeZone"),
        query("RESET TimeZone; SELECT 1/0; SHOW TimeZone"),
    ],
    "skipped": [
        query("SET TimeZone = 'UTC'"),
        bind(statement="nobody") + query("SELECT 1") + query("RESET ALL") + SYNC,
    ],
}


@pytest.fixture(scope="module", autouse=True)
def function(postgres: Postgres) -> None:
    postgres.psql(
        "CREATE OR REPLACE FUNCTION reset_it() RETURNS void LANGUAGE plpgsql AS"
        " $$ BEGIN RESET TimeZone; END $$",
        DATABASE,
    )


def test_a_query_in_pieces_behind_a_reset_without_a_sync(
    worker_in_process: Callable[..., InProcess],
) -> None:
    """It is read to its end before anything is waited for."""
    worker = worker_in_process(default_pool_size=1)
    with worker.client(**GIVEN) as client:
        client.send(extended("RESET TimeZone"), query("SHOW TimeZone")[:7])
        client.send(query("SHOW TimeZone")[7:], SYNC)
        client.read_until("Z")
        client.read_until("Z")


def test_a_query_in_pieces_ends_the_batch_of_a_reset(
    worker_in_process: Callable[..., InProcess], postgres: Postgres
) -> None:
    """What is sent behind its end, in one send, is read under what came back."""
    last = query("SELECT 1")
    worker = worker_in_process(default_pool_size=1)
    with (
        WireClient(postgres.port).login(USER, DATABASE, **GIVEN) as real,
        worker.client(**GIVEN) as client,
    ):
        for one in (real, client):
            one.send(extended("RESET TimeZone"), last[:7])
        wait_until(
            lambda: worker.engine.pool_stats(0)["received_bytes"] > 0, "the beginning"
        )
        said = []
        for one in (real, client):
            one.send(last[7:] + query("SELECT '2024-01-01 00:00Z'::timestamptz"))
            said.append([one.read_until("Z") for _ in range(2)])
        assert said[0] == said[1]


def answers(
    client: WireClient, script: list[bytes], size: int = 1 << 20
) -> list[list[Message]]:
    """All answers, but for where in PostgreSQL's sources an error was made.

    ``size``: of what is sent at once.
    """
    said = []
    for piece in [*script, *SHOW]:
        client.send_split(piece, size)
        for _ in range(max(1, piece.count(SYNC) or piece.count(b"Q\0\0"))):
            answer = client.read_until("Z")
            for one in answer:
                client.note(one)
            said.append([one for one in answer if one.code != "S"])
    return said


@pytest.mark.parametrize("what", SCRIPTS)
def test_reset_is_as_before_postgresql_alone(
    worker_in_process: Callable[..., InProcess], postgres: Postgres, what: str
) -> None:
    worker = worker_in_process(default_pool_size=1)
    with (
        WireClient(postgres.port).login(USER, DATABASE, **GIVEN) as real,
        worker.client(**GIVEN) as client,
        worker.client() as other,
    ):
        expected = answers(real, SCRIPTS[what])
        assert answers(client, SCRIPTS[what]) == expected
        for name in ("TimeZone", "DateStyle", "application_name", "IntervalStyle"):
            assert client.parameters[name] == real.parameters[name]
        assert other.value("SHOW TimeZone") == other.parameters["TimeZone"]
        assert client.value("SHOW TimeZone") == real.value("SHOW TimeZone")


@pytest.mark.parametrize("what", [one for one in SCRIPTS if "read behind" in one])
def test_what_is_read_behind_it_in_pieces(
    worker_in_process: Callable[..., InProcess], postgres: Postgres, what: str
) -> None:
    """Each message is cut, an Execute as well."""
    worker = worker_in_process(default_pool_size=1)
    with (
        WireClient(postgres.port).login(USER, DATABASE, **GIVEN) as real,
        worker.client(**GIVEN) as client,
    ):
        assert answers(client, SCRIPTS[what], 3) == answers(real, SCRIPTS[what])


@pytest.mark.parametrize("what", [one for one in SCRIPTS if "server's own" in one])
def test_on_a_server_that_nobody_has_set_anything_on(
    worker_in_process: Callable[..., InProcess], postgres: Postgres, what: str
) -> None:
    """There what the client has chosen is the default, and looks like it."""
    worker = worker_in_process(default_pool_size=2)
    with (
        WireClient(postgres.port).login(USER, DATABASE, **GIVEN) as real,
        worker.client(**GIVEN) as client,
        worker.client() as other,
    ):
        for one in (client, real):
            one.ask(query("SET DateStyle = 'ISO, MDY'"))
        other.ask(query("BEGIN"))
        assert answers(client, SCRIPTS[what]) == answers(real, SCRIPTS[what])


# A server that is one client's own is sent its client's texts as they are.
NOT_IN_SESSION_MODE = ("read behind", "bound, and")


@pytest.mark.parametrize(
    "what", [one for one in SCRIPTS if not one.startswith(NOT_IN_SESSION_MODE)]
)
def test_reset_in_session_mode(
    worker_in_process: Callable[..., InProcess], postgres: Postgres, what: str
) -> None:
    """The server is its client's own, but has logged in without its values."""
    worker = worker_in_process(default_pool_size=1, pool_mode="session")
    with (
        WireClient(postgres.port).login(USER, DATABASE, **GIVEN) as real,
        worker.client(**GIVEN) as client,
    ):
        assert answers(client, SCRIPTS[what]) == answers(real, SCRIPTS[what])
        for name in ("TimeZone", "DateStyle", "application_name", "IntervalStyle"):
            assert client.parameters[name] == real.parameters[name]


@pytest.mark.parametrize("how", ["SELECT reset_it()", "RESET TimeZone"])
def test_what_goes_back_is_not_learned_for_another_value(
    worker_in_process: Callable[..., InProcess], how: str
) -> None:
    """A login is told its own value, not what a RESET has brought to who had it."""
    worker = worker_in_process(default_pool_size=1)
    with worker.client(**GIVEN) as one:
        one.ask(query("SET TimeZone = 'America/New_York'"))
        one.ask(query("BEGIN; SAVEPOINT a"))
        one.ask(query(how))
        one.ask(query("COMMIT"))
        assert one.value("SHOW TimeZone") == GIVEN["TimeZone"]
        with worker.client(TimeZone="America/New_York") as other:
            assert other.parameters["TimeZone"] == "America/New_York"


def test_each_value_is_told_when_its_command_is_answered(
    worker_in_process: Callable[..., InProcess], postgres: Postgres
) -> None:
    """What is set in front of a RESET, in one send, is told as PostgreSQL tells it."""
    piece = query("SET TimeZone = 'UTC'") + query("RESET TimeZone")
    worker = worker_in_process(default_pool_size=1)
    with (
        WireClient(postgres.port).login(USER, DATABASE, **GIVEN) as real,
        worker.client(**GIVEN) as client,
    ):
        real.send(piece)
        client.send(piece)
        for _ in range(2):
            assert client.read_until("Z") == real.read_until("Z")


def test_what_is_reset_is_told_in_postgresqls_order(
    worker_in_process: Callable[..., InProcess], postgres: Postgres
) -> None:
    """Also where one is the server's own default and another the client's wish."""
    set_both = query("SET application_name = 'you'; SET TimeZone = 'Asia/Tokyo'")
    worker = worker_in_process(default_pool_size=1)
    with (
        WireClient(postgres.port).login(USER, DATABASE) as real,
        worker.client() as client,
    ):
        for piece in (set_both, query("DISCARD ALL"), set_both, query("RESET ALL")):
            real.send(piece)
            client.send(piece)
            assert client.read_until("Z") == real.read_until("Z")


def test_the_servers_own_application_name_is_told(
    worker_in_process: Callable[..., InProcess],
) -> None:
    """One that a text has set, not a RESET that nobody has seen."""
    worker = worker_in_process(default_pool_size=1)
    with WireClient(worker.port).login(
        USER, DATABASE, application_name="two"
    ) as client:
        said = client.ask(query("SET application_name = ''"))
        assert [one.body for one in said if one.code == "S"] == [
            b"application_name\0\0"
        ]
        assert client.value("SHOW application_name") == ""
