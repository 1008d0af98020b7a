# SPDX-License-Identifier: MIT
"""Passwords that a real LDAP server judges, in every way that options can say."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pooler.demo.postgres import Postgres
from tests.certificates import make_certificates
from tests.integration.directory_server import (
    OTHER_HOST,
    PEOPLE,
    READER,
    READER_PASSWORD,
    SUFFIX,
    Slapd,
    is_installed,
)
from tests.integration.harness import (
    DATABASE,
    HOST,
    USER,
    Pooler,
    free_port,
    refused_start,
    wait_until,
)
from tests.wire_client import ConnectionEnded, WireClient, message, startup, text

pytestmark = [pytest.mark.full, pytest.mark.timeout(60)]

PASSWORD = 'pass wörd "quoted" \\'
SERVER_USER = "kim"  # PostgreSQL has the same password for her
LONG_PASSWORD = "x" * 65_000
PEOPLE_PASSWORDS = {
    "joe": PASSWORD,
    SERVER_USER: PASSWORD,
    "long": LONG_PASSWORD,
    "smith, john": PASSWORD,
    "müller": PASSWORD,
}
BY_NAME = f'ldapprefix="uid=" ldapsuffix=",{PEOPLE}"'
BY_SEARCH = f'ldapbasedn="{PEOPLE}"'


@dataclass
class Outside:
    """A pooler, and what it asks."""

    pooler: Pooler
    directory: Slapd
    referral: socket.socket
    silent: socket.socket


def ways(port: int, tls_port: int, dead: int, silent: int) -> dict[str, str]:
    """Options by the name of the database that they are for."""
    here = f"ldapserver={HOST} ldapport={port}"
    reader = f'ldapbinddn="{READER}" ldapbindpasswd="{READER_PASSWORD}"'
    return {
        "by_name": f"{here} {BY_NAME}",
        "search": f"{here} {BY_SEARCH}",
        "search_mail": f"{here} {BY_SEARCH} ldapsearchattribute=mail",
        "filter": f'{here} {BY_SEARCH} ldapsearchfilter="(|(uid=$username)'
        '(mail=$username))"',
        "url": f'ldapurl="ldap://{HOST}:{port}/{SUFFIX}?uid?sub"',
        "base_url": f'ldapurl="ldap://{HOST}:{port}/{SUFFIX}?uid"',
        "reader": f'{here} ldapbasedn="{SUFFIX}" {reader}',
        "everywhere": f'{here} ldapbasedn="{SUFFIX}"',
        "bad_reader": f'{here} {BY_SEARCH} ldapbinddn="{READER}" ldapbindpasswd=no',
        "start_tls": f"{here} ldaptls=1 {BY_NAME}",
        "ldaps": f"ldapserver={HOST} ldapport={tls_port} ldapscheme=ldaps {BY_NAME}",
        "other_name": f"ldapserver={OTHER_HOST} ldapport={port} ldaptls=1 {BY_NAME}",
        "referral": f'{here} ldapbasedn="ou=elsewhere,{SUFFIX}"',
        "dead": f"ldapserver={HOST} ldapport={dead} {BY_NAME}",
        # Every server of the list has the one port: nobody listens at the first.
        "second": f'ldapserver="127.0.0.3 {HOST}" ldapport={port} {BY_NAME}',
        "silent": f"ldapserver={HOST} ldapport={silent} {BY_NAME}",
        "silent_tls": f"ldapserver={HOST} ldapport={silent} ldapscheme=ldaps {BY_NAME}",
    }


def listener() -> socket.socket:
    """A server that takes connections and says nothing."""
    made = socket.socket()
    made.bind((HOST, 0))
    made.listen(50)
    return made


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    hba = (
        f"host all {USER} 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
    )
    with Postgres(hba=hba) as made:
        made.psql(f"CREATE ROLE {USER} LOGIN")
        quoted = PASSWORD.replace("'", "''")
        made.psql(f"CREATE ROLE {SERVER_USER} LOGIN PASSWORD '{quoted}'")
        made.psql(f"CREATE DATABASE {DATABASE}")
        yield made


@pytest.fixture(scope="module")
def outside(
    server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outside]:
    assert is_installed(), "slapd is missing: run dev/full_tools.sh"
    folder = tmp_path_factory.mktemp("ldap")
    certificates = make_certificates(folder / "tls", HOST)
    with contextlib.ExitStack() as ends:
        referral, silent = (ends.enter_context(listener()) for _ in range(2))
        directory = Slapd(
            folder / "slapd",
            certificates,
            PEOPLE_PASSWORDS,
            f"ldap://{HOST}:{referral.getsockname()[1]}/{PEOPLE}",
        )
        ends.callback(directory.stop)
        lines = ways(
            directory.port, directory.tls_port, free_port(), silent.getsockname()[1]
        )
        rules = folder / "hba.conf"
        rules.write_text(
            f"host {DATABASE} {USER} all trust\n"
            f"host own_user all all ldap {lines['by_name']}\n"
            + "".join(
                f"host {way} all all ldap {line}\n" for way, line in lines.items()
            )
        )
        pooler = Pooler(
            folder,
            server.port,
            {
                **dict.fromkeys(lines, f"dbname={DATABASE} user={USER}"),
                "own_user": f"dbname={DATABASE}",
                DATABASE: f"user={USER}",
            },
            {
                "auth_type": "hba",
                "auth_hba_file": rules,
                "failed_login_delay": 0,
            },
            environment={"LDAPTLS_CACERT": str(certificates.ca_file)},
        )
        ends.callback(pooler.finish)
        yield Outside(pooler.start(), directory, referral, silent)


def outcome(pooler: Pooler, way: str, user: str, password: str = PASSWORD) -> str:
    """What comes of a login; empty: it has worked."""
    try:
        with pooler.connect(way, user, password=password) as link:
            link.execute("SELECT 1")
    except psycopg.OperationalError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("way", "user"),
    [
        ("by_name", "joe"),
        ("by_name", "smith, john"),
        ("by_name", "müller"),
        ("search", "joe"),
        ("search", "smith, john"),
        ("search", "müller"),
        ("search_mail", "joe@example.net"),
        ("filter", "joe"),
        ("filter", "joe@example.net"),
        ("url", "joe"),
        ("reader", "joe"),
        ("start_tls", "joe"),
        ("ldaps", "joe"),
        ("second", "joe"),
    ],
)
def test_who_comes_in(outside: Outside, way: str, user: str) -> None:
    assert outcome(outside.pooler, way, user) == ""
    for wrong in (f"{PASSWORD}x", PASSWORD[:-1], "secret"):
        said = outcome(outside.pooler, way, user, wrong)
        assert said.endswith("FATAL:  LDAP authentication failed"), said
    outside.pooler.wait_log("LDAP authentication failed: LDAP login failed for")


REFUSED = [
    ("by_name", "nobody", PASSWORD, "Invalid credentials"),
    ("by_name", "spy", "secret", "Invalid credentials"),
    ("search", "nobody", PASSWORD, 'LDAP user "nobody" does not exist'),
    ("search", "joe@example.net", PASSWORD, "does not exist"),
    ("search_mail", "joe", PASSWORD, "does not exist"),
    ("base_url", "joe", PASSWORD, "does not exist"),  # the scope base finds the base
    ("everywhere", "spy", "secret", 'LDAP user "spy" does not exist'),
    ("everywhere", "twin", "secret", 'LDAP user "twin" is not unique'),
    (
        "bad_reader",
        "joe",
        PASSWORD,
        "could not perform initial LDAP bind for ldapbinddn",
    ),
    ("dead", "joe", PASSWORD, "cannot reach an LDAP server"),
    ("other_name", "joe", PASSWORD, "could not start LDAP TLS session"),
    # names that try to mean more
    ("by_name", "guest,ou=guests", "secret", "Invalid credentials"),
    ("search", "*", PASSWORD, "invalid character in user name"),
    ("search", "joe)(uid=*", PASSWORD, "invalid character in user name"),
    ("filter", "j\\6fe", PASSWORD, "invalid character in user name"),
]


@pytest.mark.parametrize(("way", "user", "password", "why"), REFUSED)
def test_who_does_not_come_in(
    outside: Outside, way: str, user: str, password: str, why: str
) -> None:
    seen = outside.pooler.log().count(why)
    said = outcome(outside.pooler, way, user, password)
    assert said.endswith("FATAL:  LDAP authentication failed"), said
    outside.pooler.wait_log(why, seen + 1)
    assert PASSWORD not in outside.pooler.log()


def test_a_search_as_somebody(outside: Outside) -> None:
    assert outcome(outside.pooler, "reader", "spy", "secret") == ""
    assert READER_PASSWORD not in outside.pooler.log()


def test_no_password_and_too_long_a_one(outside: Outside) -> None:
    """A bind without a password works for this server, as nobody."""
    for way in ("by_name", "search"):
        with ask(outside.pooler, way, "") as client:
            assert client.read_fatal()["M"] == "empty password returned by client"
        with ask(outside.pooler, way, "x" * 66_000) as client:
            with pytest.raises(ConnectionEnded):
                client.read()
        assert outcome(outside.pooler, way, "long", LONG_PASSWORD) == ""
        assert "LDAP" in outcome(outside.pooler, way, "long", LONG_PASSWORD[:-1])


def test_no_referral_is_followed(outside: Outside) -> None:
    assert "LDAP authentication failed" in outcome(outside.pooler, "referral", "joe")
    outside.pooler.wait_log("could not search LDAP for filter")
    assert outcome(outside.pooler, "url", "joe") == ""  # and none of a search
    outside.referral.settimeout(0)
    with pytest.raises(BlockingIOError):
        outside.referral.accept()


def test_the_server_is_told_the_password(outside: Outside) -> None:
    with outside.pooler.connect("own_user", SERVER_USER, password=PASSWORD) as link:
        row = link.execute("SELECT current_user").fetchone()
    assert row == (SERVER_USER,)
    assert "LDAP" in outcome(outside.pooler, "own_user", SERVER_USER, "wrong")
    # somebody whom PostgreSQL does not know hears what PostgreSQL says
    assert 'password authentication failed for user "joe"' in outcome(
        outside.pooler, "own_user", "joe"
    )


@pytest.mark.parametrize("way", ["silent", "silent_tls"])
def test_a_server_that_says_nothing_holds_nobody_up(outside: Outside, way: str) -> None:
    with ask(outside.pooler, way) as waits:
        outside.silent.settimeout(10)
        taken, _ = outside.silent.accept()
        with taken:
            with outside.pooler.client() as other:
                assert other.value("SELECT 1") == "1"
            assert outcome(outside.pooler, "by_name", "joe") == ""
            if way == "silent":
                said = waits.read_fatal()  # after ANSWER_S
                assert said["M"] == "LDAP authentication failed"
                outside.pooler.wait_log("Timed out")


def test_auth_type_ldap(outside: Outside, server: Postgres, tmp_path: Path) -> None:
    here = f"ldapserver={HOST} ldapport={outside.directory.port}"
    pooler = Pooler(
        tmp_path,
        server.port,
        {"shop": f"dbname={DATABASE} user={USER}"},
        {
            "auth_type": "ldap",
            "auth_ldap_options": f"{here} {BY_NAME}",
            "failed_login_delay": 0,
            "external_auth_threads": 1,
            "external_auth_queue": 0,
        },
    )
    pooler.start()
    try:
        assert outcome(pooler, "shop", "joe") == ""
        assert "LDAP authentication failed" in outcome(pooler, "shop", "joe", "wrong")
        assert "LDAP authentication failed" in outcome(pooler, "none", "joe", "wrong")
        assert "no such database" in outcome(pooler, "none", "joe")
        pooler.reload(auth_ldap_options=f"{here} ldapbasedn={PEOPLE}")
        pooler.wait_log("auth_ldap_options: no such option")
        assert outcome(pooler, "shop", "joe") == ""
        silent = f"ldapserver={HOST} ldapport={outside.silent.getsockname()[1]}"
        pooler.reload(auth_ldap_options=f"{silent} {BY_SEARCH}")
        check_queue(pooler, outside.silent)
    finally:
        pooler.finish()
    assert PASSWORD not in pooler.log()


def ask(pooler: Pooler, way: str, password: str = PASSWORD) -> WireClient:
    """A client that has sent its password."""
    client = WireClient(pooler.port)
    client.send(startup("joe", way))
    assert client.read().code == "R"
    client.send(message("p", text(password)))
    return client


def check_queue(pooler: Pooler, silent: socket.socket) -> None:
    """One thread, no queue, and a server that says nothing."""
    silent.settimeout(0.5)
    holders: list[WireClient] = []
    with contextlib.ExitStack() as ends:

        def is_asked() -> bool:
            """False while the worker has not reloaded."""
            holder = ends.enter_context(ask(pooler, "shop"))
            with contextlib.suppress(TimeoutError):
                ends.enter_context(silent.accept()[0])
                holders.append(holder)
                return True
            return False

        wait_until(is_asked, "the server is asked")
        with ask(pooler, "shop") as client:
            said = client.read_fatal()
        assert (said["M"], said["C"]) == ("too many logins wait for an answer", "53300")
        pooler.wait_log("0 wait for 1 threads, of which 0 work for clients that are")
        holders[0].close()  # who leaves frees the thread
        silent.settimeout(10)

        def is_free() -> bool:
            client = ends.enter_context(ask(pooler, "shop"))
            client.socket.settimeout(0.2)
            try:
                return "too many" not in client.read_fatal()["M"]
            except TimeoutError:
                return True

        wait_until(is_free, "the thread is free again")
        ends.enter_context(silent.accept()[0])


@pytest.mark.parametrize(
    ("options", "problem"),
    [("", "auth_ldap_options: auth_type = ldap needs it"), ("ldapserver=x", "missing")],
)
def test_options_that_end_the_start(tmp_path: Path, options: str, problem: str) -> None:
    settings: dict[str, Any] = {"auth_type": "ldap", "auth_ldap_options": options}
    assert problem in refused_start(tmp_path, settings)
