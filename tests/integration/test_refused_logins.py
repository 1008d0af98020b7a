# SPDX-License-Identifier: MIT
"""Refused logins: what the log says of each, late answers, floods, and no secrets."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from pooler.config.settings import Settings
from pooler.demo.postgres import Postgres
from pooler.login.md5 import md5_secret
from pooler.login.scram import Verifier
from tests.integration.harness import (
    DATABASE,
    ENVIRONMENT,
    HOST,
    USER,
    InProcess,
    MakePooler,
    Pooler,
    free_port,
    ini_text,
    wait_until,
)
from tests.wire_client import message, startup, text

pytestmark = pytest.mark.timeout(60)

PASSWORD = "k33p th1s t0 y0urself"
WRONG = "n0t the r1ght one"
SCRAM = Verifier.from_password(PASSWORD, 4096).to_text()
MD5 = md5_secret(PASSWORD, "md5_user")
USERLIST = "".join(
    f'"{user}" "{secret}"\n'
    for user, secret in (
        ("plain_user", PASSWORD),
        ("md5_user", MD5),
        ("scram_user", SCRAM),
        ("empty_user", ""),
        ("trusted", ""),
    )
)
HBA = f"""
host gone trusted {HOST}/32 trust
host nowhere trusted {HOST}/32 trust
host {DATABASE} rejected {HOST}/32 reject
host {DATABASE} trusted {HOST}/32 trust
host {DATABASE} by_md5,md5_user {HOST}/32 md5
host {DATABASE} by_password,plain_user {HOST}/32 password
host {DATABASE} scram_user,nobody,empty_user {HOST}/32 scram-sha-256
host pgbouncer trusted {HOST}/32 trust
"""


SHOWN = ("CONFIG", "DATABASES", "USERS", "POOLS")


@pytest.fixture
def pooler(make_pooler: MakePooler, tmp_path: Path) -> Pooler:
    """One that refuses for many reasons."""
    rules = tmp_path / "hba.conf"
    rules.write_text(HBA)
    return make_pooler(
        {
            DATABASE: f"user={USER}",
            "nowhere": f"host={HOST} port={free_port()} user={USER}"
            f" password='{PASSWORD}'",
        },
        USERLIST,
        auth_type="hba",
        auth_hba_file=rules,
        client_login_timeout=1,
        verbose=3,
        server_login_retry=0,
        max_client_conn=20,
        admin_users="trusted",
    )


def refused(pooler: Pooler, user: str, database: str = DATABASE) -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        pooler.connect(database, user, password=WRONG)
    return str(caught.value)


def wait_line(pooler: Pooler, pattern: str) -> None:
    wait_until(lambda: re.search(pattern, pooler.log(), re.MULTILINE), pattern)


def test_the_log_says_who_and_why(pooler: Pooler) -> None:
    """Each way to be refused: who, from where, and what it was; no secret in it."""
    expected = [
        ("plain_user", DATABASE, "password authentication failed: wrong password"),
        ("md5_user", DATABASE, "password authentication failed: wrong password"),
        ("scram_user", DATABASE, "SASL authentication failed: wrong password"),
        ("nobody", DATABASE, "SASL authentication failed: no such user"),
        ("empty_user", DATABASE, "failed: the user has no password"),
        ("rejected", DATABASE, r"login rejected: .*hba\.conf:4 rejects it"),
        ("stranger", DATABASE, "login rejected: no line of auth_hba_file fits"),
        ("trusted", "gone", "no such database: gone"),
        ("trusted", "nowhere", r"client_login_timeout \(server down\)"),
    ]
    for user, database, reason in expected:
        refused(pooler, user, database)
        line = (
            rf"WARNING C-0x\w+: {database}/{user}@{HOST}:\d+ pooler error: .*{reason}"
        )
        wait_line(pooler, line)
    for sent, line in (
        (
            startup("u" * 200, DATABASE),
            f"username too long: it begins with {'u' * 32}$",
        ),
        (startup("u" * 9_000, DATABASE), "username too long: it begins with u+$"),
        (
            startup("trusted", "d" * 100),
            "database name too long: of user trusted, it begins with d{32}$",
        ),
        (startup("trusted", DATABASE, nonsense="1"), "unsupported startup parameter"),
        (startup("a\nb", DATABASE), rf"{DATABASE}/a\\nb@.*no line"),
        (startup("a\x1b[2Jb", DATABASE), r"/a\\x1b\[2Jb@.*no line"),
        (startup("a", "x\r\ny\u2028\u202e"), r"x\\r\\ny\\u2028\\u202e/a@.*no line"),
        (b"GET / HTTP/1.1\r\n\r\n", r"\(nodb\)/\(nouser\)@.*pooler error: "),
    ):
        with pooler.wire() as client:
            client.send(sent)
            client.read_to_end()
        wait_line(pooler, line)
    with pooler.wire() as client:
        client.send(startup("plain_user", DATABASE))
        assert client.read_to_end()[-1].fields["M"] == "client_login_timeout"
    line = rf"{DATABASE}/plain_user@{HOST}:\d+ pooler error: client_login_timeout"
    wait_line(pooler, line)
    assert "\x1b" not in pooler.log()
    every_line = re.compile(r"\d{4}-\d\d-\d\d [\d:.]+ \w+ \[\d+\] [A-Z]+ \S")
    assert all(every_line.match(line) for line in pooler.log().splitlines())


def test_no_secret_anywhere(pooler: Pooler) -> None:
    """All methods, right and wrong, with all that can be logged."""
    for user in ("plain_user", "md5_user", "scram_user"):
        with pooler.connect(user=user, password=PASSWORD) as link:
            link.execute("SELECT 1")
        refused(pooler, user)
    refused(pooler, "trusted", "nowhere")  # its entry has a password
    pooler.reload()
    secrets = [PASSWORD, WRONG, MD5, MD5[3:], *re.split(r"[$:]", SCRAM)[2:]]
    places = [pooler.log(), pooler.stderr_path.read_text()]
    for pid in (pooler.pid, *pooler.worker_pids()):
        process = psutil.Process(pid)
        places += [" ".join(process.cmdline()), process.name(), str(process.environ())]
    with psycopg.connect(
        host=HOST,
        port=pooler.port,
        user="trusted",
        dbname="pgbouncer",
        autocommit=True,
    ) as console:
        places += [str(console.execute(f"SHOW {what}").fetchall()) for what in SHOWN]
    for secret in secrets:
        assert not any(secret in place for place in places)


@pytest.mark.parametrize("core_dumps", [0, 1])
def test_no_secret_in_core_dumps(
    postgres: Postgres, tmp_path: Path, core_dumps: int
) -> None:
    """What the master is by the time it forks its workers, they are."""
    code = f"""
import ctypes, sys
from pooler import cli
from pooler.master.dumpable import PR_GET_DUMPABLE
from pooler.master.process import Master
Master._fork = lambda *_: print(ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0))
Master._loop = lambda _: None
cli.start(cli.Options({str(tmp_path / "pooler.ini")!r}))
"""
    (tmp_path / "pooler.ini").write_text(
        ini_text(free_port(), postgres.port, {}, {"core_dumps": core_dumps})
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=30,
        env=ENVIRONMENT,
        check=True,
    )
    assert set(ended.stdout.split()) == {str(core_dumps)}, ended.stderr
    assert Settings().core_dumps is False


# ------------------------------------------------------------ late answers


def fail(port: int) -> socket.socket:
    """Send a wrong password; the answer may be on its way."""
    link = socket.create_connection((HOST, port), timeout=10)
    link.sendall(startup("plain_user", DATABASE))
    assert link.recv(9) == message("R", b"\0\0\0\3")
    link.sendall(message("p", text(WRONG)))
    return link


@pytest.fixture
def listed(
    worker_in_process: Callable[..., InProcess], tmp_path: Path
) -> Callable[..., InProcess]:
    def make(**settings: object) -> InProcess:
        auth_file = tmp_path / "userlist.txt"
        auth_file.write_text(f'"plain_user" "{PASSWORD}"\n"{USER}" "{PASSWORD}"\n')
        return worker_in_process(auth_type="plain", auth_file=auth_file, **settings)

    return make


def test_a_wrong_password_is_answered_late(listed: Callable[..., InProcess]) -> None:
    """Others log in meanwhile, right at once and from the same address."""
    delay_s = 0.4
    worker = listed(failed_login_delay=delay_s)
    before_s = time.monotonic()
    with fail(worker.port) as held:
        with psycopg.connect(
            host=HOST, port=worker.port, user=USER, password=PASSWORD, dbname=DATABASE
        ) as link:
            assert link.execute("SELECT 1").fetchone() == (1,)
        held.sendall(b"more words")  # of which nobody takes notice
        assert b"password authentication failed" in held.recv(1000)
        assert time.monotonic() - before_s >= delay_s


def test_who_waits_for_a_refusal_takes_few_places(
    listed: Callable[..., InProcess],
) -> None:
    worker = listed(failed_login_delay=600, max_client_conn=8)
    links = [fail(worker.port) for _ in range(4)]
    for first in links[:2]:  # a quarter of eight may wait
        assert b"password authentication failed" in first.recv(1000)
    wait_until(lambda: worker.engine.client_count == 2, "two are held")
    for link in links:
        link.close()


def test_too_many_failures_of_an_address(listed: Callable[..., InProcess]) -> None:
    """Then a right password is not looked at either, so nothing is learnt of it."""
    worker = listed(max_failed_logins=3)
    right: dict[str, Any] = {
        "host": HOST,
        "port": worker.port,
        "user": USER,
        "dbname": DATABASE,
    }
    psycopg.connect(**right, password=PASSWORD).close()
    for _ in range(3):
        with fail(worker.port) as link:
            assert b"password authentication failed" in link.recv(1000)
    for password in (PASSWORD, WRONG):
        with pytest.raises(psycopg.OperationalError, match="too many failed logins"):
            psycopg.connect(**right, password=password)


# ------------------------------------------------------------ floods


def test_the_end_of_a_refused_client_is_told_as_by_pgbouncer(
    make_pooler: MakePooler,
) -> None:
    """With the reason, once each; the settings of the log say which."""
    pooler = make_pooler(
        {DATABASE: ""}, '"chief" "x"\n', auth_type="trust", admin_users="chief"
    )
    reason = '"trust" authentication failed'

    def lines() -> tuple[int, int]:
        log = pooler.log()
        ends = re.findall(
            rf"LOG C-\S+: {DATABASE}/nobody@{HOST}:\d+ closing because: {reason}"
            r" \(age=0s\)",
            log,
        )
        return log.count(f"pooler error: {reason}"), len(ends)

    def refuse() -> None:
        with pytest.raises(psycopg.OperationalError, match="authentication failed"):
            pooler.connect(user="nobody")

    refuse()
    wait_until(lambda: lines() == (1, 1), "both lines")
    pooler.reload_all("chief", log_disconnections=0)
    refuse()
    wait_until(lambda: lines() == (2, 1), "the error only")
    pooler.reload_all("chief", log_disconnections=1, log_pooler_errors=0)
    refuse()
    wait_until(lambda: lines() == (2, 2), "the end only")


def test_a_flood_of_refusals_costs_few_lines(make_pooler: MakePooler) -> None:
    pooler = make_pooler({DATABASE: ""}, '"somebody" ""\n', auth_type="trust")
    count = 5_000
    packet = startup("nobody", DATABASE)
    begun_s = time.monotonic()
    for _ in range(count):
        with socket.create_connection((HOST, pooler.port), timeout=10) as link:
            link.sendall(packet)
            assert b"authentication failed" in link.recv(1000)
    took_s = time.monotonic() - begun_s

    def accounted() -> int:
        log = pooler.log()
        more = re.findall(r"… and (\d+) more refused logins that are not logged", log)
        return log.count("pooler error: ") + sum(map(int, more))

    wait_until(lambda: accounted() == count, "all are logged or counted")
    # Two lines each: of the refusal, and of the end.
    assert pooler.log().count("/nobody@") <= 2 * (100 + 10 * (took_s + 2))
    assert f"{DATABASE}/nobody@{HOST}:" in pooler.log()
