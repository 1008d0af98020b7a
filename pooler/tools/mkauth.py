# SPDX-License-Identifier: MIT
"""``pooler mkauth``: an auth_file from the roles of a database. Tools layer.

As PgBouncer's mkauth.py: roles that may log in, an empty secret for those whose time
is over. Needs psycopg, which the pooler itself does not.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from pooler.config.userlist import format_user
from pooler.errors import PoolerError

MODE = 0o600
QUERY = (
    "SELECT rolname, CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL"
    " ELSE rolpassword END FROM pg_catalog.pg_authid WHERE rolcanlogin ORDER BY 1"
)


def read_roles(dsn: str) -> list[tuple[str, str]]:
    """Names and secrets of all roles that may log in; PoolerError."""
    try:
        import psycopg
    except ImportError:
        raise PoolerError(
            "mkauth needs psycopg: pip install 'pooler[mkauth]'"
        ) from None
    try:
        with psycopg.connect(dsn) as connection:
            rows = connection.execute(QUERY).fetchall()
    except psycopg.Error as error:
        raise PoolerError(str(error).strip()) from None
    return [(name, secret or "") for name, secret in rows]


def write_users(path: Path, users: list[tuple[str, str]]) -> bool:
    """Replace the file as a whole, unless it says so already; OSError.

    The new one belongs to whom the old one did, with its permissions; a first one can
    be read by its owner alone.
    """
    text = "".join(f'{format_user(name, secret)} ""\n' for name, secret in users)
    raw = text.encode()
    if path.exists() and path.read_bytes() == raw:
        return False
    fd, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(fd, "wb") as file:
            file.write(raw)
            os.fchmod(fd, MODE)
            if path.exists():
                status = path.stat()
                os.fchmod(fd, status.st_mode & 0o777)
                with contextlib.suppress(PermissionError):
                    os.fchown(fd, status.st_uid, status.st_gid)
            file.flush()
            os.fsync(fd)
        os.replace(aside, path)
    except OSError:
        os.unlink(aside)
        raise
    return True
