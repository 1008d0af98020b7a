# SPDX-License-Identifier: MIT
"""The welcome of a login is PostgreSQL's own, word for word, whatever is asked for."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.fake_server import (
    READY,
    SELECT,
    FakeServer,
    error,
)
from tests.integration.harness import (
    DATABASE,
    USER,
    InProcess,
    MakePooler,
    Pooler,
    wait_until,
)
from tests.wire_client import (
    PROTOCOL_3_0,
    Message,
    WireClient,
    codes,
    message,
    query,
    startup,
    text,
)

pytestmark = pytest.mark.timeout(60)

LABEL = "application_name"
VALUES: dict[str, list[str | bytes]] = {
    "client_encoding": [
        *("utf8", "UTF-8", "unicode", "latin1", "sql_ascii", "SJIS", "koi8", "utf8 "),
        *("'UTF8'", "EUC_JIS_2004", "KLINGON", "", "MULE_INTERNAL", "mule_internal"),
    ],
    "TimeZone": [
        *("utc", "Utc", "EST5EDT", "+02", "<+03>-03", "Europe/berlin", "-7.5", "GMT0"),
        *("INTERVAL '3'", "Mars/Olympus", "", "default", "LOCAL", "it's \\", "é"),
    ],
    "DateStyle": [
        *("iso", "german", "iso, dmy", "SQL,DMY", "postgres", "dmy", "US", "iso, iso"),
        *("", "default", "nonsense", "iso, mdy, dmy", "é"),
    ],
    "IntervalStyle": [
        *("ISO_8601", "Postgres", "SQL_standard", "postgres_verbose", "'", "", "é"),
    ],
    "standard_conforming_strings": [
        *("ON", "true", "1", "off", "no", "f", "of", "o", "maybe", "", "é"),
    ],
    LABEL: [
        *("x" * 63, "x" * 64, "x" * 100, "naïve", b"\xff\xfe", "a" * 62 + "é"),
        *("é" * 40, "a" * 61 + "éé", "tab\t", "it's", "back\\slash", ""),
        *(b"\x80" * 70, b"x" * 62 + b"\xff\xff", b"\xf0" * 70, b"\xe2" * 64),
    ],
    "default_transaction_read_only": ["ON", "1", "f", "perhaps"],
}
ONE_EACH = [(name, value) for name, values in VALUES.items() for value in values]
MODES = ("transaction", "session", "statement")

Items = tuple[tuple[str, str | bytes], ...]


@pytest.fixture(scope="module", params=MODES)
def pooler(
    request: pytest.FixtureRequest,
    postgres: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pooler]:
    """One pooler of each mode, with one server."""
    settings: dict[str, object] = {
        "default_pool_size": 1,
        "pool_mode": request.param,
        "track_extra_parameters": "default_transaction_read_only",
    }
    directory = tmp_path_factory.mktemp(f"welcome-{request.param}")
    made = Pooler(directory, postgres.port, {}, settings)
    try:
        yield made.start()
    finally:
        made.finish()


def packet(user: str, items: Items) -> bytes:
    """A StartupMessage whose values may be any bytes, a name more than once."""
    body = b""
    for name, value in (("user", user), ("database", DATABASE), *items):
        raw = value.encode() if isinstance(value, str) else value
        body += name.encode() + b"\0" + raw + b"\0"
    body += b"\0"
    return struct.pack("!II", len(body) + 8, PROTOCOL_3_0) + body


def comparable(one: Message) -> tuple[str, bytes]:
    if one.code == "K":  # who it is differs, and must
        return one.code, b""
    if one.code in "EN":
        fields = one.body.split(b"\0")
        return one.code, b"\0".join(part for part in fields if part[:1] not in b"FLR")
    return one.code, one.body


def greeting(port: int, items: Items, user: str = USER) -> list[tuple[str, bytes]]:
    """What a login is told, sorted, up to ReadyForQuery or an error.

    Where a message comes from in the sources of PostgreSQL is left out.
    """
    said: list[Message] = []
    with WireClient(port) as client:
        client.send(packet(user, items))
        while not said or said[-1].code not in "ZE":
            said.append(client.read())
    return sorted(map(comparable, said))


@pytest.mark.parametrize(("name", "value"), ONE_EACH)
def test_welcome_of_one_value(
    pooler: Pooler, postgres: Postgres, name: str, value: str | bytes
) -> None:
    real = greeting(postgres.port, ((name, value),))
    for _ in range(2):  # who asks first, and who comes later
        assert greeting(pooler.port, ((name, value),)) == real


# Several values


TOGETHER: tuple[Items, ...] = (
    (("TimeZone", "utc"), ("DateStyle", "iso"), ("client_encoding", "latin1")),
    (("client_encoding", "utf-8"), ("IntervalStyle", "ISO_8601"), (LABEL, "é" * 40)),
    (("TIMEZONE", "europe/berlin"), ("datestyle", "sql")),
    (("timezone", "utc"), ("TimeZone", "europe/berlin")),
    (("options", "-c TimeZone=utc --datestyle=german"), ("TimeZone", "+05:30")),
    (("TimeZone", "Mars"), ("DateStyle", "bad"), (LABEL, "x" * 64)),
    (("DateStyle", "bad"), ("TimeZone", "Mars")),
    (("options", "-c TimeZone=Mars"), ("DateStyle", "bad")),
    (("DateStyle", "bad"), ("options", "-c TimeZone=Mars")),
    (("TimeZone", "utc"), ("DateStyle", "bad")),
    (("DateStyle", "SQL"), ("datestyle", "dmy"), ("DATESTYLE", "noneuropean")),
)


@pytest.mark.parametrize("items", TOGETHER)
def test_welcome_of_several_values(
    pooler: Pooler, postgres: Postgres, items: Items
) -> None:
    """The first that is refused is what the error is about, as in PostgreSQL."""
    real = greeting(postgres.port, items)
    for _ in range(2):
        assert greeting(pooler.port, items) == real


OWN_DEFAULTS = (
    ("role", "ALTER ROLE own_role SET DateStyle = 'SQL, DMY'"),
    ("database", f"ALTER ROLE own_database IN DATABASE {DATABASE} SET DateStyle = DMY"),
    ("zone", "ALTER ROLE own_zone SET TimeZone = 'Asia/Tokyo'"),
)


@pytest.mark.parametrize(("name", "sql"), OWN_DEFAULTS)
def test_a_role_with_its_own_default(
    pooler: Pooler, postgres: Postgres, name: str, sql: str
) -> None:
    """PostgreSQL reads the startup packet before it comes to the role's default."""
    user = f"own_{name}"
    exists = f"SELECT 1 FROM pg_roles WHERE rolname = '{user}'"
    if not postgres.psql(exists):
        postgres.psql(f"CREATE ROLE {user} LOGIN; {sql}")
    for items in ((), (("DateStyle", "iso"),), (("DateStyle", "dmy"),)):
        real = greeting(postgres.port, items, user)
        for _ in range(2):
            assert greeting(pooler.port, items, user) == real
        with WireClient(pooler.port).login(user, DATABASE, **dict(items)) as client:
            assert client.value("SHOW DateStyle") == client.parameters["DateStyle"]


def test_a_role_with_its_own_default_while_no_server_is_free(
    make_pooler: MakePooler, postgres: Postgres
) -> None:
    postgres.psql("CREATE ROLE own_busy LOGIN; ALTER ROLE own_busy SET DateStyle = DMY")
    pooler = make_pooler(default_pool_size=2)
    with WireClient(pooler.port).login("own_busy", DATABASE) as holder:
        holder.ask(query("BEGIN"))
        items = (("DateStyle", "iso"),)
        real = greeting(postgres.port, items, "own_busy")
        assert greeting(pooler.port, items, "own_busy") == real


# The first transaction


def test_a_login_does_not_wait_for_a_server_at_work(
    make_pooler: MakePooler, postgres: Postgres
) -> None:
    """What could not be asked is told with the first transaction, and then known.

    A part of a DateStyle is not completed by what the last client had.
    """
    pooler = make_pooler(default_pool_size=1)
    asked = {"DateStyle": "iso", "TimeZone": "utc", "client_encoding": "utf-8"}
    with (
        directly(postgres, **asked) as real,
        pooler.client(DateStyle="SQL, DMY", TimeZone="Asia/Tokyo") as holder,
    ):
        holder.ask(query("BEGIN"))
        assert holder.value("SHOW DateStyle") == "SQL, DMY"
        with pooler.client(**asked) as client:
            holder.ask(query("COMMIT"))
            assert client.ask(query("SELECT 1"))[-1].code == "Z"
            assert client.value("SHOW DateStyle") == real.value("SHOW DateStyle")
            assert client.parameters == real.parameters
        with pooler.client(**asked) as later:
            assert later.parameters == real.parameters


def directly(postgres: Postgres, **parameters: str) -> WireClient:
    """A client of PostgreSQL itself, to compare with."""
    return WireClient(postgres.port).login(USER, DATABASE, **parameters)


def test_what_a_first_transaction_has_shown_is_known(make_pooler: MakePooler) -> None:
    """Also where no server is ever idle when somebody logs in."""
    pooler = make_pooler(default_pool_size=1)
    asked = {"TimeZone": "utc", "IntervalStyle": "ISO_8601", LABEL: "é" * 40}
    words = {"TimeZone": "UTC", "IntervalStyle": "iso_8601", LABEL: "?" * 62}
    with pooler.client(TimeZone="Asia/Tokyo") as holder:
        for known in (False, True):
            holder.ask(query("BEGIN"))
            with pooler.client(**asked) as client:
                told = {name: client.parameters[name] for name in asked}
                assert told == (words if known else {**asked, LABEL: "?" * 62})
                holder.ask(query("COMMIT"))
                assert client.value("SHOW TimeZone") == "UTC"
                assert client.parameters["IntervalStyle"] == "iso_8601"


def test_a_bad_value_that_could_not_be_asked(make_pooler: MakePooler) -> None:
    """The login goes on; the first transaction ends it, and nobody else."""
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as holder:
        holder.ask(query("BEGIN"))
        with pooler.client(TimeZone="Mars/Olympus") as bad:
            bad.send(query("SELECT 1"))
            holder.ask(query("COMMIT"))
            said = bad.read_to_end()
            assert codes(said) == "E"
            assert said[0].fields["C"] == "22023"
        assert holder.value("SELECT 1") == "1"
        with pooler.wire() as later:
            later.send(packet(USER, (("TimeZone", "Mars/Olympus"),)))
            assert later.read_fatal()["C"] == "22023"


def test_what_is_told_is_what_the_server_has(pooler: Pooler) -> None:
    """For every client in turn over one server, and no SET is repeated."""
    asked = [{"DateStyle": style} for style in ("iso", "german", "SQL,DMY", "dmy")]
    clients = [pooler.client(**one) for one in asked]
    with contextlib.ExitStack() as stack:
        for client in clients:
            stack.enter_context(client)
        if pooler.settings["pool_mode"] == "session":
            return  # they would have to come one after the other
        for _ in range(2):
            for client in clients:
                told = client.parameters["DateStyle"]
                assert client.value("SHOW DateStyle") == told


def test_psycopg_reads_the_words_of_the_server(pooler: Pooler) -> None:
    with pooler.connect(
        client_encoding="utf8", options="-c TimeZone=utc -c DateStyle=iso"
    ) as connection:
        status = connection.info.parameter_status
        assert status("client_encoding") == "UTF8"
        assert status("TimeZone") == "UTC"
        assert status("DateStyle") == "ISO, MDY"


# A server that answers slowly, or not at all


ASKED = {"TimeZone": "utc"}


def shown_as(value: str) -> bytes:
    """The answer to a question."""
    row = struct.pack("!Hi", 1, len(value)) + value.encode()
    set_local = message("C", text("SET"))
    return set_local + message("D", row) + message("C", text("SELECT 1")) + READY


def is_question(asked: Message) -> bool:
    return asked.code == "Q" and b"set_config('TimeZone',E'utc',true)" in asked.body


def begin(worker: InProcess, **parameters: str) -> WireClient:
    client = WireClient(worker.port)
    client.send(startup(USER, DATABASE, **parameters))
    return client


def test_a_value_is_asked_for_once(worker: InProcess, server: FakeServer) -> None:
    with begin(worker, **ASKED) as one, begin(worker, **ASKED) as two:
        backend = server.accept().greet()
        assert is_question(backend.read())
        backend.send(shown_as("UTC"))
        for client in (one, two):
            assert client.read_greeting().parameters["TimeZone"] == "UTC"
        with begin(worker, **ASKED) as three:
            assert three.read_greeting().parameters["TimeZone"] == "UTC"
        one.send(SELECT)
        assert backend.answer().body == text("SELECT 1")  # it has that already


def test_a_server_that_is_lost_while_it_is_asked(
    worker: InProcess, server: FakeServer
) -> None:
    with begin(worker, **ASKED) as client:
        backend = server.accept().greet()
        assert is_question(backend.read())
        backend.close()
        assert client.read_greeting().parameters["TimeZone"] == "utc"
        with begin(worker, **ASKED) as other:  # no server: it does not wait for one
            assert other.read_greeting().parameters["TimeZone"] == "utc"


def test_a_server_that_does_not_answer(worker: InProcess, server: FakeServer) -> None:
    """The login goes on; what comes later is known to the next."""
    with begin(worker, **ASKED) as client:
        backend = server.accept().greet()
        assert is_question(backend.read())
        assert client.read_greeting().parameters["TimeZone"] == "utc"
        client.send(SELECT)
        backend.send(shown_as("UTC"))
        assert backend.answer().body.startswith(b"SET TimeZone=E'utc';")
        with begin(worker, **ASKED) as other:
            assert other.read_greeting().parameters["TimeZone"] == "UTC"
        backend.answer()
        client.read_until("Z")


def test_who_leaves_while_its_value_is_asked_for(
    worker: InProcess, server: FakeServer
) -> None:
    with begin(worker, **ASKED) as client, begin(worker, **ASKED) as other:
        backend = server.accept().greet()
        assert is_question(backend.read())
        client.reset()
        wait_until(lambda: worker.engine.client_count == 1, "it has left")
        backend.send(shown_as("UTC"))
        assert other.read_greeting().parameters["TimeZone"] == "UTC"


@pytest.mark.parametrize("sqlstate", ["57014", "53200", "42501", "XX000"])
def test_an_error_that_is_not_about_the_value(
    worker: InProcess, server: FakeServer, sqlstate: str
) -> None:
    """It refuses nobody, and is not remembered."""
    backend = None
    for _ in range(2):
        with begin(worker, **ASKED) as client:
            backend = backend or server.accept().greet()
            assert is_question(backend.read())
            backend.send(error("ERROR", sqlstate, "no"), READY)
            assert client.read_greeting().parameters["TimeZone"] == "utc"


def test_a_reload_forgets_what_was_learned(
    make_pooler: MakePooler, server: FakeServer
) -> None:
    """What was refused as well."""
    pooler = make_pooler(
        {"*": f"host=127.0.0.1 port={server.port}"}, default_pool_size=1
    )
    backend = None
    for number in range(2):
        for known in (False, True):
            with pooler.wire() as client, pooler.wire() as bad:
                client.send(startup(USER, DATABASE, **ASKED))
                backend = backend or server.accept().greet()
                if not known:
                    assert is_question(backend.read())
                    backend.send(shown_as("UTC"))
                assert client.read_greeting().parameters["TimeZone"] == "UTC"
                bad.send(startup(USER, DATABASE, TimeZone="Mars"))
                if not known:
                    assert b"E'Mars'" in backend.read().body
                    backend.send(error("ERROR", "22023", "bad TimeZone"), READY)
                assert bad.read_fatal()["M"] == "bad TimeZone"
        if number == 0:
            pooler.reload(ignore_startup_parameters="reloaded")
            wait_until(lambda: takes_over(pooler), "the worker has reloaded")


def takes_over(pooler: Pooler) -> bool:
    """Whether the worker ignores a parameter that only the new configuration names."""
    with pooler.wire() as client:
        client.send(startup(USER, DATABASE, reloaded="1"))
        return client.read().code == "R"
