# SPDX-License-Identifier: MIT
"""Every way to log in, in every way to connect, with every kind of password.

One table says what comes of it. Where PostgreSQL knows the method, it is asked as well.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import ssl
import time
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from pooler.demo.postgres import Postgres
from tests.certificates import Certificates
from tests.integration.harness import DATABASE, HOST, MakePooler
from tests.integration.harness import USER as SERVER_USER

pytestmark = pytest.mark.timeout(120)

DEADLINE_S = 20.0
KNOWN = "matrix_user"
EXPIRED = "matrix_expired"
UNKNOWN = "matrix_nobody"
SYSTEM_USER = pwd.getpwuid(os.getuid()).pw_name
RIGHT = "right pässword"
PASSWORDS = {
    "right": RIGHT,
    "wrong": "wrong",
    "empty": "",
    "too_long": "x" * 70_000,
    "unknown_user": RIGHT,
    "expired": RIGHT,
}
USERS = {"unknown_user": UNKNOWN, "expired": EXPIRED}
WAYS = ("clear", "asked", "direct")
DIRECT_TLS_LIBPQ = 170000
DIRECT_KINDS = ("right", "wrong")  # it is as TLS that was asked for

# Outcomes: an SQLSTATE, or one of these.
WORKS = ""
CLOSED = "closed"  # without a word, as PostgreSQL does with what is too long
BAD = "28P01"
NOT_YOU = "28000"
NO_TLS = "08P01"  # PgBouncer's; PostgreSQL finds no line in pg_hba.conf (28000)

ASKS_NOTHING = dict.fromkeys(PASSWORDS, WORKS)
ASKS = dict.fromkeys(PASSWORDS, BAD) | {"right": WORKS}
TABLE: dict[str, dict[str, str]] = {
    "any": ASKS_NOTHING,
    "trust": ASKS_NOTHING | {"unknown_user": NOT_YOU},
    "plain": ASKS | {"too_long": CLOSED},
    "md5": ASKS,
    "scram-sha-256": ASKS,
    "hba": ASKS,  # whose line says scram-sha-256
    "cert": ASKS_NOTHING | {"unknown_user": NOT_YOU, "expired": NOT_YOU},
    "peer": ASKS_NOTHING | {"unknown_user": NOT_YOU, "expired": NOT_YOU},
}
# What libpq says to each outcome.
WORDS = {
    BAD: ("password authentication failed", "SASL authentication failed"),
    NOT_YOU: ("authentication failed", "login rejected"),
    NO_TLS: ("SSL required",),
    CLOSED: ("closed the connection unexpectedly", "connection has been closed"),
}
UNSENT = "no password supplied"  # libpq sends no empty one
# The database of PostgreSQL (``SECURE_HBA``) that asks in the same way.
STRAIGHT = {
    "trust": DATABASE,
    "plain": "as_password",
    "md5": "as_md5",
    "scram-sha-256": "as_scram",
    "cert": "as_cert",
}


def expected(method: str, way: str, kind: str) -> str:
    return NO_TLS if (method, way) == ("cert", "clear") else TABLE[method][kind]


def tls_of(way: str, certificates: Certificates, shown: tuple[Path, Path]) -> Any:
    if way == "clear":
        return False
    context = certificates.client_context()
    context.load_cert_chain(*shown)
    if way == "direct":
        context.set_alpn_protocols(["postgresql"])
    return context


async def by_asyncpg(tls: ssl.SSLContext | bool, way: str, **login: Any) -> str:
    try:
        link = await asyncpg.connect(
            ssl=tls, direct_tls=way == "direct", timeout=20, **login
        )
    except asyncpg.ConnectionDoesNotExistError:
        return CLOSED
    except asyncpg.PostgresError as error:
        return str(error.sqlstate)
    except ConnectionError:
        return CLOSED
    try:
        assert await link.fetchval("SELECT 42") == 42
    finally:
        await link.close()
    return ""


async def all_are_closed() -> None:
    """asyncpg does not wait for the end of a connection that was refused."""
    connections = asyncio.get_running_loop()._selector.get_map()  # type: ignore[attr-defined]
    deadline = time.monotonic() + DEADLINE_S
    while len(connections) > 1:  # the loop's own
        assert time.monotonic() < deadline, list(connections)
        await asyncio.sleep(0.005)
    await asyncio.sleep(0)


async def by_libpq(way: str, shown: tuple[Path, Path], **login: Any) -> str:
    database = login.pop("database")
    more: dict[str, Any] = {"sslmode": "disable"}
    if way != "clear":
        more = {"sslmode": "require", "sslcert": shown[0], "sslkey": shown[1]}
    if way == "direct":
        more["sslnegotiation"] = "direct"
    try:
        link = await psycopg.AsyncConnection.connect(
            dbname=database, connect_timeout=20, **more, **login
        )
    except psycopg.OperationalError as error:
        return str(error)
    async with link:
        row = await (await link.execute("SELECT 42")).fetchone()
        assert row == (42,)
    return ""


def as_libpq_says(outcome: str, said: str, password: str) -> bool:
    """Whether libpq's text fits an outcome."""
    if outcome == WORKS:
        return said == ""
    if outcome == BAD and not password:
        return UNSENT in said
    return any(words in said for words in WORDS[outcome])


@pytest.fixture(scope="module")
def asking_postgres(secure_postgres: Postgres) -> Postgres:
    """Databases that ask in every way, and the users of the table."""
    for database in set(STRAIGHT.values()) - {DATABASE}:
        secure_postgres.psql(f"CREATE DATABASE {database}")
    for user, until in ((KNOWN, "infinity"), (EXPIRED, "2020-01-01")):
        secure_postgres.psql(
            f"SET password_encryption = 'scram-sha-256'; CREATE ROLE {user} LOGIN"
            f" PASSWORD '{RIGHT}' VALID UNTIL '{until}'"
        )
    return secure_postgres


@pytest.mark.parametrize("method", STRAIGHT)
def test_postgresql_answers_so(
    asking_postgres: Postgres,
    server_certificates: Certificates,
    tmp_path: Path,
    method: str,
) -> None:
    """The table is PostgreSQL's, as far as it knows the method."""
    shown = server_certificates.of_client(KNOWN, tmp_path)

    async def run() -> None:
        for way in ("asked",) if method == "cert" else ("clear", "asked"):
            for kind, password in PASSWORDS.items():
                got = await by_asyncpg(
                    tls_of(way, server_certificates, shown),
                    way,
                    host=HOST,
                    port=asking_postgres.port,
                    database=STRAIGHT[method],
                    user=USERS.get(kind, KNOWN),
                    password=password,
                )
                assert got == expected(method, way, kind), (way, kind)
        await all_are_closed()

    asyncio.run(run())


@pytest.mark.parametrize("method", TABLE)
def test_so_do_we(
    make_pooler: MakePooler,
    server_certificates: Certificates,
    asking_postgres: Postgres,
    tmp_path: Path,
    method: str,
) -> None:
    shown = server_certificates.of_client(KNOWN, tmp_path)
    rules = tmp_path / "hba.conf"
    rules.write_text("host all all all scram-sha-256\n")
    known = SYSTEM_USER if method == "peer" else KNOWN
    pooler = make_pooler(
        {DATABASE: f"user={SERVER_USER} host={HOST} port={asking_postgres.port}"},
        f'"{known}" "{RIGHT}"\n',
        auth_type=method,
        auth_hba_file=rules,
        unix_socket_dir=tmp_path if method == "peer" else "",
        client_tls_sslmode="verify-full" if method == "cert" else "allow",
        client_tls_cert_file=server_certificates.cert_file,
        client_tls_key_file=server_certificates.key_file,
        client_tls_ca_file=server_certificates.ca_file,
    )
    if method == "peer":
        pooler.host = str(tmp_path)

    async def ask(way: str, kind: str, password: str) -> None:
        login: dict[str, Any] = {
            "host": pooler.host,
            "port": pooler.port,
            "database": DATABASE,
            "user": USERS.get(kind, known),
            "password": password,
        }
        outcome = expected(method, way, kind)
        tls = tls_of(way, server_certificates, shown)
        assert await by_asyncpg(tls, way, **login) == outcome, (way, kind)
        if way != "direct" or psycopg.pq.version() >= DIRECT_TLS_LIBPQ:
            said = await by_libpq(way, shown, **login)
            assert as_libpq_says(outcome, said, password), (way, kind, said)

    async def run() -> None:
        for way in ("clear",) if method == "peer" else WAYS:
            for kind in DIRECT_KINDS if way == "direct" else PASSWORDS:
                if kind != "expired":  # an auth_file knows no dates
                    await ask(way, kind, PASSWORDS[kind])
        await all_are_closed()

    asyncio.run(run())


@pytest.mark.parametrize("method", ["plain", "scram-sha-256", "hba"])
def test_an_expired_password(
    make_pooler: MakePooler, asking_postgres: Postgres, tmp_path: Path, method: str
) -> None:
    """PostgreSQL knows the date; no secret is told after it (CVE-2025-2291)."""
    rules = tmp_path / "hba.conf"
    rules.write_text("host all all all scram-sha-256\n")
    pooler = make_pooler(
        {DATABASE: f"user={SERVER_USER} host={HOST} port={asking_postgres.port}"},
        '"postgres" ""\n',
        auth_user="postgres",
        auth_type=method,
        auth_hba_file=rules,
    )
    login = {"host": HOST, "port": pooler.port, "database": DATABASE}

    async def run() -> None:
        for user, outcome in ((KNOWN, WORKS), (EXPIRED, BAD)):
            given = {**login, "user": user, "password": RIGHT}
            assert await by_asyncpg(False, "clear", **given) == outcome
        await all_are_closed()

    asyncio.run(run())
