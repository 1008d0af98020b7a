# SPDX-License-Identifier: MIT
"""``make run``: a PostgreSQL of its own, the pooler before it, and how to use them.

Demo layer. Everything lives in temporary directories and is gone when the
demo ends, by Ctrl-C, by SIGTERM, or because one of the two servers ended.
Only the user ``demo``, who is no superuser, may log in over TCP.
"""

from __future__ import annotations

import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import click
import psycopg

from pooler.demo.guard import Guard, log_tail, remove_tree
from pooler.demo.postgres import (
    HOST,
    Installation,
    Postgres,
    find_installation,
    port_is_free,
)
from pooler.errors import PoolerError

DATABASE = "demo"
USER = "demo"
DEFAULT_PORT = 6432
READY_DEADLINE_S = 30.0
RETRY_INTERVAL_S = 0.05
STOP_DEADLINE_S = 10.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
POOLER_COMMAND = (sys.executable, "-m", "pooler")
PACKAGE_ROOT = Path(__file__).resolve().parents[2]

HBA = f"host {DATABASE} {USER} {HOST}/32 trust"

CONFIG = """\
[databases]
{database} = host={host} port={server_port} dbname={database}

[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir = {directory}
auth_type = trust
auth_file = {directory}/userlist.txt
pool_mode = transaction
default_pool_size = 20
max_client_conn = 5000
admin_users = {admin}
logfile =
user = {user}
"""


class Child:
    """A server process that the demo started: output to a log, ended as a group."""

    def __init__(self, name: str, command: Sequence[str], log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=PACKAGE_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal is for the demo; and a group of its own
                # lets stop() end what the process has forked.
                start_new_session=True,
            )
        self.pid = self._process.pid

    def ended_within(self, seconds: float) -> bool:
        """Wait for the end of the process, but do not reap it."""
        handle = os.pidfd_open(self.pid)
        try:
            return bool(_readable([handle], seconds))
        finally:
            os.close(handle)

    def stop(self) -> None:
        """Ask for an immediate stop, then end the whole group."""
        if not self.ended_within(0):
            self._process.send_signal(signal.SIGQUIT)
            self.ended_within(STOP_DEADLINE_S)
        # Not reaped yet, so the number of the group cannot be anybody else's.
        os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def wait_until(self, probe: Callable[[], object], seconds: float) -> None:
        """Return when ``probe`` raises no psycopg.OperationalError any more."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                probe()
                return
            except psycopg.OperationalError as error:
                if self.ended_within(RETRY_INTERVAL_S):
                    raise self.failure("ended at once") from error
                if time.monotonic() > deadline:
                    problem = f"does not answer after {seconds:.0f} s ({error})"
                    raise self.failure(problem) from error

    def failure(self, problem: str) -> PoolerError:
        """Return an error that shows the end of the log."""
        return PoolerError(
            f"{self.name} {problem}; its log says:\n{log_tail(self.log_path)}"
        )


def _readable(handles: Sequence[int], seconds: float | None = None) -> list[int]:
    """Wait until a handle is readable; which, for a process, is when it ended."""
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    ready = poll.poll(None if seconds is None else seconds * 1000)
    return [handle for handle, _ in ready]


def wait_for_an_end(watched: Mapping[str, int]) -> str:
    """Block until one of the processes (name to pid) has ended; return its name."""
    with ExitStack() as stack:
        handles: dict[int, str] = {}
        for name, pid in watched.items():
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                return name
            stack.callback(os.close, handle)
            handles[handle] = name
        return handles[_readable(list(handles))[0]]


@contextmanager
def stop_signals_interrupt() -> Iterator[None]:
    """Turn the signals that ask for an end into KeyboardInterrupt; once.

    Later ones are ignored, so that an impatient second Ctrl-C does not interrupt
    the cleaning up.
    """

    def interrupt(*_: object) -> NoReturn:
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    # All of them explicitly: a shell starts its background jobs with SIGINT and
    # SIGQUIT ignored, and an ignored signal stays so in the child processes.
    before = {each: signal.signal(each, interrupt) for each in STOP_SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def fill(postgres: Postgres) -> None:
    """Make the demo user and database with a small data set."""
    postgres.psql(f"CREATE ROLE {USER} LOGIN")
    postgres.psql(f"CREATE DATABASE {DATABASE} OWNER {USER}")
    pgbench = postgres.installation.tool("pgbench")
    if pgbench is None:
        with psycopg.connect(postgres.dsn(DATABASE, USER)) as connection:
            connection.execute("CREATE TABLE items (id int PRIMARY KEY, name text)")
            connection.execute(
                "INSERT INTO items SELECT i, 'item ' || i"
                " FROM generate_series(1, 1000) AS i"
            )
        return
    target = _pgbench_target(postgres.port)
    answer = subprocess.run(
        [os.fspath(pgbench), *target, "-i", "-s", "1", "-q", DATABASE],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise PoolerError(f"pgbench -i failed:\n{answer.stderr.strip()}")


def _pgbench_target(port: int) -> list[str]:
    return ["-h", HOST, "-p", str(port), "-U", USER]


def write_config(directory: Path, port: int, server_port: int) -> Path:
    """Write pooler.ini and userlist.txt; return the path of the former."""
    (directory / "userlist.txt").write_text(f'"{USER}" ""\n', encoding="utf-8")
    config = directory / "pooler.ini"
    config.write_text(
        CONFIG.format(
            database=DATABASE,
            admin=USER,
            host=HOST,
            port=port,
            server_port=server_port,
            directory=directory,
            # Who makes the demo as root wants it so; otherwise nobody is changed to.
            user="root" if os.geteuid() == 0 else "",
        ),
        encoding="utf-8",
    )
    return config


def pooler_dsn(port: int) -> str:
    """Return the URL of the demo database through the pooler."""
    return f"postgresql://{USER}@{HOST}:{port}/{DATABASE}"


def ask_pooler(port: int) -> None:
    """Run one real query through the pooler."""
    with psycopg.connect(
        pooler_dsn(port), autocommit=True, connect_timeout=5
    ) as connection:
        connection.execute("SELECT 1")


def instructions(
    installation: Installation, port: int, server_port: int, config: Path, log: Path
) -> str:
    """Return what the user reads when everything runs."""
    lines = [
        f"The pooler listens on {HOST} port {port}, PostgreSQL"
        f" {installation.version} behind it on port {server_port}.",
        "",
    ]
    target = shlex.join(_pgbench_target(port))
    psql = _shell_name(installation, "psql")
    if psql:
        lines.append(f"  psql       {psql} {target} {DATABASE}")
        lines.append(f"  console    {psql} {target} pgbouncer")
    lines.append(f"  any client {pooler_dsn(port)}")
    pgbench = _shell_name(installation, "pgbench")
    if pgbench:
        lines.append(
            f"  load       {pgbench} {target} -n -S -c 20 -j 2 -T 10 {DATABASE}"
        )
    lines += [
        f"  config     {config}",
        f"  log        {log}",
        "",
        "Ctrl-C ends both and removes their files.",
    ]
    return "\n".join(lines)


def _shell_name(installation: Installation, name: str) -> str | None:
    """Return what to type for a program: its name, or its path if not on PATH."""
    if shutil.which(name):
        return name
    path = installation.tool(name)
    return shlex.quote(os.fspath(path)) if path else None


def run(port: int, command: Sequence[str] = POOLER_COMMAND) -> None:
    """Run the demo until a signal (KeyboardInterrupt) or a failure (PoolerError).

    ``command`` starts the pooler; the path of its configuration is added.
    """
    if not port_is_free(port):
        raise PoolerError(
            f"port {port} is taken, choose another with `make run PORT=...`"
        )
    installation = find_installation(prefer="package")
    with ExitStack() as stack:
        postgres = stack.enter_context(Postgres(installation, hba=HBA))
        fill(postgres)
        directory = Path(tempfile.mkdtemp(prefix="pooler-demo-")).resolve()
        guard = Guard(directory)
        stack.callback(guard.close)
        stack.callback(remove_tree, directory)
        # Readable for another account, should the pooler change to one.
        directory.chmod(0o755)
        config = write_config(directory, port, postgres.port)
        pooler = Child(
            "the pooler",
            [*command, os.fspath(config)],
            directory / "pooler.log",
        )
        stack.callback(pooler.stop)
        guard.watch(pooler.pid)
        pooler.wait_until(lambda: ask_pooler(port), READY_DEADLINE_S)
        click.echo(
            instructions(installation, port, postgres.port, config, pooler.log_path)
        )
        # Otherwise the text stays in the buffer when the output is a pipe.
        sys.stdout.flush()
        ended = wait_for_an_end({pooler.name: pooler.pid, "PostgreSQL": postgres.pid})
        if ended == pooler.name:
            raise pooler.failure("ended by itself")
        raise PoolerError(
            f"PostgreSQL ended by itself; its log says:\n{log_tail(postgres.log_path)}"
        )


@click.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port of the pooler.",
)
def main(port: int) -> None:
    """Run the pooler before a PostgreSQL of its own, until Ctrl-C."""
    try:
        with stop_signals_interrupt():
            run(port)
    except KeyboardInterrupt:
        click.echo("Stopped; nothing is left behind.")
    except PoolerError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
