# SPDX-License-Identifier: MIT
"""auth_query: users that auth_file does not know, as a database does."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pooler.config.settings import SQL_AUTH_QUERY
from pooler.demo.postgres import Postgres
from pooler.login.md5 import md5_secret
from tests.certificates import make_certificates
from tests.integration.harness import HOST, MakePooler, Pooler, wait_until
from tests.wire_client import message, startup, text

pytestmark = pytest.mark.timeout(60)

PASSWORD = "pass wörd 'quoted' \\"
ASKER = "asker"
LAZY_S = 0.3  # how long the server thinks about some users
ODD = "o'd\"d \\ ü"
HBA = f"""
local all all trust
host all {ASKER} {HOST}/32 md5
host all by_md5,changing,copier {HOST}/32 md5
host all all {HOST}/32 scram-sha-256
"""
# Who may look secrets up, as documented; it tells us how often it was asked.
SETUP = f"""
CREATE ROLE {ASKER} LOGIN;
CREATE ROLE fallen LOGIN PASSWORD 'fallen';
CREATE SCHEMA auth;
GRANT USAGE ON SCHEMA auth TO {ASKER};
CREATE TABLE auth.asked (who text, path text, encoding text);
CREATE TABLE auth.nothing (a text);
GRANT ALL ON auth.nothing TO {ASKER};
CREATE FUNCTION auth.lookup(who text, OUT name text, OUT secret text)
RETURNS SETOF record LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  INSERT INTO auth.asked VALUES (
    who, current_setting('search_path'), current_setting('client_encoding'));
  IF who LIKE 'slow%' THEN PERFORM pg_catalog.pg_sleep(30); END IF;
  IF who LIKE 'lazy%' THEN PERFORM pg_catalog.pg_sleep({LAZY_S}); END IF;
  RETURN QUERY SELECT rolname::text,
    CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL ELSE rolpassword END
    FROM pg_catalog.pg_authid WHERE rolname = who AND rolcanlogin;
END $$;
REVOKE EXECUTE ON FUNCTION auth.lookup(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auth.lookup(text) TO {ASKER};
"""
LOOKUP = "SELECT name, secret FROM auth.lookup($1)"
# Entries of [databases]: what they say beside host and port, or their own query.
ENTRIES = {
    "postgres": "",
    "alias": "dbname=postgres auth_dbname=postgres",
    "nobody_there": "dbname=postgres auth_user=unknown_asker",
    "wrong_asker": "dbname=postgres auth_user=fallen",
    "nowhere": "dbname=postgres auth_dbname=not_configured",
    "dead": "dbname=postgres auth_dbname=dead_database",
    "dead_database": f"host={HOST} port=1",
}
QUERIES = {
    "default_query": SQL_AUTH_QUERY,
    "as_another": "SELECT 'by_md5'::name, 'secret'::bytea WHERE $1 > ''",
    "two_rows": "SELECT $1, 'x' UNION ALL SELECT 'by_scram', 'secret'",
    "one_column": "SELECT $1::text",
    "three_columns": "SELECT 'by_scram', 'secret', $1::text",
    "null_name": "SELECT NULL, $1::text",
    "no_rows": "DELETE FROM auth.nothing WHERE a = $1",
    "no_value": "SELECT 'by_scram', 'secret'",
    "broken": "SELECT nothing($1)",
}


@pytest.fixture(scope="module")
def secured() -> Iterator[Postgres]:
    """A server that asks for passwords, with users of every kind."""
    with Postgres(hba=HBA) as server:
        server.psql(SETUP)
        add_user(server, ASKER, kind="md5", create="ALTER")
        add_user(server, "root_asker", more="SUPERUSER")
        add_user(server, "by_md5", kind="md5")
        for user in ("by_scram", "lazy_one", "slow_one", ODD):
            add_user(server, user)
        add_user(server, "copier", kind="md5", more="REPLICATION")
        add_user(server, "expired", more="VALID UNTIL '2000-01-01'")
        server.psql("CREATE ROLE no_password LOGIN")
        yield server


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def add_user(
    server: Postgres,
    user: str,
    password: str = PASSWORD,
    *,
    kind: str = "scram-sha-256",
    create: str = "CREATE",
    more: str = "",
) -> None:
    literal = "'" + password.replace("'", "''") + "'"
    server.psql(
        f"SET password_encryption = '{kind}';"
        f" {create} ROLE {quoted(user)} LOGIN PASSWORD {literal} {more}"
    )


def asked(server: Postgres, who: str) -> int:
    [(count,)] = server.psql(f"SELECT count(*) FROM auth.asked WHERE who = '{who}'")
    return int(count)


def userlist() -> str:
    """auth_file knows who asks, one of them by a hash, and nobody else."""
    return (
        f'"{ASKER}" "{md5_secret(PASSWORD, ASKER)}"\n'
        f'"root_asker" "{PASSWORD}"\n"fallen" "wrong"\n'
    )


def databases(secured: Postgres) -> dict[str, str]:
    where = f"host={HOST} port={secured.port}"
    entries = {
        name: entry if "host=" in entry else f"{where} {entry}"
        for name, entry in ENTRIES.items()
    }
    for name, sql in QUERIES.items():
        user = "root_asker" if sql == SQL_AUTH_QUERY else ASKER
        doubled = sql.replace("'", "''")
        entries[name] = (
            f"{where} dbname=postgres auth_user={user} auth_query='{doubled}'"
        )
    return entries


SETTINGS = {
    "auth_type": "md5",
    "auth_user": ASKER,
    "auth_query": LOOKUP,
    "default_pool_size": 4,
}


def start(make_pooler: MakePooler, secured: Postgres, **settings: Any) -> Pooler:
    return make_pooler(databases(secured), userlist(), **{**SETTINGS, **settings})


@pytest.fixture(scope="module")
def pooler_with(
    secured: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Pooler]]:
    """One pooler of each ``auth_type``, for all tests that need no other settings."""
    made: dict[str, Pooler] = {}

    def make(method: str) -> Pooler:
        if method not in made:
            made[method] = Pooler(
                tmp_path_factory.mktemp("pooler"),
                secured.port,
                databases(secured),
                {**SETTINGS, "auth_type": method},
                userlist(),
            )
            made[method].start()
        return made[method]

    yield make
    for pooler in made.values():
        pooler.finish()


def log_in(pooler: Pooler, user: str, password: str = PASSWORD, **more: Any) -> str:
    """Log in; what came of it: who we are for the server, or what we have heard."""
    options = {"database": "postgres", "password": password, **more}
    try:
        with pooler.connect(user=user, **options) as link:
            row = link.execute("SELECT session_user").fetchone()
            assert row is not None
            return str(row[0])
    except psycopg.OperationalError as error:
        return str(error).partition("FATAL:  ")[2].strip()


FAILED = {
    "plain": "password authentication failed",
    "md5": "password authentication failed",
    "scram-sha-256": "SASL authentication failed",
}


# Who can be let in by a secret of the server's, and then comes in there with it.
WELCOME = {
    # the proof is the password: it gives no keys for a server that wants SCRAM
    "plain": ("by_md5",),
    "md5": ("by_md5", "by_scram", ODD),
    "scram-sha-256": ("by_scram", ODD),
}


@pytest.mark.parametrize("method", FAILED)
def test_secrets_of_every_kind(
    pooler_with: Callable[[str], Pooler], secured: Postgres, method: str
) -> None:
    pooler = pooler_with(method)
    for user in WELCOME[method]:
        assert log_in(pooler, user) == user
    wrong = {(user, PASSWORD + "x") for user in ("by_scram", "by_md5", ODD)}
    wrong |= {(user, PASSWORD) for user in ("nobody", "expired", "no_password")}
    for user, password in wrong:
        said = log_in(pooler, user, password)
        # md5 asks users with a SCRAM secret by SCRAM
        assert said in (FAILED[method], FAILED["scram-sha-256"]), (user, said)
    log = pooler.log()
    assert "no such user" in log
    assert "the user has no password" in log
    assert PASSWORD not in log
    assert "SCRAM-SHA-256$" not in log


def test_known_and_unknown_are_asked_alike(
    pooler_with: Callable[[str], Pooler], secured: Postgres
) -> None:
    pooler = pooler_with("scram-sha-256")
    first = message(
        "p", text("SCRAM-SHA-256") + (12).to_bytes(4, "big") + b"n,,n=,r=abcd"
    )
    heard = []
    for user in ("by_scram", "nobody"):
        with pooler.wire() as client:
            client.send(startup(user, "postgres"), first)
            heard.append([client.read(), client.read()])
    known, nobody = heard
    assert known[0] == nobody[0]
    assert len(known[1].body) == len(nobody[1].body)


def test_over_tls_and_for_replication(
    make_pooler: MakePooler, secured: Postgres, tmp_path: Path
) -> None:
    certificates = make_certificates(tmp_path / "tls")
    pooler = start(
        make_pooler,
        secured,
        client_tls_sslmode="require",
        client_tls_cert_file=certificates.cert_file,
        client_tls_key_file=certificates.key_file,
    )
    for user in ("by_md5", "by_scram"):
        assert log_in(pooler, user, sslmode="require") == user
    options: dict[str, Any] = {"replication": "database", "sslmode": "require"}
    with pooler.connect("postgres", "copier", password=PASSWORD, **options) as link:
        assert link.info.parameter_status("is_superuser") == "off"
        assert secured.psql(
            "SELECT backend_type FROM pg_stat_activity WHERE usename = 'copier'"
        ) == [("walsender",)]
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        pooler.connect("postgres", "copier", password="wrong", **options)


def test_a_new_password_counts_at_once(
    pooler_with: Callable[[str], Pooler], secured: Postgres
) -> None:
    """As does whatever else may happen to a role."""
    pooler = pooler_with("md5")
    assert log_in(pooler, "changing", "one") == FAILED["md5"]
    create = "CREATE"
    for kind in ("scram-sha-256", "md5", "scram-sha-256"):
        add_user(secured, "changing", "one", kind=kind, create=create)
        assert log_in(pooler, "changing", "one") == "changing"
        create = "ALTER"
        add_user(secured, "changing", "two", kind=kind, create=create)
        assert "authentication failed" in log_in(pooler, "changing", "one")
        assert log_in(pooler, "changing", "two") == "changing"
        for more, again in (
            ("VALID UNTIL '2000-01-01'", "VALID UNTIL 'infinity'"),
            ("NOLOGIN", "LOGIN"),
        ):
            secured.psql(f"ALTER ROLE changing {more}")
            assert "authentication failed" in log_in(pooler, "changing", "two")
            secured.psql(f"ALTER ROLE changing {again}")
    # New servers are logged in to by the new secret.
    secured.psql(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE usename = 'changing'"
    )
    add_user(secured, "changing", "three", kind="md5", create=create)
    assert log_in(pooler, "changing", "three") == "changing"


def test_a_role_that_is_made_anew_gets_no_server_of_the_old_one(
    pooler_with: Callable[[str], Pooler], secured: Postgres
) -> None:
    """PostgreSQL knows a session's role by its number, not by its name."""
    pooler = pooler_with("md5")
    for password in ("one", "two", "two"):
        add_user(secured, "reborn", password)
        for _ in range(2):
            assert log_in(pooler, "reborn", password) == "reborn"
        secured.psql("DROP ROLE reborn")
        assert log_in(pooler, "reborn", password) == FAILED["md5"]
    add_user(secured, "reborn")
    with pooler.connect("postgres", "reborn", password=PASSWORD) as stays:
        [(backend,)] = stays.execute("SELECT pg_backend_pid()").fetchall()
        assert log_in(pooler, "reborn") == "reborn"
        # Nothing has changed, so nothing is opened anew.
        assert stays.execute("SELECT pg_backend_pid()").fetchall() == [(backend,)]


def test_what_a_query_may_answer(
    pooler_with: Callable[[str], Pooler], secured: Postgres
) -> None:
    pooler = pooler_with("plain")

    def said(database: str, user: str = "whoever", password: str = "secret") -> str:
        return log_in(pooler, user, password, database=database)

    # Columns of another type, and a name that the server is told instead.
    assert said("as_another", "whoever", r"\x736563726574") == WRONG_SERVER_PASSWORD
    answers = dict.fromkeys(QUERIES, "bouncer config error")
    del answers["default_query"], answers["as_another"]
    answers |= dict.fromkeys(("nobody_there", "wrong_asker", "dead"), "cannot connect")
    answers["nowhere"] = "bouncer config error"
    for database, answer in answers.items():
        assert said(database) == answer, database
        assert said(database, "by_md5", PASSWORD) == answer, database
    for why in (
        "it returns more than one row",
        "it returns no rows",
        "expected 2 columns from auth_query, not 1",
        "expected 2 columns from auth_query, not 3",
        "auth_query response contained null user name",
        "error response from auth_query: function nothing(unknown) does not exist",
        'authentication database "not_configured" is not configured',
        'password authentication failed for user "fallen"',
        "(server_login_retry)",
        "connect failed: Connection refused",
    ):
        assert why in pooler.log()
    # The others do not suffer, and names are only values.
    assert said("postgres", "by_md5", PASSWORD) == "by_md5"
    assert said("alias", "by_md5", PASSWORD) == "by_md5"
    for name in ("'; DROP ROLE by_md5; --", "$1", "\\", "a\tb", '"', "x" * 100):
        assert said("postgres", name) == FAILED["plain"], name
    assert said("default_query", "by_md5", PASSWORD) == "by_md5"
    assert said("default_query", "expired", PASSWORD) == FAILED["plain"]
    assert said("default_query", "nobody", PASSWORD) == FAILED["plain"]


WRONG_SERVER_PASSWORD = 'password authentication failed for user "by_md5"'


def test_a_name_that_is_no_text(
    pooler_with: Callable[[str], Pooler], secured: Postgres
) -> None:
    pooler = pooler_with("plain")
    with pooler.wire() as client:
        client.send(startup("by_XX", "postgres").replace(b"XX", b"\xff\xfe"))
        assert client.read().code == "R"
        client.send(message("p", text(PASSWORD)))
        assert client.read_fatal()["M"] == FAILED["plain"]


def test_nothing_of_a_client_reaches_the_question(
    make_pooler: MakePooler, secured: Postgres
) -> None:
    """CVE-2025-12819: a search_path from the startup packet."""
    secured.psql(
        "CREATE SCHEMA IF NOT EXISTS evil; CREATE OR REPLACE FUNCTION"
        " evil.md5(text) RETURNS text LANGUAGE sql AS $$ SELECT 'evil' $$"
    )
    pooler = start(
        make_pooler, secured, auth_type="md5", track_extra_parameters="search_path"
    )
    before = asked(secured, "by_md5")
    with pooler.connect(
        "postgres",
        "by_md5",
        password=PASSWORD,
        options="-c search_path=evil,pg_catalog",
        client_encoding="latin1",
        application_name="evil",
    ) as link:
        assert link.execute("SELECT current_user").fetchone() == ("by_md5",)
    with pooler.wire() as client:
        client.send(startup("by_md5", "postgres", search_path="evil"))
        assert client.read().code == "R"
    assert asked(secured, "by_md5") == before + 2
    assert secured.psql("SELECT DISTINCT path, encoding FROM auth.asked") == [
        ("pg_catalog, public", "SQL_ASCII")
    ]
    names = secured.psql(
        "SELECT DISTINCT application_name FROM pg_stat_activity"
        f" WHERE usename = '{ASKER}'"
    )
    assert names == [("auth_query",)]


def test_behind_another_pooler(make_pooler: MakePooler, secured: Postgres) -> None:
    """Which takes no search_path at its login, and shares its servers."""
    where = f"host={HOST} port={secured.port} dbname=postgres"
    other = make_pooler({"postgres": where}, userlist(), auth_type="trust")
    pooler = make_pooler(
        {
            "postgres": f"{where} auth_dbname=beyond",
            "beyond": f"host={HOST} port={other.port} dbname=postgres",
        },
        userlist(),
        auth_type="md5",
        auth_user=ASKER,
        auth_query=LOOKUP,
    )
    count = asked(secured, "by_md5")
    assert log_in(pooler, "by_md5") == "by_md5"
    assert asked(secured, "by_md5") == count + 1
    with other.connect("postgres", ASKER) as link:
        row = link.execute("SHOW search_path").fetchone()
        assert row == ('"$user", public',)  # nothing is left in its server


def storm(pooler: Pooler, user: str, count: int) -> tuple[list[str], float]:
    """Log in many times at once; what came of it, and the seconds that it took."""
    ends: list[str] = []
    threads = [
        threading.Thread(target=lambda: ends.append(log_in(pooler, user)))
        for _ in range(count)
    ]
    began_s = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends, time.monotonic() - began_s


@pytest.mark.parametrize(
    ("user", "end"), [("lazy_one", "lazy_one"), ("lazy_two", FAILED["md5"])]
)
def test_many_at_once_are_few_questions(
    pooler_with: Callable[[str], Pooler], secured: Postgres, user: str, end: str
) -> None:
    """One is on its way at a time, each for all who came before it."""
    ends, seconds = storm(pooler_with("md5"), user, 20)
    assert ends == [end] * 20
    assert 2 <= asked(secured, user) <= 2 + seconds / LAZY_S


def test_a_question_that_takes_long_is_in_nobodys_way(
    pooler_with: Callable[[str], Pooler], secured: Postgres
) -> None:
    pooler = pooler_with("md5")
    with pooler.wire() as slow, pooler.wire() as leaves:
        slow.send(startup("slow_one", "postgres"))
        leaves.send(startup("slow_two", "postgres"))
        wait_until(lambda: len(active_questions(secured)) == 2, "both are asked")
        leaves.close()
        assert log_in(pooler, "by_md5") == "by_md5"
        assert len(active_questions(secured)) == 2
        secured.psql(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
            f" WHERE state = 'active' AND usename = '{ASKER}'"
        )
        assert slow.read_fatal()["M"] == "bouncer config error"
    pooler.wait_log("canceling statement due to user request")
    assert log_in(pooler, "by_md5") == "by_md5"


def test_a_question_that_takes_too_long(
    make_pooler: MakePooler, secured: Postgres
) -> None:
    pooler = start(make_pooler, secured, auth_query_timeout=0.5)
    with pooler.wire() as slow:
        slow.send(startup("slow_one", "postgres"))
        said = slow.read_fatal()
        assert (said["M"], said["C"]) == ("auth_query timeout", "57014")
    pooler.wait_log("auth_query_timeout")
    # Nor does the server go on with it.
    wait_until(lambda: not active_questions(secured), "the server has stopped")


def active_questions(server: Postgres) -> list[Any]:
    return server.psql(
        "SELECT query FROM pg_stat_activity WHERE state = 'active'"
        f" AND usename = '{ASKER}'"
    )


def test_a_lost_connection_is_opened_again(
    pooler_with: Callable[[str], Pooler], secured: Postgres
) -> None:
    pooler = pooler_with("md5")
    assert log_in(pooler, "by_md5") == "by_md5"
    count = pooler.log().count("for auth_query")
    for _ in range(3):
        assert log_in(pooler, "by_md5") == "by_md5"
        secured.psql(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            f" WHERE usename = '{ASKER}'"
        )
    assert log_in(pooler, "by_md5") == "by_md5"
    assert pooler.log().count("for auth_query") == count + 3


def test_answers_are_kept_if_that_is_wanted(
    make_pooler: MakePooler, secured: Postgres
) -> None:
    pooler = start(
        make_pooler, secured, auth_query_cache_ttl=600, auth_query_negative_ttl=600
    )
    count = asked(secured, "by_scram")
    for _ in range(3):
        assert log_in(pooler, "by_scram") == "by_scram"
        assert log_in(pooler, "unheard_of") == FAILED["md5"]
    assert asked(secured, "by_scram") == count + 1
    assert asked(secured, "unheard_of") == 1
    # A wrong password may be a new one.
    assert log_in(pooler, "by_scram", "wrong") == FAILED["scram-sha-256"]
    assert log_in(pooler, "by_scram") == "by_scram"
    assert asked(secured, "by_scram") == count + 2
    pooler.reload(auth_query_cache_ttl=300)
    wait_until(
        lambda: log_in(pooler, "unheard_of") and asked(secured, "unheard_of") == 2,
        "a reload forgets",
    )
    assert log_in(pooler, "by_scram") == "by_scram"
    assert asked(secured, "by_scram") == count + 3


def test_lines_of_hba_and_users_without_a_secret(
    make_pooler: MakePooler, secured: Postgres, tmp_path: Path
) -> None:
    rules = tmp_path / "hba.conf"
    rules.write_text(
        f"host all no_password,expired,nobody {HOST}/32 trust\n"
        f"host all by_scram {HOST}/32 scram-sha-256\n"
        f"host all by_md5 {HOST}/32 reject\n"
    )
    pooler = start(make_pooler, secured, auth_type="hba", auth_hba_file=rules)
    before = asked(secured, "by_md5")
    assert log_in(pooler, "by_scram") == "by_scram"
    assert log_in(pooler, "by_md5") == "login rejected"
    assert asked(secured, "by_md5") == before  # nobody is asked about those
    # Who has no secret is somebody, all the same.
    assert "asks user" in log_in(pooler, "no_password")
    assert log_in(pooler, "nobody") == "no such user"


def test_the_documented_role(make_pooler: MakePooler, secured: Postgres) -> None:
    """It finds users, and may do nothing else."""
    page = (Path(__file__).parents[2] / "docs" / "authentication.md").read_text()
    _, page = page.split("### A role that may do this and nothing else")
    sql, ini = re.findall(r"```(?:sql|ini)\n(.*?)```", page, re.DOTALL)[:2]
    secured.psql(sql)
    said = dict(re.findall(r"^(auth_\w+) = (.*)$", ini, re.MULTILINE))
    pooler = make_pooler(
        {
            "shop": f"host={HOST} port={secured.port} dbname=postgres",
            "postgres": f"host={HOST} port={secured.port}",
        },
        '"pooler_auth" "change me"\n',
        **{name: said[name] for name in said if name != "auth_file"},
    )
    assert log_in(pooler, "by_scram", database="shop") == "by_scram"
    for nobody in ("expired", "no_password", "root_asker", "nobody"):
        assert log_in(pooler, nobody, database="shop") == FAILED["scram-sha-256"]
    with psycopg.connect(
        host=HOST,
        port=secured.port,
        dbname="postgres",
        user="pooler_auth",
        password="change me",
        autocommit=True,
    ) as link:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            link.execute("SELECT rolpassword FROM pg_authid")
    with psycopg.connect(
        host=HOST,
        port=secured.port,
        dbname="postgres",
        user="by_scram",
        password=PASSWORD,
        autocommit=True,
    ) as link:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            link.execute("SELECT pooler_auth.lookup('by_md5')")
