# SPDX-License-Identifier: MIT
"""``pooler check``, ``console``, ``reload`` … and ``mkauth``. Tools layer.

Exit codes: 0 all is well, 1 it is not. What goes wrong is one line on stderr.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sized
from pathlib import Path

import click

from pooler.config import loading
from pooler.config.inifile import read_text
from pooler.config.model import RESERVED_DATABASE
from pooler.errors import ConfigError, PoolerError
from pooler.tools.client import ConsoleClient, ConsoleFailure, Place
from pooler.tools.table import lines_of

DEFAULT_FILE = "/etc/pooler/pooler.ini"
PROMPT = "pooler=# "

_FILE = click.option(
    "-f",
    "--file",
    "config_file",
    default=DEFAULT_FILE,
    show_default=True,
    metavar="FILE",
    help="Configuration of the running pooler: it says where the console is.",
)
_USER = click.option(
    "-U",
    "--username",
    "user",
    default=RESERVED_DATABASE,
    show_default=True,
    help="Who asks. By the Unix socket the pooler's own system user, and root, need no"
    " password as this one; PGPASSWORD is the password of others.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def group() -> None:
    """Look after a pooler. `pooler CONFIG.ini` starts one: see `pooler --help`."""


def main() -> None:
    """Run a command and leave with its exit code."""
    try:
        sys.exit(group.main(prog_name="pooler", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
    except click.Abort:
        pass
    except (PoolerError, OSError) as error:
        click.echo(f"pooler: {error}", err=True)
    sys.exit(1)


@group.command()
@click.argument("config_file", default=DEFAULT_FILE, metavar="FILE")
def check(config_file: str) -> int:
    """Read FILE and all that it names, and tell everything that is wrong."""
    problems: list[ConfigError] = []
    path = str(Path(config_file).absolute())
    try:
        config = loading.load_text(read_text(path), path, problems.append)
    except ConfigError as error:
        problems.append(error)
        warnings: tuple[str, ...] = ()
    else:
        warnings = config.warnings
    for problem in problems:
        click.echo(f"error: {problem}")
    for warning in warnings:
        click.echo(f"warning: {warning}")
    click.echo(f"{path}: {_count(problems, 'error')}, {_count(warnings, 'warning')}")
    return 1 if problems else 0


def _count(things: Sized, name: str) -> str:
    number = len(things)
    return f"{number or 'no'} {name}{'' if number == 1 else 's'}"


@group.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@click.argument("dsn", metavar="CONNSTR")
def mkauth(path: Path, dsn: str) -> int:
    """Write the roles of the server at CONNSTR to FILE, an auth_file."""
    from pooler.tools.mkauth import read_roles, write_users

    users = read_roles(dsn)
    changed = write_users(path, users)
    state = "written" if changed else "unchanged"
    click.echo(f"{path}: {_count(users, 'user')}, {state}")
    return 0


@group.command()
@_FILE
@_USER
@click.option("-c", "--command", "commands", multiple=True, help="Run this, and end.")
def console(config_file: str, user: str, commands: tuple[str, ...]) -> int:
    """Talk to the console: commands from -c, from stdin, or typed."""
    with _connected(config_file, user) as ask:
        if commands:
            return max([ask(text) for text in commands])
        if not sys.stdin.isatty():
            asked = [ask(line) for line in sys.stdin if line.strip()]
            return max(asked, default=0)
        return _talk(ask)


def _talk(ask: Callable[[str], int]) -> int:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - lines can be edited from here on
    click.echo('SHOW HELP lists the commands; "\\q" or Ctrl-D ends.')
    while True:
        try:
            line = input(PROMPT).strip()
        except EOFError:
            click.echo()
            return 0
        if line in ("\\q", "quit", "exit"):
            return 0
        if line:
            ask(line)


@contextlib.contextmanager
def _connected(config_file: str, user: str) -> Iterator[Callable[[str], int]]:
    problems: list[ConfigError] = []
    path = str(Path(config_file).absolute())
    # A file that is being edited still says where the running pooler is.
    config = loading.load_text(read_text(path), path, problems.append)
    client = ConsoleClient.connect(Place.of(config), user, os.environ.get("PGPASSWORD"))

    def ask(text: str) -> int:
        result = client.query(text)
        for line in lines_of(result):
            click.echo(line, err=bool(result.error))
        return 1 if result.error else 0

    try:
        yield ask
    finally:
        client.close()


def _one_shot(verb: str, text: str) -> None:
    @_FILE
    @_USER
    @click.argument("database", required=False)
    def run(config_file: str, user: str, database: str | None) -> int:
        with _connected(config_file, user) as ask:
            quoted = (database or "").replace('"', '""')
            return ask(f'{verb} "{quoted}"' if database else verb)

    run.__doc__ = text
    group.command(verb.lower())(run)


_one_shot(
    "PAUSE", "Hand out no server of DATABASE, or of any; wait until none is used."
)
_one_shot("RESUME", "Go on after a pause, with DATABASE or all.")


@group.command()
@_FILE
@_USER
def reload(config_file: str, user: str) -> int:
    """Have the running pooler read its files again, all or nothing."""
    with _connected(config_file, user) as ask:
        return ask("RELOAD")


@group.command()
@_FILE
@_USER
@click.option(
    "--wait-for",
    type=click.Choice(["clients", "servers"]),
    help="End when the last client has left, or the last server is free.",
)
def shutdown(config_file: str, user: str, wait_for: str | None) -> int:
    """End the running pooler: at once, or with --wait-for when nobody needs it."""
    with _connected(config_file, user) as ask:
        if wait_for:
            return ask(f"SHUTDOWN WAIT_FOR_{wait_for.upper()}")
        # It ends before it answers.
        with contextlib.suppress(ConsoleFailure):
            return ask("SHUTDOWN")
    return 0
