# SPDX-License-Identifier: MIT
"""Passwords that real PAM modules judge, by services that the test writes.

libpam_wrapper, preloaded, makes libpam read them from a folder of the test.
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import (
    DATABASE,
    HOST,
    USER,
    Pooler,
    wait_until,
)
from tests.wire_client import ConnectionEnded, WireClient, message, startup, text

pytestmark = [pytest.mark.full, pytest.mark.timeout(60)]

PASSWORD = 'pass wörd "quoted" \\'
SERVER_USER = "kim"  # PostgreSQL has the same password for her
LONG_PASSWORD = "x" * 65_000
DELAY_S = 4


def library(pattern: str) -> str:
    """A file of the system."""
    found = glob.glob(f"/usr/lib/*/{pattern}") + glob.glob(f"/lib/*/{pattern}")
    assert found, f"{pattern} is missing: run dev/full_tools.sh"
    return found[0]


def services(folder: Path) -> dict[str, str]:
    """What /etc/pam.d would have."""
    matrix = f"{library('pam_wrapper/pam_matrix.so')} passdb={folder / 'passdb'}"
    run = f"{library('security/pam_exec.so')} quiet"
    permit = library("security/pam_permit.so")
    later = f"{library('security/pam_faildelay.so')} delay={DELAY_S}000000"
    plain = f"auth required {matrix} verbose\naccount required {matrix}\n"
    return {
        "pgbouncer": plain,
        "other_service": plain,
        "delays": f"auth optional {later}\n{plain}",
        "shown": f"auth required {matrix} echo\naccount required {permit}\n",
        "blocks": f"auth required {run} {program('cat')} {folder / 'fifo'}\n"
        f"account required {permit}\n",
        "tells": f"auth required {run} log={folder / 'told'} {program('env')}\n"
        f"account required {permit}\n",
        "other": f"auth required {library('security/pam_deny.so')}\n",
    }


def program(name: str) -> str:
    return f"/usr/bin/{name}"


@dataclass
class Outside:
    """A pooler with one thread for PAM, and what the modules read and write."""

    pooler: Pooler
    folder: Path


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    hba = (
        f"host all {USER} 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
    )
    with Postgres(hba=hba) as made:
        made.psql(f"CREATE ROLE {USER} LOGIN")
        made.psql(f"CREATE ROLE {SERVER_USER} LOGIN PASSWORD '{PASSWORD}'")
        made.psql(f"CREATE DATABASE {DATABASE}")
        yield made


def environment(folder: Path) -> dict[str, str]:
    return {
        "LD_PRELOAD": library("libpam_wrapper.so"),
        "PAM_WRAPPER": "1",
        "PAM_WRAPPER_SERVICE_DIR": str(folder / "services"),
        "PAM_WRAPPER_DEBUGLEVEL": "0",
    }


@pytest.fixture(scope="module")
def outside(
    server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outside]:
    folder = tmp_path_factory.mktemp("pam")
    (folder / "services").mkdir()
    made = services(folder)
    for name, lines in made.items():
        (folder / "services" / name).write_text(lines)
    (folder / "passdb").write_text(
        f"joe:{PASSWORD}:pgbouncer\n"
        f"joe2:{PASSWORD}:other_service\n"
        f"{SERVER_USER}:{PASSWORD}:pgbouncer\n"
        f"slow:{PASSWORD}:delays\n"
    )
    os.mkfifo(folder / "fifo")
    rules = folder / "hba.conf"
    rules.write_text(
        f"host {DATABASE} {USER} all trust\nhost plain,own_user all all pam\n"
        + "".join(f"host {name} all all pam pamservice={name}\n" for name in made)
    )
    to_all = f"dbname={DATABASE} user={USER}"
    pooler = Pooler(
        folder,
        server.port,
        {
            **dict.fromkeys(made.keys() - {"pgbouncer"}, to_all),
            "own_user": f"dbname={DATABASE}",
            DATABASE: f"user={USER}",
            "plain": to_all,
        },
        {
            "auth_type": "hba",
            "auth_hba_file": rules,
            "failed_login_delay": 0,
            "external_auth_threads": 1,
            "external_auth_queue": 1,
        },
        environment=environment(folder),
    )
    try:
        yield Outside(pooler.start(), folder)
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


def refused_with(pooler: Pooler, way: str, user: str, password: str, why: str) -> None:
    """The client hears that it is refused, and the log why; not of all in a flood."""
    seen = pooler.log().count(why)

    def is_said() -> bool:
        said = outcome(pooler, way, user, password)
        assert said.endswith("FATAL:  PAM authentication failed"), said
        return pooler.log().count(why) > seen

    wait_until(is_said, why)


def ask(pooler: Pooler, way: str, user: str, password: str = PASSWORD) -> WireClient:
    """A client that has sent its password."""
    client = WireClient(pooler.port)
    client.send(startup(user, way))
    assert client.read().code == "R"
    client.send(message("p", text(password)))
    return client


REFUSED = "FATAL:  PAM authentication failed"


def test_who_comes_in(outside: Outside) -> None:
    assert outcome(outside.pooler, "plain", "joe") == ""
    assert outcome(outside.pooler, "other_service", "joe2") == ""
    assert PASSWORD not in outside.pooler.log()


@pytest.mark.parametrize(
    ("way", "user", "password", "why"),
    [
        ("plain", "joe", PASSWORD + "x", "pam_authenticate() failed: Authentication"),
        ("plain", "joe", PASSWORD[:-1], "pam_authenticate() failed: Authentication"),
        ("plain", "joe", LONG_PASSWORD, "pam_authenticate() failed: Authentication"),
        ("plain", "nobody", PASSWORD, "pam_authenticate() failed: Authentication"),
        # the right password, but the account may not use this service
        ("plain", "joe2", PASSWORD, "pam_acct_mgmt() failed: Permission denied"),
        ("other_service", "joe", PASSWORD, "pam_acct_mgmt() failed: Permission denied"),
        # a question whose answer would be shown
        ("shown", "joe", PASSWORD, "pam_authenticate() failed:"),
        ("other", "joe", PASSWORD, "pam_authenticate() failed:"),
    ],
)
def test_who_does_not_come_in(
    outside: Outside, way: str, user: str, password: str, why: str
) -> None:
    refused_with(outside.pooler, way, user, password, why)
    assert PASSWORD not in outside.pooler.log()


def test_no_password_and_too_long_a_one(outside: Outside) -> None:
    with ask(outside.pooler, "plain", "joe", "") as client:
        assert client.read_fatal()["M"] == "empty password returned by client"
    with ask(outside.pooler, "plain", "joe", "x" * 66_000) as client:
        with pytest.raises(ConnectionEnded):
            client.read()


def test_modules_hear_where_the_client_is(outside: Outside) -> None:
    assert outcome(outside.pooler, "tells", "whoever") == ""
    told = (outside.folder / "told").read_text().splitlines()
    for line in ("PAM_USER=whoever", "PAM_SERVICE=tells", f"PAM_RHOST={HOST}"):
        assert line in told


def test_the_server_is_told_the_password(outside: Outside) -> None:
    with outside.pooler.connect("own_user", SERVER_USER, password=PASSWORD) as link:
        row = link.execute("SELECT current_user").fetchone()
    assert row == (SERVER_USER,)
    assert outcome(outside.pooler, "own_user", SERVER_USER, "wrong").endswith(REFUSED)


def test_a_wrong_password_waits_and_holds_no_thread(outside: Outside) -> None:
    """PAM delays who fails; the only thread is free meanwhile."""
    with ask(outside.pooler, "delays", "slow", "wrong") as waits:
        with ask(outside.pooler, "delays", "slow", "wrong") as too:
            # by then both have been looked at, and wait
            wait_until(lambda: outcome(outside.pooler, "plain", "joe") == "", "a turn")
            for _ in range(2):
                assert outcome(outside.pooler, "plain", "joe") == ""
            for one in (waits, too):
                assert not is_answered(one)
            for one in (waits, too):
                assert one.read_fatal()["M"] == "PAM authentication failed"
    assert outcome(outside.pooler, "delays", "slow") == ""  # a right one does not wait


def is_answered(client: WireClient) -> bool:
    client.socket.setblocking(False)
    try:
        return bool(client.socket.recv(1, 2))  # MSG_PEEK
    except BlockingIOError:
        return False
    finally:
        client.socket.settimeout(10)


def test_a_module_that_blocks_holds_nobody_else_up(outside: Outside) -> None:
    pooler = outside.pooler
    with contextlib.ExitStack() as ends:
        first = ends.enter_context(ask(pooler, "blocks", "joe"))
        # whoever opens the other end knows that the module has begun
        fifo = os.open(outside.folder / "fifo", os.O_WRONLY)
        with pooler.client() as other:
            assert other.value("SELECT 1") == "1"
        second = ends.enter_context(ask(pooler, "plain", "joe"))

        def is_full() -> bool:
            with ask(pooler, "plain", "joe") as client:
                return not is_waiting(client)

        wait_until(is_full, "the queue is full")
        pooler.wait_log("1 wait for 1 threads")
        first.close()  # its thread stays in the module
        gone = "of which 1 work for clients that are gone"
        wait_until(lambda: is_full() and gone in pooler.log(), "the client is gone")
        assert not is_answered(second)
        os.close(fifo)
        second.read_greeting()
    wait_until(lambda: outcome(pooler, "plain", "joe") == "", "the thread is free")


def is_waiting(client: WireClient) -> bool:
    client.socket.settimeout(0.3)
    try:
        return "too many logins" not in client.read_fatal()["M"]
    except TimeoutError:
        return True


def test_a_module_that_blocks_does_not_keep_the_worker(
    outside: Outside, server: Postgres, tmp_path: Path
) -> None:
    rules = tmp_path / "hba.conf"
    rules.write_text("host all all all pam pamservice=blocks\n")
    pooler = Pooler(
        tmp_path,
        server.port,
        settings={"auth_type": "hba", "auth_hba_file": rules},
        environment=environment(outside.folder),
    )
    try:
        pooler.start()
        with ask(pooler, DATABASE, "joe") as client:
            fifo = os.open(outside.folder / "fifo", os.O_WRONLY)  # it has begun
            assert pooler.stop() == 0
            assert client.read_fatal()["C"] == "57P01"
            os.close(fifo)
    finally:
        pooler.finish()


def test_auth_type_pam(outside: Outside, server: Postgres, tmp_path: Path) -> None:
    pooler = Pooler(
        tmp_path,
        server.port,
        {"shop": f"dbname={DATABASE} user={USER}"},
        {"auth_type": "pam", "failed_login_delay": 0},
        environment=environment(outside.folder),
    )
    try:
        pooler.start()
        assert outcome(pooler, "shop", "joe") == ""
        assert outcome(pooler, "shop", "joe", "wrong").endswith(REFUSED)
        assert outcome(pooler, "none", "joe", "wrong").endswith(REFUSED)
        assert "no such database" in outcome(pooler, "none", "joe")
    finally:
        pooler.finish()
