# SPDX-License-Identifier: MIT
"""-R: a new pooler takes the place of a running one, and nobody is refused."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import (
    DEADLINE_S,
    ENVIRONMENT,
    HOST,
    Pooler,
    is_alive,
    wait_until,
)
from tests.integration.test_service import ACTIVATE
from tests.integration.visitors import Visitors
from tests.wire_client import TERMINATE, WireClient, cancel_request, query

Start = Callable[..., Pooler]


@pytest.fixture
def directory() -> Iterator[Path]:
    # pytest's own directories can be too long for a Unix socket.
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@pytest.fixture
def start(postgres: Postgres, directory: Path) -> Iterator[Start]:
    """Start poolers one after the other at the same place, each with its own log."""
    made: list[Pooler] = []

    def make(*arguments: str, **settings: object) -> Pooler:
        own = directory / str(len(made))
        own.mkdir()
        pooler = Pooler(
            own,
            postgres.port,
            settings={
                "unix_socket_dir": directory,
                "pidfile": directory / "pid",
                "workers": 2,
                **settings,
            },
            program=(sys.executable, "-m", "pooler", *arguments),
        )
        if made:
            pooler.port = made[0].port
        made.append(pooler)
        return pooler.start()

    yield make
    for pooler in made:
        pooler.finish()


def test_three_times_in_a_row_nobody_is_refused(start: Start) -> None:
    old = start()
    visitors = Visitors(old.port, old.unix_path)
    visitors.wait_for(20)
    with old.client() as stays:
        stays.ask(query("BEGIN"))
        first = old
        for workers in (2, 1, 3):
            new = start("-R", workers=workers)
            assert f"taking the place of process {old.pid}" in new.log()
            old.wait_log(f"process {new.pid} has taken over, waiting for all clients")
            assert int((first.ini.parent.parent / "pid").read_text()) == new.pid
            visitors.wait_for(20)
            if old is not first:
                assert old.wait() == 0
            old = new
        # Who was there goes on with whom it has, to its end.
        assert stays.value("SELECT 7") == "7"
        assert not first.has_ended()
        stays.send(query("COMMIT"), TERMINATE)
        assert first.wait() == 0
    assert "client connections dropped, exiting" in first.log()
    visitors.wait_for(20)
    visitors.stop()
    assert (visitors.lost, visitors.told) == ([], [])
    assert old.unix_path.exists()
    assert old.stop(signal.SIGINT) == 0
    assert not old.unix_path.exists()
    assert not (first.ini.parent.parent / "pid").exists()


def refused(pooler: Pooler, *arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "pooler", *arguments, "-R", str(pooler.ini)],
        capture_output=True,
        text=True,
        timeout=30,
        env=ENVIRONMENT,
        check=False,
    )
    assert ended.returncode == 1
    log = pooler.log()
    return ended.stderr + log


def test_what_fails_changes_nothing(start: Start) -> None:
    old = start(admin_users="app")
    with old.client() as client, old.connect("pgbouncer", autocommit=True) as admin:

        def is_as_before() -> bool:
            with old.client() as another:
                fine = another.value("SELECT 1") == client.value("SELECT 1") == "1"
            pid = int(Path(str(old.settings["pidfile"])).read_text())
            return fine and pid == old.pid and old.unix_path.exists()

        admin.execute("pause")
        assert "cannot be taken over while paused" in refused(old)
        admin.execute("resume")
        assert is_as_before()
        # The place where the new one waits is another's, or nobody's.
        for name in ("nobody", "a" * 200):
            with pytest.raises(Exception, match="nobody waits there"):
                admin.execute(f'takeover "{name}"')
        assert is_as_before()
        # A new one that cannot work.
        text = old.ini.read_text()
        old.ini.write_text(text.replace(f"{old.settings['pidfile']}", "/no/pid"))
        assert "could not write pid file" in refused(old)
        old.ini.write_text(text)
        old.wait_log("going on as before")
        assert is_as_before()


@pytest.mark.full
def test_one_that_does_not_answer_goes_on(start: Start) -> None:
    old = start()
    with old.client() as client:
        os.kill(old.pid, signal.SIGSTOP)
        try:
            assert "does not answer" in refused(old)
        finally:
            os.kill(old.pid, signal.SIGCONT)
        assert client.value("SELECT 1") == "1"
    with old.client() as another:
        assert another.value("SELECT 1") == "1"
    assert int(Path(str(old.settings["pidfile"])).read_text()) == old.pid


def test_addresses_come_and_go(start: Start) -> None:
    old = start(listen_addr=HOST)
    new = start("-R", listen_addr="127.0.0.2", workers=1)
    assert old.wait() == 0
    with socket.create_connection(("127.0.0.2", new.port)):
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, new.port))


def test_a_daemon_takes_over_and_may_die(start: Start) -> None:
    """The old one keeps nothing that would be in the way of the next start."""
    old = start(workers=1)
    pidfile = Path(str(old.settings["pidfile"]))
    with old.client() as stays:
        ended = subprocess.run(
            [sys.executable, "-m", "pooler", "-d", "-R", str(old.ini)],
            capture_output=True,
            timeout=DEADLINE_S,
            env=ENVIRONMENT,
            check=False,
        )
        assert ended.returncode == 0, old.log()
        daemon = int(pidfile.read_text())
        assert daemon != old.pid
        try:
            old.wait_log(f"process {daemon} has taken over")
            workers = [one.pid for one in psutil.Process(daemon).children()]
            with old.client() as fresh:
                assert fresh.value("SELECT 1") == "1"
        finally:
            os.kill(daemon, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, workers)), "its workers end")
        assert is_refused(socket.AF_INET, (HOST, old.port))
        assert is_refused(socket.AF_UNIX, str(old.unix_path))
        pidfile.unlink()  # in a container nobody may have reaped it
        third = start()
        with third.client() as fresh:
            assert fresh.value("SELECT 2") == "2"
        assert stays.value("SELECT 3") == "3"
        stays.send(TERMINATE)
        assert old.wait() == 0
    assert third.unix_path.exists()


def is_refused(family: int, address: str | tuple[str, int]) -> bool:
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == errno.ECONNREFUSED


def test_nobody_to_take_over_from(start: Start) -> None:
    pooler = start("-R")
    assert "old process not found, try to continue normally" in pooler.log()
    assert "cannot reboot if unix dir not configured" in refused_without_unix(pooler)
    activated = subprocess.run(
        [sys.executable, "-c", ACTIVATE, "0", "-R", str(pooler.ini)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE_S,
        env=ENVIRONMENT,
        check=False,
    )
    assert activated.returncode == 1
    assert "cannot reboot under service manager" in pooler.log()


def refused_without_unix(pooler: Pooler) -> str:
    text = pooler.ini.read_text()
    pooler.ini.write_text(
        text.replace(f"unix_socket_dir = {pooler.settings['unix_socket_dir']}", "")
        + "\nunix_socket_dir =\n"
    )
    return refused(pooler)


def test_cancel_requests_find_whom_the_old_ones_have(start: Start) -> None:
    """By the new one, also over one that was itself taken over and still lives."""
    oldest = start()
    with oldest.client() as first:
        first.ask(query("BEGIN"))
        middle = start("-R")
        oldest.wait_log("has taken over")
        with middle.client() as second:
            second.ask(query("BEGIN"))
            newest = start("-R")
            middle.wait_log("has taken over")
            for client in (second, first):
                client.send(query("SELECT pg_sleep(30)"))
                while is_silent(client):
                    with newest.wire() as asking:
                        asking.send(cancel_request(client.key))
                        assert asking.read_to_end() == []
                read = client.read_until("Z")
                assert [m.fields["C"] for m in read if m.code == "E"] == ["57014"]
        # Nobody's: answered as soon as all have said so.
        with newest.wire() as asking:
            asking.send(cancel_request(b"\0" * 8))
            assert asking.read_to_end() == []
        first.send(TERMINATE)
    assert middle.wait() == 0
    assert oldest.wait() == 0
    with newest.wire() as asking:
        asking.send(cancel_request(b"\0" * 8))
        assert asking.read_to_end() == []


def is_silent(client: WireClient) -> bool:
    """Nothing has come yet; a request may have come before its query runs."""
    return not select.select([client.socket], [], [], 0.2)[0]
