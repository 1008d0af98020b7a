# SPDX-License-Identifier: MIT
"""A service manager and the pooler: this test plays systemd's side."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import HOST, Pooler, is_alive, wait_until
from tests.integration.visitors import Visitors

# As the manager starts a service with sockets: descriptors 3 …, and who they are for.
ACTIVATE = """
import os, sys
fds = [int(word) for word in sys.argv[1].split(",")]
high = [os.dup2(fd, 200 + n, inheritable=False) for n, fd in enumerate(fds)]
for n, fd in enumerate(high):
    os.dup2(fd, 3 + n)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds))}
os.execv(sys.executable, [sys.executable, "-m", "pooler", *sys.argv[2:]])
"""


class Manager:
    """The peer of NOTIFY_SOCKET."""

    def __init__(self, directory: Path, *, abstract: bool = False) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.address = f"@pooler-notify-{os.getpid()}"
        if abstract:
            self.socket.bind(b"\0" + self.address[1:].encode())
        else:
            self.address = str(directory / "notify")
            self.socket.bind(self.address)
        self.socket.setblocking(False)
        self.told: list[dict[str, str]] = []

    def read(self) -> None:
        try:
            while True:
                lines = self.socket.recv(65536).decode().splitlines()
                self.told.append(dict(line.split("=", 1) for line in lines))
        except BlockingIOError:
            return

    def wait_for(self, name: str, count: int = 1) -> dict[str, str]:
        def is_there() -> bool:
            self.read()
            return sum(name in one for one in self.told) >= count

        wait_until(is_there, name)
        return [one for one in self.told if name in one][count - 1]

    def count(self, name: str) -> int:
        self.read()
        return sum(name in one for one in self.told)


@pytest.fixture
def directory() -> Iterator[Path]:
    # pytest's own directories can be too long for a Unix socket.
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def test_ready_reload_watchdog_and_end(postgres: Postgres, directory: Path) -> None:
    manager = Manager(directory)
    pooler = Pooler(
        directory,
        postgres.port,
        settings={"workers": 2, "stats_period": 1},
        environment={"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000"},
    )
    try:
        pooler.start()
        ready = manager.wait_for("READY")
        assert int(ready["MAINPID"]) == pooler.pid
        none = "0 clients (0 wait), 0 servers (0 idle), 2 workers"
        assert ready["STATUS"] == none
        with pooler.connect(autocommit=True) as client:
            client.execute("SELECT 1")
            manager.wait_for("WATCHDOG", 2)
            status = {"STATUS": "1 clients (0 wait), 1 servers (1 idle), 2 workers"}
            wait_until(
                lambda: manager.count("STATUS") and status in manager.told, "status"
            )
            # Told when it changes; and the watchdog goes on.
            fed = manager.count("WATCHDOG")
            manager.wait_for("WATCHDOG", fed + 2)
            assert manager.told.count(status) == 1

        before_us = time.monotonic_ns() // 1000
        pooler.reload()
        reloading = manager.wait_for("RELOADING")
        assert (
            before_us <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        )
        manager.wait_for("READY", 2)
        names = [next(iter(one)) for one in manager.told]
        assert names.index("RELOADING") < len(names) - 1 - names[::-1].index("READY")

        # One that is refused ends the reload too.
        pooler.reload(no_such_setting=1)
        manager.wait_for("READY", 3)

        pooler.send(signal.SIGTERM)
        assert manager.wait_for("STOPPING")["STATUS"].startswith("shutting down: ")
        assert pooler.wait() == 0
    finally:
        pooler.finish()
        manager.socket.close()


def test_watchdog_is_not_fed_while_a_worker_hangs(
    postgres: Postgres, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = Manager(directory, abstract=True)
    pooler = Pooler(
        directory,
        postgres.port,
        settings={"workers": 2},
        environment={"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "100000"},
    )
    try:
        pooler.start()
        manager.wait_for("WATCHDOG")
        hung = pooler.worker_pids()[0]
        os.kill(hung, signal.SIGSTOP)
        pooler.wait_log("watchdog is not fed")
        before = manager.count("WATCHDOG")
        os.kill(hung, signal.SIGCONT)
        manager.wait_for("WATCHDOG", before + 1)
        assert is_alive(hung)
    finally:
        pooler.finish()
        manager.socket.close()


def listening(
    address: str | tuple[str, int], family: int = socket.AF_INET
) -> socket.socket:
    made = socket.socket(family)
    if family == socket.AF_INET:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(address)
    made.listen(64)
    return made


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_sockets_of_the_manager(
    postgres: Postgres, directory: Path, workers: int
) -> None:
    """One of SO_REUSEPORT for each of two, a single one, and two Unix sockets."""
    first = listening((HOST, 0))
    pair = [first, listening(first.getsockname())]
    single = listening((HOST, 0))
    paths = [str(directory / name) for name in ("one", "two")]
    unix = [listening(path, socket.AF_UNIX) for path in paths]
    sockets = [*pair, single, *unix]
    numbers = [one.fileno() for one in sockets]
    pooler = Pooler(
        directory,
        postgres.port,
        settings={"workers": workers, "unix_socket_dir": directory},
        program=(sys.executable, "-c", ACTIVATE, ",".join(map(str, numbers))),
        pass_fds=tuple(numbers),
    )
    try:
        pooler.start()
        assert pooler.log().count("socket passed from service manager (fd ") == 5
        # What the file says about listening is not looked at.
        assert not (directory / f".s.PGSQL.{pooler.port}").exists()
        with socket.socket() as probe:
            assert probe.connect_ex((HOST, pooler.port)) != 0
        for one in (first, single):
            pooler.port = one.getsockname()[1]
            # Enough that each socket of the pair has got some.
            clients = [pooler.client() for _ in range(12)]
            for client in clients:
                client.close()
        for path in paths:
            with socket.socket(socket.AF_UNIX) as raw:
                raw.settimeout(10)
                raw.connect(path)
                raw.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")
                assert raw.recv(1) == b"N"
        environments = [
            Path(f"/proc/{pid}/environ") for pid in (pooler.pid, *pooler.worker_pids())
        ]
        assert all(one.exists() for one in environments)
        pooler.send(signal.SIGTERM)
        assert pooler.wait() == 0
        # They are the manager's: files stay, and who comes waits for the next start.
        assert all(map(os.path.exists, paths))
        with socket.create_connection(single.getsockname(), 5):
            pass
    finally:
        pooler.finish()
        for one in sockets:
            one.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_restart_refuses_nobody(
    postgres: Postgres, directory: Path, workers: int
) -> None:
    """systemctl restart, by the unit's SIGINT and by SIGTERM, under visitors."""
    path = directory / "unix"
    sockets = [listening((HOST, 0)), listening(str(path), socket.AF_UNIX)]
    numbers = [one.fileno() for one in sockets]
    pooler = Pooler(
        directory,
        postgres.port,
        settings={"workers": workers},
        program=(sys.executable, "-c", ACTIVATE, ",".join(map(str, numbers))),
        pass_fds=tuple(numbers),
    )
    visitors = None
    try:
        pooler.start()
        visitors = Visitors(sockets[0].getsockname()[1], path)
        for signum in (signal.SIGTERM, signal.SIGINT):
            visitors.wait_for(30)
            assert (visitors.lost, visitors.told) == ([], [])
            assert pooler.stop(signum) == 0
            pooler.log_path.unlink()
            pooler.start()
        visitors.wait_for(30)
        visitors.stop()
        assert visitors.lost == []
        # SIGINT sends away who is connected, and says so.
        assert set(visitors.told) <= {"57P01"}
    finally:
        if visitors is not None:
            visitors.stop()
        pooler.finish()
        for one in sockets:
            one.close()


def test_sockets_that_are_of_no_use(postgres: Postgres, directory: Path) -> None:
    with socket.socket() as deaf:
        deaf.bind((HOST, 0))
        number = deaf.fileno()
        pooler = Pooler(
            directory,
            postgres.port,
            program=(sys.executable, "-c", ACTIVATE, str(number)),
            pass_fds=(number,),
        )
        with pytest.raises(AssertionError, match="is no listening stream socket"):
            pooler.start()
        assert pooler.wait() == 1
