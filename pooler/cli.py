# SPDX-License-Identifier: MIT
"""The ``pooler`` command, with PgBouncer's options. Layer: command.

The one reader of argv. Order of a start: configuration, log, pid file check,
sockets, daemon, user, master. So everything that can be wrong is told on the
operator's terminal, and nothing is left behind when it is. Never imports the
extension modules: those are loaded by the workers, after the fork.
"""

from __future__ import annotations

import contextlib
import os
import platform
import pwd
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click

from pooler import VERSION_TEXT, log
from pooler.config import loading
from pooler.config.log_style import log_style
from pooler.config.model import RESERVED_DATABASE, Config
from pooler.errors import ConfigError, PoolerError
from pooler.master import loadable, pidfile
from pooler.master.inheritance import REFUSAL_BYTES, Inheritance, inherit
from pooler.master.process import Master

EXIT_OK = 0
EXIT_FAILED = 1

# Longer than anything that is waited for by then.
SAY_S = 30

# What a daemon tells the process that started it.
_DAEMON_UP = b"U"


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    config_file: str
    daemon: bool = False
    reboot: bool = False
    user: str = ""
    verbose: int = 0
    quiet: bool = False


_EPILOG = """Beside it: pooler check FILE, pooler console, pooler pause, pooler resume,
pooler reload, pooler shutdown, pooler mkauth; each has --help. A file of such a name
is ./check. Under the name pgbouncer there are none of them."""


@click.command(
    name="pooler",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)
@click.argument("config_file", type=click.Path(dir_okay=False))
@click.option("-d", "--daemon", is_flag=True, help="Run in the background.")
@click.option(
    "-R", "--reboot", is_flag=True, help="Take the place of a running process."
)
@click.option("-u", "--user", default="", metavar="NAME", help="Become this user.")
@click.option("-v", "--verbose", count=True, help="Log more; may be repeated.")
@click.option("-q", "--quiet", is_flag=True, help="Do not log to stderr.")
@click.version_option(
    VERSION_TEXT,
    "-V",
    "--version",
    message=f"%(version)s\nPython {platform.python_version()}",
)
def _command(
    config_file: str, daemon: bool, reboot: bool, user: str, verbose: int, quiet: bool
) -> int:
    """Pool PostgreSQL connections as CONFIG_FILE (a pgbouncer.ini) says."""
    return start(Options(config_file, daemon, reboot, user, verbose, quiet))


def main() -> None:
    """Run the command and leave with its exit code."""
    try:
        code = _command.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        # PgBouncer's code for any wrong command line; click's own would be 2.
        code = EXIT_FAILED
    except click.Abort:
        code = EXIT_FAILED
    sys.exit(code)


def start(options: Options) -> int:
    """Start the pooler and stay until it ends; return the exit code."""
    log.configure(verbose=options.verbose)
    try:
        return _start(options)
    except ConfigError as error:
        log.write(log.FATAL, str(error))
    except OSError as error:
        log.write(log.FATAL, f"could not start: {error}")
    return EXIT_FAILED


def _start(options: Options) -> int:
    config = loading.load(str(Path(options.config_file).absolute()))
    settings = config.settings
    verbose = max(options.verbose, settings.verbose)
    name = options.user or settings.user
    user = _find_user(name)
    # As root the log file would belong to root, and a reload could not reopen it.
    style = log_style(settings)
    logfile = settings.logfile if user is None else ""
    _configure_log(logfile, options.quiet, verbose, style)
    for warning in config.warnings:
        log.write(log.WARNING, warning)
    if user is None and os.geteuid() == 0:
        _check_root(name)
    if options.daemon and not settings.pidfile:
        raise ConfigError("a daemon (-d) needs a pid file", setting="pidfile")
    inheritance = _take_over(config, user) if options.reboot else None
    if settings.pidfile and inheritance is None:
        pidfile.check(settings.pidfile)

    master = Master(config, verbose=options.verbose, inheritance=inheritance)
    on_up = None
    with contextlib.ExitStack() as boot:
        boot.callback(master.release)
        master.bind()
        if user is not None:
            _become(user, master)
            _configure_log(settings.logfile, options.quiet, verbose, style)
        if options.daemon:
            on_up = _daemonize(master)
            _configure_log(settings.logfile, True, verbose, style)
        boot.pop_all()
    return master.run(on_up)


def _take_over(config: Config, user: pwd.struct_passwd | None) -> Inheritance | None:
    """What the running pooler gives; None: there is none, as for PgBouncer no error."""

    def ask(command: str) -> int:
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        if os.fork() == 0:
            _say(config, command, write_fd)
        os.close(write_fd)
        return read_fd

    uids = {os.geteuid()} if user is None else {os.geteuid(), user.pw_uid}
    found = inherit(config.settings, uids, ask)
    if found is None:
        log.write(log.LOG, "old process not found, try to continue normally")
    else:
        log.write(log.LOG, f"taking the place of process {found.pid}")
    return found


def _say(config: Config, command: str, write_fd: int) -> NoReturn:
    """In a child: say a command on the console, and tell what was wrong.

    What this needs is not loaded in a process that is to be a master.
    """
    signal.alarm(SAY_S)
    problem = "the console has failed"
    try:
        from pooler.tools.client import ConsoleClient, Place

        client = ConsoleClient.connect(Place.of(config), RESERVED_DATABASE, None)
        problem = client.query(command).error
    except (PoolerError, OSError) as error:
        problem = str(error)
    finally:
        os.write(write_fd, problem.encode()[:REFUSAL_BYTES])
        os._exit(EXIT_OK)


def _check_root(name: str | None) -> None:
    """Root by mistake is refused, as by PgBouncer; root on purpose is told."""
    if not name:
        raise ConfigError(
            "pooler should not run as root: set user= or give -u, to become another"
            " (-u root if root is meant)",
            setting="user",
        )
    log.write(log.WARNING, "running as root, with all its privileges")


def _find_user(name: str | None) -> pwd.struct_passwd | None:
    """Return the user to become, None to stay who we are."""
    if not name:
        return None
    try:
        user = pwd.getpwnam(name)
    except KeyError as error:
        raise ConfigError(f"no such user: {name}", setting="user") from error
    if user.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise ConfigError(f"only root can become user {name}", setting="user")
    return user


def _become(user: pwd.struct_passwd, master: Master) -> None:
    """Give up root for good; the Unix socket goes along, so it can be removed."""
    unix = master.listeners.unix
    if unix is not None and unix.path is not None:
        os.chown(unix.path, user.pw_uid, -1)
    os.initgroups(user.pw_name, user.pw_gid)
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    loadable.check(user.pw_name, master.leave_signals)


def _daemonize(master: Master) -> Callable[[], None]:
    """Go on as a daemon; return what tells the operator's process that all is up.

    That process waits and exits with 0 or 1, so whoever started us learns the truth.
    The working directory stays: relative paths in the configuration depend on it.
    """
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    if os.fork() != 0:
        master.leave_signals()
        os.close(write_fd)
        os._exit(EXIT_OK if os.read(read_fd, 1) == _DAEMON_UP else EXIT_FAILED)
    os.close(read_fd)
    os.setsid()
    # No leader of its session can ever take a controlling terminal.
    if os.fork() != 0:
        os._exit(EXIT_OK)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)

    def tell_up() -> None:
        os.write(write_fd, _DAEMON_UP)
        os.close(write_fd)

    return tell_up


def _configure_log(logfile: str, quiet: bool, verbose: int, style: log.Style) -> None:
    try:
        log.configure(logfile, quiet=quiet, verbose=verbose, style=style)
    except OSError as error:
        raise ConfigError(
            f"could not open log file: {error}", setting="logfile"
        ) from error
