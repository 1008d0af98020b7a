# SPDX-License-Identifier: MIT
"""Parameters follow the client from transaction to transaction, over one server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from psycopg import errors

from pooler.demo.postgres import Postgres
from tests.integration.harness import (
    DATABASE,
    USER,
    MakePooler,
    Pooler,
    backends,
    closing_all,
)
from tests.wire_client import SYNC, WireClient, codes, extended, query, startup

pytestmark = pytest.mark.timeout(30)

PARAMETERS = {
    "client_encoding": ("UTF8", "LATIN1", "SJIS"),
    "DateStyle": ("ISO, MDY", "German, DMY", "SQL, YMD"),
    "TimeZone": ("UTC", "Asia/Tokyo", "America/New_York"),
    "IntervalStyle": ("postgres", "iso_8601", "sql_standard"),
    "application_name": ("one", "two", "three"),
    "standard_conforming_strings": ("on", "off", "on"),
}
NAMES = (
    "it's",
    '"quoted"',
    "back\\slash",
    "\\",
    "\\'; DROP TABLE nothing; --",
    "''",
    "$$ $1 %s",
    "-",
    "x" * 63,
)
LONG_NAME = "y" * 100
READ_ONLY = "default_transaction_read_only"


@pytest.fixture(scope="module")
def pooler(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pooler]:
    """One server for everybody."""
    settings: dict[str, object] = {"default_pool_size": 1}
    made = Pooler(tmp_path_factory.mktemp("parameters"), postgres.port, {}, settings)
    try:
        yield made.start()
    finally:
        made.finish()


def directly(postgres: Postgres, **parameters: str) -> WireClient:
    """A client of PostgreSQL itself, to compare with."""
    return WireClient(postgres.port).login(USER, DATABASE, **parameters)


def mine(number: int) -> dict[str, str]:
    return {name: values[number] for name, values in PARAMETERS.items()}


def shown(client: WireClient) -> dict[str, str]:
    """What the server that this client has got right now thinks."""
    return {name: client.value(f"SHOW {name}") for name in PARAMETERS}


# Following


def test_parameters_of_the_startup_packet(pooler: Pooler, postgres: Postgres) -> None:
    clients = [pooler.client(**mine(number)) for number in range(3)]
    with closing_all(clients):
        for _ in range(3):
            for number, client in enumerate(clients):
                assert shown(client) == mine(number)
                told = {name: client.parameters[name] for name in PARAMETERS}
                assert told == mine(number)
        assert len(backends(postgres)) == 1


def test_parameters_that_are_set_later(pooler: Pooler) -> None:
    with closing_all([pooler.client(), pooler.client()]) as clients:
        for number, client in enumerate(clients):
            for name, value in mine(number).items():
                assert "S" in codes(client.ask(query(f"SET {name} = '{value}'"))) or (
                    client.parameters[name] == value
                )
        for _ in range(3):
            for number, client in enumerate(clients):
                assert shown(client) == mine(number)


def test_parameters_have_their_effect(pooler: Pooler) -> None:
    one, two = pooler.client(**mine(0)), pooler.client(**mine(1))
    day = "SELECT timestamptz '2024-02-01 12:00:00+00'"
    with one, two:
        for _ in range(2):
            assert one.value(day) == "2024-02-01 12:00:00+00"
            assert two.value(day) == "01.02.2024 21:00:00 JST"
            assert one.rows("SELECT chr(233)") == [["é".encode()]]
            assert two.rows("SELECT chr(233)") == [["é".encode("latin1")]]
            assert one.value("SELECT interval '1 day 2 hours'") == "1 day 02:00:00"
            assert two.value("SELECT interval '1 day 2 hours'") == "P1DT2H"
            assert one.value("SELECT length('a\\\\b')") == "4"
            two.ask(query("SET escape_string_warning = off"))
            assert two.value("SELECT length('a\\\\b')") == "3"


def test_parameters_before_an_extended_query(pooler: Pooler) -> None:
    """Nothing of the SET is seen by the client."""
    request = extended("SHOW TimeZone") * 3 + SYNC
    with pooler.client(**mine(0)) as one, pooler.client(**mine(1)) as two:
        for client in (one, two):  # an untried set of values goes alone first
            client.ask(query("SELECT 1"))
        for _ in range(5):
            for number, client in enumerate((one, two)):
                answer = client.ask(request)
                assert codes(answer) == "12TDC" * 3 + "Z"
                assert answer[3].row == [mine(number)["TimeZone"].encode()]


def test_psycopg_with_an_encoding_and_options(pooler: Pooler) -> None:
    with (
        pooler.connect(client_encoding="latin1", autocommit=True) as one,
        pooler.connect(options="-c TimeZone=Asia/Tokyo -c datestyle=ISO") as two,
    ):
        for _ in range(3):
            assert one.execute("SELECT 'é', %s", ("ü",)).fetchone() == ("é", "ü")
            assert two.execute("SELECT 'é', %s", ("ü",)).fetchone() == ("é", "ü")
            assert two.execute("SHOW TimeZone").fetchone() == ("Asia/Tokyo",)
            two.commit()
            assert one.execute("SHOW TimeZone").fetchone() != ("Asia/Tokyo",)


# application_name


@pytest.mark.parametrize("name", [*NAMES, LONG_NAME, "naïve ☃ café", "tab\tend"])
def test_application_name_is_that_of_postgresql(
    pooler: Pooler, postgres: Postgres, name: str
) -> None:
    with (
        directly(postgres, application_name=name) as real,
        pooler.client(application_name=name) as client,
        pooler.client(application_name="other") as other,
    ):
        expected = real.value("SHOW application_name")
        for _ in range(2):
            assert client.value("SHOW application_name") == expected
            assert other.value("SHOW application_name") == "other"
        assert client.parameters["application_name"] == expected


def test_application_name_that_is_set_later(pooler: Pooler) -> None:
    with pooler.client(application_name="other") as other, pooler.client() as client:
        for name in NAMES:
            quoted = name.replace("'", "''")
            client.ask(query(f"SET application_name = '{quoted}'"))
            assert other.value("SHOW application_name") == "other"
            assert client.value("SHOW application_name") == name


def test_empty_application_name(pooler: Pooler) -> None:
    with (
        pooler.client(application_name="full") as full,
        pooler.client(application_name="") as empty,
        pooler.client() as silent,
    ):
        for _ in range(2):
            assert full.value("SHOW application_name") == "full"
            assert empty.value("SHOW application_name") == ""
            assert full.value("SHOW application_name") == "full"
            assert silent.value("SHOW application_name") == ""
        full.ask(query("SET application_name = ''"))
        assert empty.ask(query("SET application_name = 'now'"))[-1].code == "Z"
        assert full.value("SHOW application_name") == ""
        assert empty.value("SHOW application_name") == "now"


def test_values_of_the_database_entry(make_pooler: MakePooler) -> None:
    pooler = make_pooler(
        {DATABASE: "timezone=Asia/Tokyo application_name=entry datestyle=German"},
        default_pool_size=1,
    )
    with pooler.client() as silent, pooler.client(application_name="own") as client:
        for _ in range(2):
            assert client.value("SHOW application_name") == "own"
            assert client.value("SHOW TimeZone") == "Asia/Tokyo"
            assert silent.value("SHOW application_name") == "entry"
            assert silent.value("SHOW DateStyle") == "German, DMY"
        assert silent.parameters["TimeZone"] == "Asia/Tokyo"


# Spelling


def test_short_date_style_costs_no_set_per_transaction(
    make_pooler: MakePooler, postgres: Postgres
) -> None:
    """PostgreSQL makes ``ISO, MDY`` of it; the client takes that over."""
    postgres.psql(
        "CREATE ROLE logged LOGIN; ALTER ROLE logged SET log_statement = 'all'"
    )
    pooler = make_pooler(default_pool_size=1)
    begin = postgres.log_path.stat().st_size

    def statements(what: str) -> int:
        with postgres.log_path.open() as log:
            log.seek(begin)
            return sum("statement: " in line and what in line for line in log)

    given = {"DateStyle": "ISO", "TimeZone": "utc"}
    with (
        pooler.wire().login("logged", DATABASE, **given) as client,
        pooler.wire().login("logged", DATABASE) as other,
    ):
        for _ in range(20):
            assert client.value("SELECT 'by client'") == "by client"
            assert other.value("SELECT 'by other'") == "by other"
        assert client.parameters["DateStyle"] == "ISO, MDY"
        assert statements("by client") == statements("by other") == 20
        assert statements("DateStyle") <= 1


@pytest.mark.parametrize("part", ["iso", "german", "dmy", "SQL", "", "US"])
def test_part_of_a_date_style_behind_another_client(
    pooler: Pooler, postgres: Postgres, part: str
) -> None:
    """What it leaves out is not completed by what the server had last."""
    day = "SELECT date '1/2/2003'"
    with (
        directly(postgres, DateStyle=part) as real,
        pooler.client(DateStyle="SQL, YMD") as other,
    ):
        other.ask(query("BEGIN; SELECT 1"))
        with pooler.client(DateStyle=part) as client:
            other.ask(query("COMMIT"))
            assert client.value(day) == real.value(day)
            assert client.value("SHOW DateStyle") == real.value("SHOW DateStyle")
            assert client.parameters["DateStyle"] == real.parameters["DateStyle"]


@pytest.mark.parametrize("more", ["", "--datestyle=European"])
@pytest.mark.parametrize(
    "first",
    ["iso,dmy", "german", "dmy", "bad", "default", "German,MDY", "us", "POSTGRESX"],
)
def test_a_date_style_that_is_given_more_than_once(
    pooler: Pooler, postgres: Postgres, first: str, more: str
) -> None:
    """A driver says ISO (pgjdbc), and ``options`` the order: PostgreSQL keeps both."""
    for second in ("ISO", "sql", "german", "ymd", "noneuropean", "", "iso,bad"):
        given = {"options": f"-c DateStyle={first} {more}", "DateStyle": second}
        real, ours = (login_of(port, given) for port in (postgres.port, pooler.port))
        assert ours == real, given


def login_of(port: int, given: dict[str, str]) -> str:
    """The DateStyle that a login is told, or its error."""
    with WireClient(port) as client:
        client.send(startup(USER, DATABASE, **given))
        while (one := client.read()).code not in "ZE":
            client.note(one)
        return one.fields["M"] if one.code == "E" else client.parameters["DateStyle"]


# What a server refuses


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DateStyle", "nonsense"),
        ("TimeZone", "Mars/Olympus"),
        ("client_encoding", "KLINGON"),
        ("IntervalStyle", "'"),
        ("standard_conforming_strings", "maybe"),
    ],
)
def test_bad_value_is_told_to_its_client_only(
    pooler: Pooler, postgres: Postgres, name: str, value: str
) -> None:
    with pooler.client() as other:
        assert other.value("SELECT 1") == "1"
        with pooler.wire() as bad:
            # At login if a server is free, else with the first query: it is the end.
            bad.send(startup(USER, DATABASE, **{name: value}))
            bad.send(query("CREATE TABLE by_a_bad_client ()"))
            said = bad.read_to_end()
            assert said[-1].code == "E", said
            assert said[-1].fields["C"] == "22023"
            assert name.lower() in said[-1].fields["M"].lower()
        for _ in range(3):
            assert other.value("SELECT 1") == "1"
        assert postgres.psql("SELECT to_regclass('by_a_bad_client')", DATABASE) == [
            (None,)
        ]


def test_many_bad_clients_do_not_stop_the_others(pooler: Pooler) -> None:
    """Those that came while no server was free, so that nobody could know."""
    with pooler.client() as good:
        good.ask(query("BEGIN"))
        bad = [pooler.client(DateStyle=f"bad{number}") for number in range(10)]
        good.ask(query("COMMIT"))
        assert_all_end(bad, good)


def assert_all_end(bad: list[WireClient], good: WireClient) -> None:
    with closing_all(bad):
        for client in bad:
            client.send(query("SELECT 1"))
        assert good.value("SELECT 1") == "1"
        for client in bad:
            said = client.read_to_end()
            assert codes(said) == "E"
            assert said[0].fields["C"] == "22023"
        assert good.value("SELECT 1") == "1"


def test_unknown_startup_parameters(make_pooler: MakePooler) -> None:
    pooler = make_pooler(ignore_startup_parameters="extra_float_digits")
    with pooler.client(extra_float_digits="3") as client:
        assert client.value("SELECT 1") == "1"
    with pooler.wire() as refused:
        refused.send(startup(USER, DATABASE, work_mem="1MB"))
        said = refused.read_fatal()
        assert said["M"] == "unsupported startup parameter: work_mem"


# SET and transactions


def test_set_and_rollback(pooler: Pooler) -> None:
    with pooler.client(TimeZone="UTC") as client, pooler.client() as other:
        for end in ("ROLLBACK", "SELECT 1/0"):
            client.ask(query("BEGIN"))
            client.ask(query("SET TimeZone = 'Asia/Tokyo'"))
            assert client.value("SHOW TimeZone") == "Asia/Tokyo"
            client.ask(query(end))
            client.ask(query("ROLLBACK"))
            assert client.value("SHOW TimeZone") == "UTC"
            assert client.parameters["TimeZone"] == "UTC"
            assert other.value("SHOW TimeZone") != "Asia/Tokyo"
        client.ask(query("BEGIN; SET TimeZone = 'Asia/Tokyo'; COMMIT"))
        assert other.value("SHOW TimeZone") != "Asia/Tokyo"
        assert client.value("SHOW TimeZone") == "Asia/Tokyo"


def test_set_local_and_reset(pooler: Pooler) -> None:
    with pooler.client(TimeZone="UTC") as client, pooler.client() as other:
        client.ask(query("BEGIN"))
        client.ask(query("SET LOCAL TimeZone = 'Asia/Tokyo'"))
        assert client.value("SHOW TimeZone") == "Asia/Tokyo"
        client.ask(query("COMMIT"))
        assert other.value("SELECT 1") == "1"
        assert client.value("SHOW TimeZone") == "UTC"
        client.ask(query("SET TimeZone = 'Asia/Tokyo'"))
        client.ask(query("RESET TimeZone"))
        back = client.parameters["TimeZone"]
        assert other.value("SELECT 1") == "1"
        assert client.value("SHOW TimeZone") == back


# track_extra_parameters


def test_extra_parameter_follows_the_client(make_pooler: MakePooler) -> None:
    pooler = make_pooler(
        default_pool_size=1, track_extra_parameters=f"IntervalStyle, {READ_ONLY}"
    )
    create = "CREATE TABLE read_only_test (); DROP TABLE read_only_test"
    with (
        pooler.connect(autocommit=True) as reader,
        pooler.client(**{READ_ONLY: "on"}) as other_reader,
        pooler.connect(autocommit=True) as writer,
    ):
        reader.execute(f"SET {READ_ONLY} = on")
        assert reader.info.parameter_status(READ_ONLY) == "on"
        for _ in range(3):
            writer.execute(create)
            with pytest.raises(errors.ReadOnlySqlTransaction):
                reader.execute(create)
            refused = other_reader.ask(query(create))
            assert refused[0].fields["C"] == "25006"


def test_extra_parameter_that_the_server_does_not_report(
    make_pooler: MakePooler,
) -> None:
    """Before PostgreSQL 18 nobody can say what search_path is: it is not followed."""
    pooler = make_pooler(default_pool_size=1, track_extra_parameters="search_path")
    with pooler.client(search_path="a, b") as one, pooler.client() as other:
        for _ in range(3):
            assert one.value("SELECT 1") == "1"
            assert other.value("SELECT 1") == "1"
