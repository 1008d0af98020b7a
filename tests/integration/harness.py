# SPDX-License-Identifier: MIT
"""A real pooler before a real PostgreSQL, watched from outside."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import psutil
import psycopg

from pooler.board.page import Page
from pooler.config import loading
from pooler.demo.postgres import Postgres, port_is_free
from pooler.io.engine import Engine
from pooler.io.selector import EngineSelector
from pooler.ipc.board import Board
from pooler.ipc.bus import Bus
from pooler.ipc.worker_start import WorkerStart
from pooler.login.scram import KeyRequest, ScramKeys
from pooler.worker.pool import tracked_parameters
from pooler.worker.process import Worker, statement_names
from tests.wire_client import WireClient

HOST = "127.0.0.1"
USER = "app"
DATABASE = "bench"
SERVER_PASSWORD = "server secret"  # of the roles of ``secure_postgres``
DEADLINE_S = 15.0
# The programs started here import the tree under test. Their statements have names on
# servers that clients of the tests can guess (pooler_0_1).
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "POOLER_STATEMENT_NAMES": "",
}


def wait_until(
    condition: Callable[[], object], what: str = "", deadline_s: float = DEADLINE_S
) -> None:
    """Return when ``condition()`` is true; the only place where a test sleeps."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what or condition}"
        time.sleep(0.01)


def free_port() -> int:
    """A port below the ephemeral ones, so that no client sits on it."""
    while not port_is_free(port := random.randint(10_000, 19_999)):
        continue
    return port


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_console(pid: int) -> bool:
    """Whether a child of a master is the console."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip() == "pooler console"
    return False


def rss_bytes(pid: int) -> int:
    resident: int = psutil.Process(pid).memory_info().rss
    return resident


def ini_text(
    port: int,
    server_port: int,
    databases: Mapping[str, str],
    settings: Mapping[str, object],
) -> str:
    """A configuration with ``auth_type = any`` unless said otherwise."""
    entries = databases or {"*": ""}
    values = {
        "listen_addr": HOST,
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": "transaction",
        "default_pool_size": 5,
        "max_client_conn": 5000,
        "workers": 1,
        "failed_login_delay": 0,
        "tcp_defer_accept": 0,  # clients that say nothing are looked at
        "core_dumps": 1,  # or tests that are not root's could not look into /proc
        **({"user": "root"} if os.geteuid() == 0 else {}),  # else it is refused
        **settings,
    }
    lines = ["[databases]"]
    for name, entry in entries.items():
        where = "" if "host=" in entry else f"host={HOST} port={server_port} "
        lines.append(f"{name} = {where}{entry}")
    lines.append("[pgbouncer]")
    lines += [f"{name} = {value}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


class MakePooler(Protocol):
    """What the fixture ``make_pooler`` gives."""

    def __call__(
        self,
        databases: Mapping[str, str] | None = None,
        userlist: str | None = None,
        **settings: object,
    ) -> Pooler: ...


@dataclass
class Pooler:
    """One pooler process."""

    directory: Path
    server_port: int
    databases: Mapping[str, str] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)
    userlist: str | None = None
    host: str = HOST
    port: int = field(default_factory=free_port)
    environment: dict[str, str] = field(default_factory=dict)
    # What starts it: the arguments of the pooler follow.
    program: tuple[str, ...] = (sys.executable, "-m", "pooler")
    pass_fds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.ini = self.directory / "pooler.ini"
        self.log_path = self.directory / "log"
        self.stderr_path = self.directory / "stderr"
        self._seen: set[int] = set()
        self.process: subprocess.Popen[bytes] | None = None

    # Life.

    def start(self) -> Pooler:
        """Start the process and return when every worker serves."""
        self.write()
        with self.stderr_path.open("ab") as stderr:
            self.process = subprocess.Popen(
                [*self.program, "-q", str(self.ini)],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env=ENVIRONMENT | self.environment,
                pass_fds=self.pass_fds,
                start_new_session=True,
            )
        wait_until(
            lambda: "process up: pooler " in self.log() or self.has_ended(), "serves"
        )
        assert not self.has_ended(), self.log() + self.stderr_path.read_text()
        return self

    def write(self) -> None:
        """Write the files, as ``databases``, ``settings`` and ``userlist`` are now."""
        settings = {"logfile": self.log_path, **self.settings}
        if self.userlist is not None:
            path = self.directory / "userlist.txt"
            path.write_text(self.userlist)
            settings["auth_file"] = path
        self.ini.write_text(
            ini_text(self.port, self.server_port, self.databases, settings)
        )

    def reload(self, **settings: object) -> None:
        """Change settings; the master is told, its workers may not have reloaded."""
        self.settings.update(settings)
        self.write()
        before = self.log().count("got SIGHUP")
        self.send(signal.SIGHUP)
        wait_until(lambda: self.log().count("got SIGHUP") > before, "reload")

    def reload_all(self, operator: str, **settings: object) -> None:
        """The same by the console, which waits for the workers."""
        self.settings.update(settings)
        self.write()
        with self.connect("pgbouncer", operator, autocommit=True) as console:
            console.execute("reload")

    def send(self, signum: int) -> None:
        assert self.process is not None
        self.process.send_signal(signum)

    def has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def wait(self, seconds: float = DEADLINE_S) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    def stop(self, signum: int = signal.SIGQUIT) -> int:
        """Signal, and return the exit code."""
        self.worker_pids()
        self.send(signum)
        return self.wait()

    def finish(self) -> None:
        """End it if it still runs, and check that it has behaved."""
        code = None
        try:
            if not self.has_ended():
                code = self.stop()
            wait_until(lambda: not any(map(is_alive, self._seen)), "workers end")
        finally:
            self.kill()
        assert code in (None, 0)
        for text in (self.log(), self.stderr_path.read_text()):
            assert "Traceback" not in text, text[-4000:]
            assert "never retrieved" not in text, text[-4000:]

    def kill(self) -> None:
        """Leave no process behind, whatever went wrong."""
        for pid in (self.pid, *self._seen):
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if str(self.ini) in process.cmdline():
                    process.kill()
        if self.process is not None:
            self.process.wait(DEADLINE_S)

    # Looking at it.

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def unix_path(self) -> Path:
        """Its Unix socket; ``unix_socket_dir`` has to be set."""
        return Path(str(self.settings["unix_socket_dir"])) / f".s.PGSQL.{self.port}"

    def worker_pids(self) -> list[int]:
        """The workers that are alive."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.pid).children()
            self._seen.update(child.pid for child in children)
            return sorted(
                child.pid
                for child in children
                if is_alive(child.pid) and not is_console(child.pid)
            )
        return []

    def rss_bytes(self) -> int:
        """Resident memory of all workers."""
        return sum(map(rss_bytes, self.worker_pids()))

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def wait_log(self, text: str, count: int = 1) -> None:
        wait_until(lambda: self.log().count(text) >= count, f"log line {text!r}")

    def sockets_of_workers(self) -> int:
        """Client connections that a worker holds (accepted, not yet closed)."""
        return sum(
            1
            for pid in self.worker_pids()
            for one in psutil.Process(pid).net_connections("tcp")
            if one.laddr.port == self.port and one.status != psutil.CONN_LISTEN
        )

    # Using it.

    def dsn(self, database: str = DATABASE, user: str = USER) -> str:
        return f"postgresql://{user}@{self.host}:{self.port}/{database}"

    def connect(
        self, database: str = DATABASE, user: str = USER, **more: Any
    ) -> psycopg.Connection[tuple[Any, ...]]:
        """A psycopg connection that does not prepare by itself."""
        options: dict[str, Any] = {
            "connect_timeout": 10,
            "prepare_threshold": None,
            **more,
        }
        return psycopg.connect(
            host=self.host, port=self.port, dbname=database, user=user, **options
        )

    def wire(self, **more: Any) -> WireClient:
        """A raw client that has not said anything yet."""
        return WireClient(self.port, **more)

    def client(self, database: str = DATABASE, **parameters: str) -> WireClient:
        """A raw client that is logged in."""
        return self.wire().login(USER, database, **parameters)


def refused_start(directory: Path, settings: Mapping[str, object]) -> str:
    """Start a pooler that may not start; what it says."""
    ini = directory / "refused.ini"
    ini.write_text(ini_text(free_port(), 1, {}, settings))
    ended = subprocess.run(
        [sys.executable, "-m", "pooler", str(ini)],
        capture_output=True,
        text=True,
        timeout=30,
        env=ENVIRONMENT,
        check=False,
    )
    assert ended.returncode != 0
    return ended.stderr


def backends(
    postgres: Postgres, database: str = DATABASE, user: str = USER
) -> list[int]:
    """The backends that serve a pool."""
    rows = postgres.psql(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
        f" AND datname = '{database}' AND usename = '{user}'"
        " AND pid <> pg_backend_pid() ORDER BY 1"
    )
    return [pid for (pid,) in rows]


def of_pooler(board: Board | None) -> dict[str, Any]:
    """What the engines of one pooler have in common, but for their sockets."""
    if board is None:
        return {}
    return {
        **statement_names(0, bytes(32)),
        "schema_cell": board.schema_cell(),
        "parse_cell": board.parse_cell(),
    }


class InProcess:
    """A worker in a thread of this process, so that its engine can be looked at."""

    def __init__(
        self,
        directory: Path,
        server_port: int,
        board: Board | None = None,
        **settings: object,
    ) -> None:
        """``board``: of a pooler of which this is one worker; None: its only one."""
        self.port = free_port()
        ini = directory / "worker.ini"
        ini.write_text(ini_text(self.port, server_port, {}, settings))
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((HOST, self.port))
        self.listener.listen(1024)
        self.listener.setblocking(False)
        self._ready = os.pipe()
        self._master = os.pipe()
        slots = int(str(settings.get("workers", 1)))  # it is the one in the first
        self._bus = Bus.for_slots(slots).claim(0)
        self.board = Board.for_slots(slots)
        self.page = Page(slots)
        self._failure: BaseException | None = None
        self.complaints: list[dict[str, Any]] = []
        loaded = loading.load(str(ini))
        self.engine = Engine(tracked_parameters(loaded).values(), **of_pooler(board))
        self.loop = asyncio.SelectorEventLoop(EngineSelector(self.engine))
        self.loop.set_exception_handler(lambda _, said: self.complaints.append(said))
        start = WorkerStart(
            slot=0,
            workers=slots,
            config=loaded,
            tcp_listeners=(self.listener,),
            unix_listener=None,
            ready_fd=self._ready[1],
            master_fd=self._master[0],
            bus=self._bus,
            board=self.board,
            page=self.page,
            mock_key=bytes(32),
        )
        self.worker = Worker(start, self.engine, self.loop)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert os.read(self._ready[0], 1) == b"R"

    def _run(self) -> None:
        try:
            asyncio.set_event_loop(self.loop)
            self.loop.run_until_complete(self.worker.serve())
        except BaseException as error:
            self._failure = error

    def counters(self) -> dict[str, int]:
        """The counters once the worker rests: an answer comes before it is counted."""
        seen: list[dict[str, int]] = []

        def rests() -> bool:
            seen.append(self.engine.counters())
            return len(seen) > 1 and all(
                seen[-1][name] == seen[-2][name] for name in ("sends", "recvs")
            )

        wait_until(rests, "the worker rests")
        return seen[-1]

    def client(self, database: str = DATABASE, **parameters: str) -> WireClient:
        return WireClient(self.port).login(USER, database, **parameters)

    def wait_for_clients_to_leave(self) -> None:
        """A client that has closed is still counted until the worker sees it."""
        wait_until(lambda: self.engine.client_count == 0, "clients leave", 5)

    def stop(self) -> None:
        """End the worker and check that nothing of any connection is left."""
        self.loop.call_soon_threadsafe(self.worker.leave_now)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the worker does not end"
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        if left:
            self.loop.run_until_complete(asyncio.wait(left))
        before = self.counters()
        self.engine.close()
        after = self.counters()
        self.loop.close()
        for fd in (self._ready[0], *self._master):
            os.close(fd)
        self.listener.close()
        self._bus.close()
        self.board.close()
        gc.unfreeze()
        assert self._failure is None, self._failure
        assert not self.complaints, self.complaints
        assert (before["clients"], before["logins"]) == (0, 0)
        for name in (
            "clients",
            "logins",
            "servers",
            "parameter_sets",
            "parameter_values",
            "statements",
            "statement_bytes",
        ):
            assert after[name] == 0, (name, after)


class Derivations:
    """All derivations of keys stand still until they are let go."""

    def __init__(self) -> None:
        self.asked: list[KeyRequest] = []
        self.may_go = threading.Event()
        self._derive = KeyRequest.derive

    def derive(self, request: KeyRequest) -> ScramKeys:
        self.asked.append(request)
        assert self.may_go.wait(20)
        return self._derive(request)


class Background:
    """What goes on in a thread of its own as long as it is open; see ``_run``."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        """Return soon after ``_stop`` is set."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@contextlib.contextmanager
def many(
    pooler: Pooler, count: int, database: str = DATABASE
) -> Iterator[list[WireClient]]:
    """So many clients that stay."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(pooler.client(database)) for _ in range(count)]


@contextlib.contextmanager
def closing_all(clients: list[WireClient]) -> Iterator[list[WireClient]]:
    """Close the clients at the end, however many there are by then."""
    try:
        yield clients
    finally:
        for one in clients:
            one.close()
