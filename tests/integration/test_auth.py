# SPDX-License-Identifier: MIT
"""Who may log in, how, and as whom towards the server."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pooler.demo.postgres import Postgres
from pooler.login.md5 import md5_secret
from pooler.login.scram import Verifier
from tests.integration.harness import (
    DATABASE,
    HOST,
    USER,
    InProcess,
    MakePooler,
    Pooler,
    backends,
    closing_all,
    wait_until,
)
from tests.wire_client import (
    GSSENC_REQUEST,
    SSL_REQUEST,
    ConnectionEnded,
    codes,
    message,
    startup,
    text,
)

pytestmark = pytest.mark.timeout(30)

PASSWORD = "pass wörd 'quoted' \\"
SECRETS = {
    "plain_user": PASSWORD,
    "md5_user": md5_secret(PASSWORD, "md5_user"),
    "scram_user": Verifier.from_password(PASSWORD, 4096).to_text(),
}
# auth_type to those who can log in with it, and what the others read
METHODS = {
    "plain": (tuple(SECRETS), "password authentication failed"),
    "md5": (tuple(SECRETS), "authentication failed"),
    "scram-sha-256": (("plain_user", "scram_user"), "SASL authentication failed"),
}
HBA = """
local all all trust
host all by_trust 127.0.0.1/32 trust
host all by_password 127.0.0.1/32 password
host all by_md5 127.0.0.1/32 md5
host all all 127.0.0.1/32 scram-sha-256
"""
SERVER_USERS = ("by_password", "by_md5", "by_scram", "by_scram_2")
SERVER_PASSWORD = "server secret"


@pytest.fixture(scope="module")
def secured() -> Iterator[Postgres]:
    """A server that asks for passwords."""
    with Postgres(hba=HBA) as server:
        for user in SERVER_USERS:
            kind = "md5" if user == "by_md5" else "scram-sha-256"
            server.psql(
                f"SET password_encryption = '{kind}';"
                f" CREATE ROLE {user} LOGIN PASSWORD '{SERVER_PASSWORD}'"
            )
        server.psql("CREATE ROLE by_trust LOGIN")
        yield server


def userlist(secrets: dict[str, str]) -> str:
    """The text of an auth_file."""
    lines = (
        " ".join('"{}"'.format(part.replace('"', '""')) for part in item)
        for item in secrets.items()
    )
    return "\n".join(lines) + "\n"


def user_of(pooler: Pooler, user: str, password: str = PASSWORD, **more: str) -> str:
    """Log in, and return who the server says that we are."""
    with pooler.connect(user=user, password=password, **more) as link:
        row = link.execute("SELECT current_user").fetchone()
        assert row is not None
        return str(row[0])


def refusal(pooler: Pooler, user: str, password: str = PASSWORD, **more: str) -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        user_of(pooler, user, password, **more)
    return str(caught.value)


# Clients


@pytest.mark.parametrize("method", METHODS)
def test_client_passwords(
    make_pooler: MakePooler, postgres: Postgres, method: str
) -> None:
    pooler = make_pooler(
        {DATABASE: f"user={USER}"}, userlist(SECRETS | {"gone": ""}), auth_type=method
    )
    welcome, complaint = METHODS[method]
    wrong = [(user, PASSWORD + "x") for user in SECRETS]
    wrong += [("nobody", PASSWORD), ("gone", PASSWORD)]
    wrong += [(user, PASSWORD) for user in SECRETS if user not in welcome]
    for user, password in wrong:
        said = refusal(pooler, user, password)
        assert complaint in said, (user, said)
        assert user not in said.partition("FATAL")[2]
    assert backends(postgres) == []  # nobody who failed has cost a server
    for user in welcome:
        assert user_of(pooler, user) == USER
        assert complaint in refusal(pooler, user, PASSWORD + "x")
    assert PASSWORD not in pooler.log()


def test_unknown_user_meets_the_same_questions(make_pooler: MakePooler) -> None:
    """Who exists is not to be learnt from how the login goes."""
    for method in METHODS:
        pooler = make_pooler(None, userlist({"known": "secret"}), auth_type=method)
        asked = []
        for user in ("known", "nobody"):
            with pooler.wire() as client:
                client.send(startup(user, DATABASE))
                asked.append(client.read())
        known, nobody = asked
        assert known.code == nobody.code == "R"
        assert known.body[:4] == nobody.body[:4]
        assert len(known.body) == len(nobody.body)


def test_empty_password(make_pooler: MakePooler) -> None:
    pooler = make_pooler(None, userlist({"known": "", USER: "x"}), auth_type="plain")
    for user in ("known", USER):
        with pooler.wire() as client:
            client.send(startup(user, DATABASE))
            assert client.read().code == "R"
            client.send(message("p", text("")))
            said = client.read_fatal()
            assert said["M"] == "empty password returned by client"
            assert said["C"] == "28P01"


def test_trust_knows_the_users_of_auth_file(make_pooler: MakePooler) -> None:
    pooler = make_pooler(None, userlist({USER: ""}), auth_type="trust")
    assert user_of(pooler, USER) == USER
    with pooler.wire() as client:
        client.send(startup("nobody", DATABASE))
        said = client.read_fatal()
        assert said["M"] == '"trust" authentication failed'
        assert said["C"] == "28000"


def test_any_knows_no_users(make_pooler: MakePooler) -> None:
    pooler = make_pooler(
        {DATABASE: f"user={USER}"}, userlist({"known": "x"}), auth_type="any"
    )
    assert user_of(pooler, "whoever") == USER
    assert user_of(pooler, "known", "wrong") == USER


def test_reload_of_auth_file_and_auth_type(make_pooler: MakePooler) -> None:
    databases = {DATABASE: f"user={USER}"}
    pooler = make_pooler(databases, userlist({"one": "1"}), auth_type="md5")
    with pooler.connect(user="one", password="1") as stays:
        pooler.userlist = userlist({"two": "2"})
        pooler.reload(auth_type="scram-sha-256")

        def two_comes_in() -> bool:
            try:
                return user_of(pooler, "two", "2") == USER
            except psycopg.OperationalError:
                return False

        wait_until(two_comes_in, "the worker has reloaded", 5)
        assert "SASL authentication failed" in refusal(pooler, "one", "1")
        with pytest.raises(psycopg.errors.AdminShutdown, match="user removed"):
            stays.execute("SELECT 1")


# Servers


@pytest.mark.parametrize("user", SERVER_USERS[:3])
def test_server_asks_for_a_password(
    make_pooler: MakePooler, secured: Postgres, user: str
) -> None:
    where = f"host={HOST} port={secured.port}"
    databases = {
        "postgres": where,
        "forced": f"{where} dbname=postgres user={user} password='{SERVER_PASSWORD}'",
        "wrong": f"{where} dbname=postgres user={user} password=wrong",
    }
    pooler = make_pooler(databases, userlist({user: SERVER_PASSWORD}))
    assert user_of(pooler, user, database="postgres") == user
    assert user_of(pooler, "somebody", database="forced") == user
    failed = f'password authentication failed for user "{user}"'
    first = refusal(pooler, "somebody", database="wrong")
    assert f"FATAL:  {failed}" in first
    pooler.wait_log(f"server login failed: FATAL {failed}")
    pooler.wait_log(f"closing because: {failed}", 2)  # of the server, of the client
    again = refusal(pooler, "somebody", database="wrong")
    assert failed in again
    assert "cached error" in again
    assert "(server_login_retry)" in again
    assert SERVER_PASSWORD not in pooler.log()


def test_tokens_of_64_kib(make_pooler: MakePooler, secured: Postgres) -> None:
    """From a client, in auth_file, in password=, and to servers."""
    token = "t'\"" + "k" * 65_527
    quoted = token.replace("'", "''")
    for user, kind in (("by_password", "scram-sha-256"), ("by_md5", "md5")):
        secured.psql(
            f"SET password_encryption = '{kind}'; ALTER ROLE {user} PASSWORD '{quoted}'"
        )
    where = f"host={HOST} port={secured.port} dbname=postgres"
    forced = f"{where} user=by_md5 password='{quoted}'"
    pooler = make_pooler(
        {"listed": where, "forced": forced},
        userlist({"by_password": token}),
        auth_type="plain",
    )
    for database, user in (("listed", "by_password"), ("forced", "by_md5")):
        assert user_of(pooler, "by_password", token, database=database) == user
    assert "failed" in refusal(pooler, "by_password", token[:-1], database="listed")
    assert token[:20] not in pooler.log()
    for user, kind in (("by_password", "scram-sha-256"), ("by_md5", "md5")):
        secured.psql(
            f"SET password_encryption = '{kind}';"
            f" ALTER ROLE {user} PASSWORD '{SERVER_PASSWORD}'"
        )


def test_server_that_wants_a_password_nobody_has(
    make_pooler: MakePooler, secured: Postgres
) -> None:
    pooler = make_pooler({"*": f"host={HOST} port={secured.port}"})
    with pooler.wire() as client:
        client.send(startup("by_scram", "postgres"))
        said = client.read_fatal()
        assert "server login failed" in said["M"]
        assert "password" in said["M"]


def stored(secured: Postgres) -> dict[str, str]:
    """The secrets that the server itself keeps."""
    names = ", ".join(f"'{user}'" for user in SERVER_USERS)
    return dict(
        secured.psql(
            f"SELECT rolname, rolpassword FROM pg_authid WHERE rolname IN ({names})"
        )
    )


def test_scram_pass_through(make_pooler: MakePooler, secured: Postgres) -> None:
    """The proof of the client opens the server; no password stands anywhere."""
    pooler = make_pooler(
        {"*": f"host={HOST} port={secured.port}"},
        userlist(stored(secured)),
        auth_type="scram-sha-256",
        default_pool_size=2,
        server_login_retry=0,
    )
    users = ("by_scram", "by_scram_2")
    for user in users:
        assert "SASL authentication failed" in refusal(
            pooler, user, "wrong", database="postgres"
        )
        assert user_of(pooler, user, SERVER_PASSWORD, database="postgres") == user
    # The keys are good for further servers of the same pool.
    with (
        pooler.connect("postgres", users[0], password=SERVER_PASSWORD) as one,
        pooler.connect("postgres", users[0], password=SERVER_PASSWORD) as two,
    ):
        pids = [
            link.execute("SELECT pg_backend_pid()").fetchone() for link in (one, two)
        ]
        assert pids[0] != pids[1]
    # After the server has thrown us out as well.
    secured.psql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE usename LIKE 'by_scram%'"
    )
    wait_until(lambda: pooler.log().count("server connection closed") >= 3)
    assert user_of(pooler, users[0], SERVER_PASSWORD, database="postgres") == users[0]


def test_keys_of_a_client_go_with_its_secret(
    make_pooler: MakePooler, secured: Postgres
) -> None:
    """What was proved by a secret that is no more opens no server."""
    pooler = make_pooler(
        {"*": f"host={HOST} port={secured.port}"},
        userlist(stored(secured)),
        auth_type="scram-sha-256",
        server_login_retry=0,
    )
    user = "by_scram"
    with pooler.connect("postgres", user, password=SERVER_PASSWORD) as stays:
        stays.autocommit = True
        assert stays.execute("SELECT 1").fetchone() == (1,)
        pooler.userlist = userlist({user: Verifier.from_password("new").to_text()})
        pooler.reload()

        def old_is_refused() -> bool:
            try:
                user_of(pooler, user, SERVER_PASSWORD, database="postgres")
            except psycopg.OperationalError as error:
                return "SASL authentication failed" in str(error)
            return False

        wait_until(old_is_refused, "the worker has reloaded", 5)
        secured.psql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE usename = '{user}'"
        )
        wait_until(lambda: "server connection closed" in pooler.log())
        with pytest.raises(psycopg.OperationalError, match="a hash that cannot answer"):
            stays.execute("SELECT 1")


def test_stored_secrets_without_a_scram_login(
    make_pooler: MakePooler, secured: Postgres
) -> None:
    """A md5 hash is as good as a password; a SCRAM secret opens nothing."""
    pooler = make_pooler(
        {"*": f"host={HOST} port={secured.port}"}, userlist(stored(secured))
    )
    assert user_of(pooler, "by_md5", database="postgres") == "by_md5"
    assert "server login failed" in refusal(pooler, "by_scram", database="postgres")


# PostgreSQL's words name the user, or it is we who could not answer it.
_IS_OF_SERVER = re.compile("server login failed|authentication failed for user")


# How a client proves itself (by the database it asks for), and with which secrets
# that works.
CLIENT_WAYS = {
    "trust": {"plain", "md5", "scram"},
    "password": {"plain", "md5", "scram"},
    "md5": {"plain", "md5", "scram"},
    "scram-sha-256": {"plain", "scram"},
}
# How the server asks, and which secrets answer it; "keys": a client's own SCRAM proof.
SERVER_WAYS = {
    "by_trust": {"plain", "md5", "scram", "keys"},
    "by_password": {"plain"},
    "by_md5": {"plain", "md5"},
    "by_scram": {"plain", "keys"},
}


@pytest.mark.parametrize("kind", ["plain", "md5", "scram"])
def test_every_secret_every_way(
    make_pooler: MakePooler, secured: Postgres, tmp_path: Path, kind: str
) -> None:
    """Methods of clients by methods of servers, also with a forced user."""
    other = Verifier.from_password(SERVER_PASSWORD, 4096).to_text()
    kept = stored(secured)
    secrets = {
        "plain": dict.fromkeys(SERVER_WAYS, SERVER_PASSWORD),
        "md5": {user: md5_secret(SERVER_PASSWORD, user) for user in SERVER_WAYS},
        "scram": {
            user: kept[user] if user == "by_scram" else other for user in SERVER_WAYS
        },
    }[kind]
    rules = tmp_path / "hba.conf"
    rules.write_text(
        "".join(f"host {way} all {HOST}/32 {way}\n" for way in CLIENT_WAYS)
        + f"host all forced {HOST}/32 trust\n"
    )
    where = f"host={HOST} port={secured.port} dbname=postgres"
    pooler = make_pooler(
        {
            **dict.fromkeys(CLIENT_WAYS, where),
            **{f"to_{user}": f"{where} user={user}" for user in SERVER_WAYS},
        },
        userlist({**secrets, "forced": ""}),
        auth_type="hba",
        auth_hba_file=rules,
    )

    def outcome(user: str, database: str) -> str:
        try:
            return user_of(pooler, user, SERVER_PASSWORD, database=database)
        except psycopg.OperationalError as error:
            return "server" if _IS_OF_SERVER.search(str(error)) else "client"

    for user, answers in SERVER_WAYS.items():
        for way, proves in CLIENT_WAYS.items():
            by_scram = kind == "scram" and way in ("md5", "scram-sha-256")
            opens = "keys" if by_scram else kind
            expected = user if opens in answers else "server"
            expected = expected if kind in proves else "client"
            assert outcome(user, way) == expected, (user, way)
        expected = user if kind in answers else "server"
        assert outcome("forced", f"to_{user}") == expected, user
    assert SERVER_PASSWORD not in pooler.log()


# Databases


def test_forced_user_is_one_pool_for_all(
    make_pooler: MakePooler, postgres: Postgres
) -> None:
    pooler = make_pooler({DATABASE: f"user={USER} pool_size=1"})
    for user in ("one", "two", "three"):
        assert user_of(pooler, user) == USER
        with pooler.client() as client:
            assert client.value("SELECT session_user") == USER
    assert len(backends(postgres)) == 1


def test_databases_with_and_without_a_fallback(make_pooler: MakePooler) -> None:
    named = {DATABASE: "", "alias": f"dbname={DATABASE}"}
    for databases in (
        named,
        {**named, "*": "user=app"},
        {**named, "*": "dbname=bench"},
    ):
        pooler = make_pooler(databases)
        with pooler.client("alias") as client:
            assert client.value("SELECT current_database()") == DATABASE
        with pooler.wire() as client:
            client.send(startup(USER, "nowhere"))
            if "*" not in databases:
                said = client.read_fatal()
                assert said["M"] == "no such database: nowhere"
                assert said["C"] == "3D000"
            elif "dbname" in databases["*"]:
                client.read_greeting()
                assert client.value("SELECT current_database()") == DATABASE
            else:
                said = client.read_fatal()
                assert 'database "nowhere" does not exist' in said["M"]
                assert said["C"] == "3D000"
        with pooler.client() as client:  # the others do not suffer
            assert client.value("SELECT 1") == "1"


def test_user_that_the_server_does_not_know(make_pooler: MakePooler) -> None:
    pooler = make_pooler()
    with pooler.wire() as client:
        client.send(startup("nobody_at_all", DATABASE))
        said = client.read_fatal()
        assert 'role "nobody_at_all" does not exist' in said["M"]
        assert said["C"] == "28000"


# Limits


@pytest.mark.parametrize("sslmode", ["disable", "prefer"])
def test_max_client_conn_of_all_workers(make_pooler: MakePooler, sslmode: str) -> None:
    limit = 6
    pooler = make_pooler(max_client_conn=limit, workers=2)

    def one_more_comes_in() -> bool:
        try:
            clients.append(pooler.client())
        except (AssertionError, ConnectionEnded):
            return False
        return True

    with closing_all([pooler.client() for _ in range(limit)]) as clients:
        for _ in range(10):
            with pooler.wire() as refused:
                refused.send(startup(USER, DATABASE))
                said = refused.read_fatal()
                assert said["C"] == "53300"
                assert said["M"] == "no more connections allowed (max_client_conn)"
        assert "max_client_conn" in refusal(pooler, USER, sslmode=sslmode)
        for client in clients:
            assert client.value("SELECT 1") == "1"
        for _ in range(3):
            clients.pop().close()
            wait_until(one_more_comes_in, "the place is free", 5)


# Encryption


@pytest.mark.parametrize(
    "requests",
    [
        (SSL_REQUEST,),
        (GSSENC_REQUEST,),
        (SSL_REQUEST, GSSENC_REQUEST),
        (GSSENC_REQUEST, SSL_REQUEST),
    ],
)
def test_no_encryption_yet(make_pooler: MakePooler, requests: tuple[bytes]) -> None:
    pooler = make_pooler()
    with pooler.wire() as client:
        for request in requests:
            client.send_split(request)
            assert client.read_exactly(1) == b"N"
        assert client.login(USER, DATABASE).value("SELECT 1") == "1"
    with pooler.connect(sslmode="prefer", gssencmode="disable") as link:
        assert link.execute("SELECT 1").fetchone() == (1,)
    assert "SSL" in refusal(pooler, USER, sslmode="require")


@pytest.mark.parametrize(
    ("request_bytes", "said"),
    [
        (SSL_REQUEST, "received unencrypted data after SSL request"),
        (
            GSSENC_REQUEST,
            "received unencrypted data after GSSAPI encryption request",
        ),
    ],
)
def test_bytes_glued_behind_a_request_for_encryption(
    make_pooler: MakePooler, request_bytes: bytes, said: str
) -> None:
    pooler = make_pooler()
    for glued in (b"\0", os.urandom(100), startup(USER, DATABASE), request_bytes):
        with pooler.wire() as client:
            client.send(request_bytes + glued)
            read = client.read_to_end()
            assert codes(read) == "E"
            assert read[0].fields["M"] == said


def test_a_client_that_is_gone_when_python_hears_of_it(
    worker_in_process: Callable[..., InProcess],
) -> None:
    """Its notice and that of its end come in one turn."""
    worker = worker_in_process()

    async def hear_of_nobody() -> None:
        worker.worker._admission.arrived(0xDEAD_0000_0000)

    asyncio.run_coroutine_threadsafe(hear_of_nobody(), worker.loop).result(10)
