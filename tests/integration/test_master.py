# SPDX-License-Identifier: MIT
"""The master with real processes and a fake worker.

Run as a program this file is the pooler under test: ``FILE CONFIG BEHAVIOUR DIR``.
The fake worker answers every connection with ``SLOT PID`` and writes what happens to
it into ``DIR/events``, one line each.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from pooler import VERSION_TEXT, cli
from pooler.config import loading
from pooler.ipc.bus import MASTER
from pooler.ipc.worker_start import (
    EXIT_BOOT_FAILURE,
    READY,
    ConsoleStart,
    WorkerStart,
)
from pooler.master.process import Master, Timing

DEADLINE_S = 20.0
# The programs started here import the tree under test.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
TIMING = Timing(birth_s=0.3, backoff_first_s=0.05, backoff_most_s=0.4, kill_after_s=0.3)


# The fake worker


@dataclass(frozen=True)
class FakeWorker:
    behaviour: str
    directory: Path

    def note(self, *words: object) -> None:
        line = " ".join(map(str, words)) + "\n"
        fd = os.open(
            self.directory / "events", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600
        )
        os.write(fd, line.encode())
        os.close(fd)

    def run(self, start: WorkerStart) -> int:
        self.note("born", start.slot, os.getpid(), time.monotonic())
        assert start.board.get(start.slot, "pid") == os.getpid()
        healed = (self.directory / "heal").exists()
        if self.behaviour == "dies" and start.slot == 0 and not healed:
            raise RuntimeError("cannot live\nlike this")
        if self.behaviour == "boot-failure" and start.slot == 1:
            return EXIT_BOOT_FAILURE
        if start.slot == 1 and (self.directory / "refuse").exists():
            return EXIT_BOOT_FAILURE
        if self.behaviour == "real-refusal":
            return refused_by_the_engine(start)
        if self.behaviour == "late" and (self.directory / "hold").exists():
            wait_for(lambda: not (self.directory / "hold").exists())
        return self.serve(start)

    def serve(self, start: WorkerStart) -> int:
        leave: list[int] = []

        def on_signal(signum: int, frame: object) -> None:
            self.note("signal", start.slot, signal.Signals(signum).name)
            leave.append(signum)

        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(signum, on_signal)
        stay_for = {
            "stubborn": (signal.SIGTERM, signal.SIGINT),
            "deaf": (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT),
        }.get(self.behaviour, ())
        selector = selectors.DefaultSelector()
        for listener in (*start.tcp_listeners, start.unix_listener):
            if listener is not None:
                selector.register(listener, selectors.EVENT_READ, "accept")
        selector.register(start.master_fd, selectors.EVENT_READ, "orphan")
        selector.register(start.bus.fileno(start.slot), selectors.EVENT_READ, "bus")
        start.board.set(start.slot, "serves", 1)
        os.write(start.ready_fd, READY)
        os.close(start.ready_fd)
        while not any(signum not in stay_for for signum in leave):
            # A signal may come just before the wait: it must not be slept through.
            for key, _ in selector.select(0.05):
                if key.data == "orphan":
                    self.note("orphan", start.slot, os.getpid())
                    return 0
                if key.data == "bus":
                    message = start.bus.receive(start.slot)
                    assert message is not None
                    self.note(message.kind, start.slot, message.payload)
                    message.close_fds()
                    start.bus.send(MASTER, "done", {})
                else:
                    self.answer(key.fileobj, start)
        return 0

    def answer(self, listener: object, start: WorkerStart) -> None:
        assert isinstance(listener, socket.socket)
        with contextlib.suppress(BlockingIOError):
            connection, _ = listener.accept()
            with connection:
                connection.sendall(f"{start.slot} {os.getpid()}\n".encode())


def idle_console(start: ConsoleStart) -> int:
    """A console that nobody asks, until the master is gone."""
    os.write(start.ready_fd, READY)
    os.close(start.ready_fd)
    os.read(start.master_fd, 1)
    return 0


def refused_by_the_engine(start: WorkerStart) -> int:
    """The real worker with a configuration that has passed every check."""
    from pooler.worker import process

    name = "x" * 64
    settings = replace(start.config.settings, track_extra_parameters=(name,))
    return process.run(replace(start, config=replace(start.config, settings=settings)))


def program(config_file: str, behaviour: str, directory: str) -> int:
    fake = FakeWorker(behaviour, Path(directory))
    if behaviour == "cli":
        # Everything after the directory is the command line of `pooler`.
        module = types.ModuleType("pooler.worker.process")
        module.run = FakeWorker("normal", Path(directory)).run  # type: ignore[attr-defined]
        sys.modules["pooler.worker.process"] = module
        # Nor may the real console be imported by a user who cannot read Python's files.
        console = types.ModuleType("pooler.console.process")
        console.run = idle_console  # type: ignore[attr-defined]
        sys.modules["pooler.console.process"] = console
        sys.argv = ["pooler", *sys.argv[4:], config_file]
        cli.main()
    from pooler import log

    loaded = loading.load(config_file)
    log.configure(loaded.settings.logfile, quiet=True, verbose=1)
    return Master(loaded, worker_main=fake.run, timing=TIMING, verbose=1).run()


# Watching it from outside


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.005)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Pooler:
    """One pooler process under test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.ini = directory / "pooler.ini"
        self.logfile = directory / "log"
        self.pidfile = directory / "pid"
        self.unix = directory / f".s.PGSQL.{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.write_ini()

    def write_ini(self, workers: int = 2, extra: str = "") -> None:
        self.ini.write_text(
            "[databases]\n"
            "a = host=127.0.0.1\n"
            "[pgbouncer]\n"
            "listen_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\n"
            f"unix_socket_dir = {self.directory}\n"
            f"logfile = {self.logfile}\n"
            f"pidfile = {self.pidfile}\n"
            "auth_type = any\n"
            "pool_mode = transaction\n"
            f"workers = {workers}\n"
            f"{'user = root' if os.geteuid() == 0 else ''}\n"
            f"{extra}"
        )

    def start(self, behaviour: str = "normal", *, up: bool = True) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(self.ini), behaviour, str(self.directory)],
            stdin=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
        if up:
            self.wait_up()

    def wait_up(self) -> None:
        wait_for(lambda: "process up: pooler " in self.log() or self.has_ended())
        assert "process up: pooler " in self.log()

    def has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def send(self, signum: int) -> None:
        assert self.process is not None
        self.process.send_signal(signum)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(DEADLINE_S)

    def log(self) -> str:
        return self.logfile.read_text() if self.logfile.exists() else ""

    def wait_log(self, text: str, count: int = 1) -> None:
        wait_for(lambda: self.log().count(text) >= count)

    def events(self, kind: str) -> list[list[str]]:
        path = self.directory / "events"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split()[1:] for line in lines if line.startswith(f"{kind} ")]

    def wait_events(self, kind: str, count: int) -> list[list[str]]:
        wait_for(lambda: len(self.events(kind)) >= count)
        return self.events(kind)

    def pids(self) -> list[int]:
        return [int(pid) for _, pid, _ in self.events("born")]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)

    def ask(self) -> tuple[int, int]:
        with self.connect() as client:
            return read_answer(client)

    def assert_nothing_left(self) -> None:
        assert not self.unix.exists()
        assert not self.pidfile.exists()
        assert not any(is_alive(pid) for pid in self.pids())
        with pytest.raises(ConnectionRefusedError):
            self.connect()

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE_S)
        # The workers of a master that was killed leave by themselves; deaf ones and
        # stopped ones do not.
        for pid in self.pids():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if process.cmdline()[1:2] == [__file__]:
                    process.kill()
        wait_for(lambda: not any(is_alive(pid) for pid in self.pids()))


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def read_answer(client: socket.socket) -> tuple[int, int]:
    raw = b""
    while not raw.endswith(b"\n"):
        more = client.recv(100)
        assert more, "closed without an answer"
        raw += more
    slot, pid = raw.split()
    return int(slot), int(pid)


@pytest.fixture
def pooler() -> Iterator[Pooler]:
    # pytest's own directories can be too long for a Unix socket.
    with tempfile.TemporaryDirectory() as directory:
        made = Pooler(Path(directory))
        yield made
        made.end()


# Births


def test_all_workers_serve_one_port_and_the_unix_socket(pooler: Pooler) -> None:
    pooler.write_ini(workers=3)
    pooler.start()
    seen: set[tuple[int, int]] = set()
    deadline = time.monotonic() + DEADLINE_S
    while len(seen) < 3 and time.monotonic() < deadline:
        seen.add(pooler.ask())
    assert {slot for slot, _ in seen} == {0, 1, 2}
    assert {pid for _, pid in seen} == set(pooler.pids())
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE_S)
        client.connect(str(pooler.unix))
        assert read_answer(client) in seen
    assert pooler.process is not None
    assert int(pooler.pidfile.read_text()) == pooler.process.pid
    for text in (
        f"listening on 127.0.0.1:{pooler.port}",
        f"listening on unix:{pooler.unix}",
        "kernel file descriptor limit: ",
        "max_client_conn: 100, max expected fd use: ",
        "workers 3",
    ):
        assert text in pooler.log()


def test_a_worker_holds_nothing_that_is_not_its_own(pooler: Pooler) -> None:
    pooler.write_ini(workers=3)
    pooler.start()
    for _, pid, _ in pooler.events("born"):
        listening = [
            one
            for one in psutil.Process(int(pid)).net_connections("tcp")
            if one.status == psutil.CONN_LISTEN
        ]
        assert len(listening) == 1


def test_master_loads_the_board_alone_and_no_worker() -> None:
    code = (
        "import sys, pooler.cli;"
        "bad = [n for n, m in sys.modules.items() if n.startswith('pooler')"
        " and (m.__file__.endswith('.so') and not n.startswith('pooler.board.')"
        " or n == 'pooler.worker.process')];"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=DEADLINE_S, env=ENVIRONMENT
    )


# Deaths


def test_backlog_survives_a_killed_worker(pooler: Pooler) -> None:
    pooler.write_ini(workers=1)
    pooler.start("late")
    [first] = pooler.pids()
    hold = pooler.directory / "hold"
    hold.touch()
    # Stopped, it cannot take this connection any more: it is in the backlog.
    os.kill(first, signal.SIGSTOP)
    with pooler.connect() as before:
        os.kill(first, signal.SIGKILL)
        pooler.wait_log(f"worker 0 (pid {first}) killed by SIGKILL")
        with pooler.connect() as between:
            second = int(pooler.wait_events("born", 2)[1][1])
            hold.unlink()
            assert read_answer(before) == (0, second)
            assert read_answer(between) == (0, second)


def test_only_the_dead_worker_is_replaced(pooler: Pooler) -> None:
    pooler.start()
    (dead_slot, dead, _), (_, other, _) = pooler.events("born")
    os.kill(int(dead), signal.SIGKILL)
    slot, successor, _ = pooler.wait_events("born", 3)[2]
    assert slot == dead_slot
    assert pooler.ask()[1] in (int(successor), int(other))
    pooler.send(signal.SIGTERM)
    assert pooler.wait() == 0
    assert len(pooler.pids()) == 3


def test_death_at_birth_backs_off_and_heals(pooler: Pooler) -> None:
    pooler.start("dies", up=False)
    born = [one for one in pooler.wait_events("born", 8) if one[0] == "0"][:7]
    times = [float(at) for _, _, at in born]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    # 0.05, 0.1, 0.2, then 0.4 for ever; births themselves take time on top.
    for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.4, 0.4, 0.4), strict=True):
        assert least <= pause < least + 2
    assert "process up" not in pooler.log()
    assert "ERROR RuntimeError: cannot live" in pooler.log()
    assert "exited with code 1" in pooler.log()
    (pooler.directory / "heal").touch()
    pooler.wait_up()
    pooler.send(signal.SIGTERM)
    assert pooler.wait() == 0
    pooler.assert_nothing_left()


def test_boot_failure_stops_everything(pooler: Pooler) -> None:
    pooler.start("boot-failure", up=False)
    assert pooler.wait() == 1
    assert "FATAL worker 1 cannot work with this configuration" in pooler.log()
    pooler.assert_nothing_left()


def test_worker_that_refuses_its_configuration_says_why(pooler: Pooler) -> None:
    pooler.write_ini(workers=1)
    pooler.start("real-refusal", up=False)
    assert pooler.wait() == 1
    why = "cannot work with this configuration: parameter name of 64 bytes"
    assert f"ERROR worker 0 {why}" in pooler.log()
    assert "FATAL worker" in pooler.log()
    assert "Traceback" not in pooler.log()
    assert "starts again" not in pooler.log()
    pooler.assert_nothing_left()


def test_boot_failure_after_the_start_backs_off(pooler: Pooler) -> None:
    """The other workers serve on, and the next configuration may be better."""
    pooler.start()
    (_, other, _), (_, dead, _) = sorted(pooler.events("born"))
    refuse = pooler.directory / "refuse"
    refuse.touch()
    os.kill(int(dead), signal.SIGKILL)
    pooler.wait_log("cannot work with this configuration", 4)
    assert "worker 1 starts again in 0.2 s" in pooler.log()
    assert "giving up" not in pooler.log()
    # Shared by all: what the kernel gives to the dead one's TCP socket waits for it.
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE_S)
        client.connect(str(pooler.unix))
        assert read_answer(client) == (0, int(other))
    born = len(pooler.pids())
    refuse.unlink()
    pooler.wait_events("born", born + 1)
    wait_for(lambda: pooler.ask()[0] == 1)
    pooler.send(signal.SIGTERM)
    assert pooler.wait() == 0
    pooler.assert_nothing_left()


def test_unknown_children_are_reaped(pooler: Pooler) -> None:
    # The grandchild of a child that exits at once goes to the nearest subreaper;
    # a program started through exec keeps the children it had before.
    code = (
        "import os, sys\n"
        "if os.fork() == 0: os._exit(3)\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
    )
    pooler.process = subprocess.Popen(
        [
            *(sys.executable, "-c", code),
            *(__file__, str(pooler.ini), "normal", str(pooler.directory)),
        ],
        env=ENVIRONMENT,
    )
    pooler.wait_up()
    master = psutil.Process(pooler.process.pid)
    # Any death of a child makes the master collect all of them.
    os.kill(pooler.pids()[0], signal.SIGKILL)
    pooler.wait_events("born", 3)
    wait_for(
        lambda: all(
            child.status() != psutil.STATUS_ZOMBIE for child in master.children()
        )
    )
    assert len(master.children()) == 3  # two workers and the console


# The end


@pytest.mark.parametrize(
    ("signum", "texts"),
    [
        (
            signal.SIGTERM,
            (
                "got SIGTERM, shutting down, waiting for all clients disconnect",
                "client connections dropped, exiting",
            ),
        ),
        (
            signal.SIGINT,
            (
                "got SIGINT, shutting down, waiting for all servers connections to be"
                " released",
                "server connections dropped, exiting",
            ),
        ),
        (signal.SIGQUIT, ("got SIGQUIT, fast exit",)),
    ],
)
def test_each_end_is_clean(
    pooler: Pooler, signum: signal.Signals, texts: tuple[str, ...]
) -> None:
    pooler.start()
    pooler.send(signum)
    assert pooler.wait() == 0
    for text in texts:
        assert f" LOG {text}\n" in pooler.log()
    got = sorted(pooler.events("signal"))
    assert got == [["0", signum.name], ["1", signum.name]]
    pooler.assert_nothing_left()


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_second_signal_is_immediate(
    pooler: Pooler, first: signal.Signals, second: signal.Signals
) -> None:
    pooler.start("stubborn")
    pooler.send(first)
    pooler.wait_events("signal", 2)
    assert not pooler.has_ended()
    assert pooler.unix.exists()
    pooler.send(second)
    assert pooler.wait() == 0
    why = "" if second is signal.SIGQUIT else " while shutting down"
    assert f"got {second.name}{why}, fast exit" in pooler.log()
    assert sorted(pooler.events("signal")[2:]) == [["0", "SIGQUIT"], ["1", "SIGQUIT"]]
    pooler.assert_nothing_left()


def test_deaf_and_stopped_workers_are_killed(pooler: Pooler) -> None:
    pooler.start("deaf")
    os.kill(pooler.pids()[1], signal.SIGSTOP)
    pooler.send(signal.SIGQUIT)
    assert pooler.wait() == 0
    assert pooler.log().count("does not end, killing it") == 2
    pooler.assert_nothing_left()


def test_worker_that_dies_while_draining_is_not_replaced(pooler: Pooler) -> None:
    pooler.start("stubborn")
    pooler.send(signal.SIGTERM)
    pooler.wait_events("signal", 2)
    for pid in pooler.pids():
        os.kill(pid, signal.SIGKILL)
    assert pooler.wait() == 0
    assert len(pooler.pids()) == 2
    pooler.assert_nothing_left()


def test_workers_notice_a_killed_master(pooler: Pooler) -> None:
    pooler.start()
    pooler.send(signal.SIGKILL)
    assert pooler.wait() == -signal.SIGKILL
    pooler.wait_events("orphan", 2)
    wait_for(lambda: not any(is_alive(pid) for pid in pooler.pids()))
    # What a killed pooler leaves behind does not keep the next one from starting.
    assert pooler.unix.exists()
    assert pooler.pidfile.exists()
    pooler.logfile.unlink()
    pooler.start()
    assert "stale pidfile, removing" in pooler.log()
    assert "stale unix socket" in pooler.log()


def test_a_pid_file_that_names_a_zombie_is_stale(pooler: Pooler) -> None:
    """As in a container whose first process collects nobody."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    stat = Path(f"/proc/{dead.pid}/stat")
    wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z")
    pooler.pidfile.write_text(f"{dead.pid}\n")
    pooler.start()
    assert "stale pidfile, removing" in pooler.log()
    dead.wait()


# Other signals


def test_reload_reaches_every_worker(pooler: Pooler) -> None:
    pooler.start()
    new_log = pooler.directory / "new-log"
    pooler.write_ini(workers=5)
    text = pooler.ini.read_text().replace(str(pooler.logfile), str(new_log))
    pooler.ini.write_text(text)
    pooler.send(signal.SIGHUP)
    reloads = pooler.wait_events("reload", 2)
    assert sorted(one[0] for one in reloads) == ["0", "1"]
    assert all(str(new_log) in " ".join(one) for one in reloads)
    assert "got SIGHUP, re-reading config" in pooler.log()
    assert "workers: a change needs a restart, ignored" in pooler.log()
    pooler.send(signal.SIGTERM)
    assert pooler.wait() == 0
    assert "got SIGTERM" in new_log.read_text()
    assert "got SIGTERM" not in pooler.log()


def test_bad_file_leaves_the_running_configuration(pooler: Pooler) -> None:
    pooler.start()
    pooler.write_ini(extra="max_client_conn = many\n")
    line = len(pooler.ini.read_text().splitlines())
    pooler.send(signal.SIGHUP)
    pooler.wait_log(f"ERROR {pooler.ini}:{line}: max_client_conn: ")
    pooler.ini.unlink()
    pooler.send(signal.SIGHUP)
    pooler.wait_log("the running configuration is kept", 2)
    assert pooler.events("reload") == []
    pooler.ask()


def test_harmless_signals(pooler: Pooler) -> None:
    pooler.start()
    pooler.send(signal.SIGPIPE)
    pooler.send(signal.SIGUSR1)
    pooler.wait_log("got SIGUSR1")
    pooler.send(signal.SIGUSR2)
    pooler.wait_log("got SIGUSR2")
    for pid in pooler.pids():
        for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
            os.kill(pid, signum)
    pooler.ask()
    assert len(pooler.pids()) == 2


# Starts that are refused


def test_second_pooler_is_refused(pooler: Pooler) -> None:
    pooler.start()
    log = pooler.logfile
    other = pooler.directory / "other.ini"
    text = pooler.ini.read_text().replace(f"unix_socket_dir = {pooler.directory}", "")
    text += "unix_socket_dir =\n"
    refusals = {
        # The same file again: the pid file is looked at first.
        pooler.ini.read_text(): "pid file exists and process",
        text.replace(f"pidfile = {pooler.pidfile}", ""): "is in use by another process",
        pooler.ini.read_text()
        .replace("listen_addr = 127.0.0.1", "")
        .replace(f"pidfile = {pooler.pidfile}", ""): "unix socket is in use",
    }
    for ini, reason in refusals.items():
        other.write_text(ini.replace(f"logfile = {log}", ""))
        done = run_cli(str(other))
        assert done.returncode == 1
        assert reason in done.stderr
        assert " FATAL " in done.stderr
    assert pooler.pidfile.exists()
    assert pooler.unix.exists()
    pooler.ask()


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pooler", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        env=ENVIRONMENT,
    )


def test_online_restart_starts_when_nobody_runs(pooler: Pooler) -> None:
    """It goes on to what comes after, here a pid file that cannot be written."""
    text = pooler.ini.read_text().replace(f"logfile = {pooler.logfile}", "")
    text = text.replace(f"pidfile = {pooler.pidfile}", "pidfile = /no/x")
    pooler.ini.write_text(text)
    said = run_cli("-R", str(pooler.ini)).stderr
    assert "old process not found, try to continue normally" in said
    assert "FATAL pidfile: /no/x: could not write" in said


def test_config_error_is_one_fatal_line(pooler: Pooler) -> None:
    pooler.write_ini(extra="max_client_conn = many\n")
    line = len(pooler.ini.read_text().splitlines())
    done = run_cli(str(pooler.ini))
    assert done.returncode == 1
    assert done.stdout == ""
    [error] = done.stderr.splitlines()
    assert f" FATAL {pooler.ini}:{line}: max_client_conn: " in error
    pooler.assert_nothing_left()


def test_what_no_worker_can_follow_is_refused_by_the_master(pooler: Pooler) -> None:
    """At the start and at a reload: else workers would die at birth for ever."""
    names = ", ".join(f"name_{number}" for number in range(11))
    bad = f"track_extra_parameters = {names}\n"
    pooler.write_ini(extra=bad)
    line = len(pooler.ini.read_text().splitlines())
    said = f"{pooler.ini}:{line}: track_extra_parameters: "
    done = run_cli(str(pooler.ini))
    assert done.returncode == 1
    assert f" FATAL {said}" in done.stderr
    assert "at most 10" in done.stderr
    pooler.write_ini()
    pooler.start()
    pooler.write_ini(extra=bad)
    pooler.send(signal.SIGHUP)
    pooler.wait_log(f"ERROR {said}")
    assert "the running configuration is kept" in pooler.log()
    os.kill(pooler.pids()[0], signal.SIGKILL)
    pooler.wait_events("born", 3)
    pooler.ask()


@pytest.mark.parametrize(
    ("ini", "setting"),
    [
        ("logfile = /no/such/dir/log", "logfile"),
        ("pidfile = /no/such/dir/pid", "pidfile"),
        ("listen_addr = no-such-host.invalid", "listen_addr"),
        ("unix_socket_dir = /no/such/dir", "unix_socket_dir"),
        ("user = no-such-user-here", "user"),
    ],
)
def test_what_cannot_work_is_told(pooler: Pooler, ini: str, setting: str) -> None:
    lines = pooler.ini.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("logfile", setting))]
    pooler.ini.write_text("\n".join([*kept, ini, ""]))
    done = run_cli(str(pooler.ini))
    assert done.returncode == 1
    assert f" FATAL {setting}: " in done.stderr
    pooler.assert_nothing_left()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("-V",), 0, f"{VERSION_TEXT}\nPython "),
        (("--help",), 0, "CONFIG_FILE"),
        ((), 1, "CONFIG_FILE"),
        (("a.ini", "b.ini"), 1, "b.ini"),
        (("--wrong", "a.ini"), 1, "--wrong"),
        (("/no/such/file.ini",), 1, "FATAL"),
    ],
)
def test_command_line(arguments: tuple[str, ...], code: int, text: str) -> None:
    done = run_cli(*arguments)
    assert done.returncode == code
    assert text in done.stdout + done.stderr


def test_daemon_needs_a_pidfile(pooler: Pooler) -> None:
    pooler.ini.write_text(pooler.ini.read_text().replace("pidfile", ";pidfile"))
    pooler.ini.write_text(pooler.ini.read_text().replace("logfile", ";logfile"))
    done = run_cli("-d", str(pooler.ini))
    assert done.returncode == 1
    assert "FATAL pidfile: a daemon (-d) needs a pid file" in done.stderr


def test_daemon_returns_when_it_serves(pooler: Pooler) -> None:
    arguments = [str(pooler.ini), "cli", str(pooler.directory), "-d"]
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        timeout=DEADLINE_S,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0
    daemon = psutil.Process(int(pooler.pidfile.read_text()))
    try:
        assert pooler.ask()[1] in pooler.pids()
        assert os.getsid(daemon.pid) not in (daemon.pid, os.getsid(0))
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(DEADLINE_S)
    assert "client connections dropped, exiting" in pooler.log()
    wait_for(lambda: not pooler.unix.exists())
    pooler.assert_nothing_left()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_user_drops_all_privileges(pooler: Pooler) -> None:
    pooler.directory.chmod(0o1777)
    arguments = [str(pooler.ini), "cli", str(pooler.directory), "-q", "-u", "nobody"]
    pooler.process = subprocess.Popen(
        [sys.executable, __file__, *arguments], env=ENVIRONMENT
    )
    pooler.wait_up()
    master = psutil.Process(pooler.process.pid)
    for process in (master, *master.children()):
        assert 0 not in process.uids()
        assert 0 not in process.gids()
    assert pooler.logfile.stat().st_uid == pooler.unix.stat().st_uid != 0
    pooler.send(signal.SIGTERM)
    assert pooler.wait() == 0
    pooler.assert_nothing_left()


if __name__ == "__main__":
    sys.exit(program(*sys.argv[1:4]))
