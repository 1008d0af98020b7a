# SPDX-License-Identifier: MIT
"""Passwords that a real LDAP server judges, in every way that options can say."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest

from pooler.config.ldap import LdapOptions
from pooler.demo.postgres import Postgres
from pooler.worker.ldap import LdapCheck
from pooler.worker.libldap import ANSWER_S, LibLdap
from tests.certificates import Certificates, make_certificates
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
    closing_all,
    free_port,
    refused_start,
    wait_until,
)
from tests.wire_client import ConnectionEnded, WireClient, message, startup, text

pytestmark = [pytest.mark.full, pytest.mark.timeout(60)]

PASSWORD = 'pass wörd "quoted" \\'
ASKER = "asker"  # who runs auth_query
SERVER_USER = "kim"  # PostgreSQL has the same password for her
LONG_PASSWORD = "x" * 65_000
PEOPLE_PASSWORDS = {
    "joe": PASSWORD,
    SERVER_USER: PASSWORD,
    "long": LONG_PASSWORD,
    "smith, john": PASSWORD,
    "müller": PASSWORD,
}
# What PostgreSQL is asked as well: who may come in, and by which options.
WHO = [
    ("joe", PASSWORD),
    ("joe", PASSWORD + "x"),
    ("joe@example.net", PASSWORD),
    (SERVER_USER, PASSWORD),
    ("long", LONG_PASSWORD),
    ("long", LONG_PASSWORD[:-1]),
    ("smith, john", PASSWORD),
    ("müller", PASSWORD),
    ("nobody", PASSWORD),
    ("spy", "secret"),
    ("twin", "secret"),
    ("guest", "secret"),
    ("guest,ou=guests", "secret"),
    ("*", PASSWORD),
    ("joe)(uid=*", PASSWORD),
    (" joe", PASSWORD),
    ("JOE", PASSWORD),
]
COMPARED = [
    "by_name",
    "search",
    "search_mail",
    "filter",
    "url",
    "base_url",
    "reader",
    "everywhere",
    "bad_reader",
    "dead",
    "second",
]
# Behind uid= a name is escaped here, and put in as it is there.
NOT_THE_SAME = {
    ("by_name", "smith, john"),
    ("by_name", "guest,ou=guests"),
    ("second", "smith, john"),
    ("second", "guest,ou=guests"),
}
BY_NAME = f'ldapprefix="uid=" ldapsuffix=",{PEOPLE}"'
BY_SEARCH = f'ldapbasedn="{PEOPLE}"'


@dataclass
class Directory:
    """A real LDAP server, servers that are none, and options by way of asking."""

    slapd: Slapd
    certificates: Certificates
    referral_port: int  # where nobody listens
    silent: socket.socket
    lines: dict[str, str]


@dataclass
class Outside:
    """A pooler, and what it asks."""

    pooler: Pooler
    directory: Directory


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
        "ldaps_other_name": f"ldapserver={OTHER_HOST} ldapport={tls_port}"
        f" ldapscheme=ldaps {BY_NAME}",
        "referral": f'{here} ldapbasedn="ou=elsewhere,{SUFFIX}"',
        "dead": f"ldapserver={HOST} ldapport={dead} {BY_NAME}",
        # Every server of the list has the one port: nobody listens at the first.
        "second": f'ldapserver="127.0.0.3 {HOST}" ldapport={port} {BY_NAME}',
        "silent": f"ldapserver={HOST} ldapport={silent} {BY_NAME}",
        "silent_tls": f"ldapserver={HOST} ldapport={silent} ldapscheme=ldaps {BY_NAME}",
    }


def listener(port: int = 0) -> socket.socket:
    """A server that takes connections and says nothing."""
    made = socket.socket()
    made.bind((HOST, port))
    made.listen(50)
    return made


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directory]:
    assert is_installed(), "slapd is missing: run dev/full_tools.sh"
    folder = tmp_path_factory.mktemp("slapd")
    certificates = make_certificates(folder / "tls", HOST)
    with contextlib.ExitStack() as ends:
        silent, referral_port = ends.enter_context(listener()), free_port()
        slapd = Slapd(
            folder / "slapd",
            certificates,
            PEOPLE_PASSWORDS,
            f"ldap://{HOST}:{referral_port}/{PEOPLE}",
        )
        ends.callback(slapd.stop)
        lines = ways(slapd.port, slapd.tls_port, free_port(), silent.getsockname()[1])
        yield Directory(slapd, certificates, referral_port, silent, lines)


@pytest.fixture(scope="module")
def server(directory: Directory) -> Iterator[Postgres]:
    """It asks the same LDAP server about those who come straight to it."""
    hba = "".join(
        f"host {way} all {HOST}/32 ldap {directory.lines[way]}\n" for way in COMPARED
    )
    hba += f"host all {USER} {HOST}/32 trust\nhost all all {HOST}/32 scram-sha-256\n"
    with Postgres(hba=hba) as made:
        quoted = PASSWORD.replace("'", "''")
        made.psql(f"CREATE ROLE {SERVER_USER} LOGIN PASSWORD '{quoted}'")
        made.psql(f"CREATE ROLE {ASKER} LOGIN SUPERUSER PASSWORD 'secret'")
        for user in {USER, *(user for user, _ in WHO)} - {SERVER_USER}:
            made.psql(f'CREATE ROLE "{user}" LOGIN')
        made.psql(f"CREATE DATABASE {DATABASE}")
        yield made


@pytest.fixture(scope="module")
def outside(
    directory: Directory, server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outside]:
    folder = tmp_path_factory.mktemp("ldap")
    lines, rules = directory.lines, folder / "hba.conf"
    rules.write_text(
        f"host {DATABASE} {USER} all trust\n"
        f"host own_user all all ldap {lines['by_name']}\n"
        + "".join(f"host {way} all all ldap {line}\n" for way, line in lines.items())
    )
    pooler = Pooler(
        folder,
        server.port,
        {
            **dict.fromkeys(lines, f"dbname={DATABASE} user={USER}"),
            "own_user": f"dbname={DATABASE}",
            DATABASE: f"user={USER}",
        },
        {"auth_type": "hba", "auth_hba_file": rules, "failed_login_delay": 0},
        environment={"LDAPTLS_CACERT": str(directory.certificates.ca_file)},
    )
    try:
        yield Outside(pooler.start(), directory)
    finally:
        pooler.finish()


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
    ("ldaps_other_name", "joe", PASSWORD, "could not start LDAP TLS session"),
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
    refused_with(outside.pooler, way, user, password, why)
    assert PASSWORD not in outside.pooler.log()


@pytest.mark.parametrize("way", COMPARED)
def test_as_postgresql(outside: Outside, server: Postgres, way: str) -> None:
    def lets_in_straight(user: str, password: str) -> bool:
        with pytest.raises(psycopg.OperationalError) as caught:
            psycopg.connect(
                host=HOST, port=server.port, user=user, password=password, dbname=way
            )
        said = str(caught.value)
        assert f'database "{way}" does not exist' in said or "LDAP auth" in said, said
        return "LDAP auth" not in said

    different = {
        (way, user)
        for user, password in WHO
        if lets_in_straight(user, password)
        != (outcome(outside.pooler, way, user, password) == "")
    }
    assert different == {one for one in NOT_THE_SAME if one[0] == way}


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
    with listener(outside.directory.referral_port) as elsewhere:
        why = "could not search LDAP for filter"
        refused_with(outside.pooler, "referral", "joe", PASSWORD, why)
        # nor one that is part of what was found
        assert outcome(outside.pooler, "url", "joe") == ""
        elsewhere.settimeout(0)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


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
        outside.directory.silent.settimeout(10)
        taken, _ = outside.directory.silent.accept()
        with taken:
            with outside.pooler.client() as other:
                assert other.value("SELECT 1") == "1"
            assert outcome(outside.pooler, "by_name", "joe") == ""
            if way == "silent":
                waits.socket.settimeout(2 * ANSWER_S)
                said = waits.read_fatal()
                assert said["M"] == "LDAP authentication failed"
                outside.pooler.wait_log("Timed out")


def test_many_at_once(outside: Outside) -> None:
    """More than there are threads: they wait, and all come in."""
    with closing_all([ask(outside.pooler, "search") for _ in range(80)]) as clients:
        for client in clients:
            client.read_greeting()


def test_a_server_that_says_anything_lets_nobody_in() -> None:
    """Random bytes, and the right answer to another question, or cut."""
    random = Random(1)
    bound = bytes.fromhex("300c02010161070a010004000400")
    says = [random.randbytes(random.randrange(60)) for _ in range(40)]
    says += [bound[:size] for size in range(len(bound))]
    says += [bound[:4] + bytes([number]) + bound[5:] for number in (0, 2, 127, 255)]
    says += [bytes.fromhex("300c02010161070a010104000400")]  # operations error
    library = LibLdap()
    with listener() as server, ThreadPoolExecutor(1) as pool:
        port = server.getsockname()[1]
        options = LdapOptions(server=HOST, port=port, prefix="uid=")
        for said, lets_in in (*((one, False) for one in says), (bound, True)):
            check = LdapCheck(library, options, "joe", PASSWORD)
            verdict = pool.submit(check)
            link, _ = server.accept()
            with link:
                link.recv(1000)
                with contextlib.suppress(OSError):  # it has heard enough
                    link.sendall(said)
                    link.shutdown(socket.SHUT_WR)
                assert (verdict.result(30).why_not == "") is lets_in, said


@pytest.mark.parametrize("more", [{}, {"tls": True}, {"scheme": "ldaps"}])
def test_a_check_that_is_cut_ends(more: dict[str, Any]) -> None:
    with listener() as server, ThreadPoolExecutor(1) as pool:
        options = LdapOptions(
            server=HOST, port=server.getsockname()[1], prefix="uid=", **more
        )
        check = LdapCheck(LibLdap(), options, "joe", PASSWORD)
        verdict = pool.submit(check)
        link, _ = server.accept()
        with link:
            link.recv(1, socket.MSG_PEEK)
            check.cut()
            assert verdict.result(5).why_not
        assert check().why_not == "cut"  # and nothing more begins


def test_ldap_and_auth_query_in_one_worker(
    outside: Outside, server: Postgres, tmp_path: Path
) -> None:
    """psycopg brings a libldap of its own; neither may find the other's functions."""
    rules = tmp_path / "hba.conf"
    ldaps = outside.directory.lines["ldaps"]
    rules.write_text(f"host all joe all ldap {ldaps}\nhost all all all scram-sha-256\n")
    pooler = Pooler(
        tmp_path,
        server.port,
        {
            "shop": f"dbname={DATABASE} user={USER}",
            "own_user": f"dbname={DATABASE}",
        },
        {"auth_type": "hba", "auth_hba_file": rules, "auth_user": ASKER},
        f'"{ASKER}" "secret"',
        environment={"LDAPTLS_CACERT": str(outside.directory.certificates.ca_file)},
    )
    try:
        pooler.start()
        for _ in range(2):
            assert outcome(pooler, "shop", "joe") == ""
            assert outcome(pooler, "own_user", SERVER_USER) == ""
    finally:
        pooler.finish()


def test_auth_type_ldap(outside: Outside, server: Postgres, tmp_path: Path) -> None:
    here = f"ldapserver={HOST} ldapport={outside.directory.slapd.port}"
    pooler = Pooler(
        tmp_path,
        server.port,
        {"shop": f"dbname={DATABASE} user={USER}"},
        {
            "failed_login_delay": 0,
            "external_auth_threads": 1,
            "external_auth_queue": 0,
        },
    )
    pooler.start()
    try:
        assert outcome(pooler, "shop", "joe", "wrong") == ""  # anybody comes in
        pooler.reload(auth_type="ldap", auth_ldap_options=f"{here} {BY_NAME}")
        wait_until(lambda: "LDAP auth" in outcome(pooler, "shop", "joe", "no"), "LDAP")
        assert outcome(pooler, "shop", "joe") == ""
        assert "LDAP authentication failed" in outcome(pooler, "none", "joe", "wrong")
        assert "no such database" in outcome(pooler, "none", "joe")
        pooler.reload(auth_ldap_options=f"{here} ldapbasedn={PEOPLE}")
        pooler.wait_log("auth_ldap_options: no such option")
        assert outcome(pooler, "shop", "joe") == ""
        # nobody has said whose certificates are trusted
        pooler.reload(auth_ldap_options=f"{here} ldaptls=1 {BY_NAME}")
        wait_until(lambda: "LDAP auth" in outcome(pooler, "shop", "joe"), "TLS")
        pooler.wait_log("could not start LDAP TLS session")
        silent = (
            f"ldapserver={HOST} ldapport={outside.directory.silent.getsockname()[1]}"
        )
        pooler.reload(auth_ldap_options=f"{silent} {BY_SEARCH}")
        check_queue(pooler, outside.directory.silent)
    finally:
        pooler.finish()
    assert PASSWORD not in pooler.log()


def refused_with(pooler: Pooler, way: str, user: str, password: str, why: str) -> None:
    """The client hears that it is refused, and the log why; not of all in a flood."""
    seen = pooler.log().count(why)

    def is_said() -> bool:
        said = outcome(pooler, way, user, password)
        assert said.endswith("FATAL:  LDAP authentication failed"), said
        return pooler.log().count(why) > seen

    wait_until(is_said, why)


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
