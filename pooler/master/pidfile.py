# SPDX-License-Identifier: MIT
"""The pid file: one pooler per file, removed by nobody but its owner.

Layer: master. The file appears whole (written aside, then linked into place),
so a reader never sees half a number and two poolers never both win.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from pooler import log
from pooler.errors import ConfigError

MODE = 0o644


class PidFile:
    """A pid file written by this process."""

    __slots__ = ("_path", "_pid")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pid = os.getpid()

    @classmethod
    def acquire(cls, path: str | Path) -> PidFile:
        """Write our pid to ``path``; ConfigError when another pooler holds it."""
        check(path)
        own = cls(Path(path))
        own._write(os.link)
        return own

    def replace(self) -> None:
        """Put our pid in the place of that of the pooler whose place we take."""
        self._write(os.rename)

    def remove(self) -> None:
        """Remove the file if this process wrote it and it still says so."""
        if os.getpid() != self._pid:
            return
        with contextlib.suppress(OSError, ConfigError):
            if _read(self._path) == self._pid:
                self._path.unlink()

    def _write(self, place: Callable[[Path, Path], None]) -> None:
        aside = self._path.with_name(f"{self._path.name}.{self._pid}")
        try:
            aside.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(aside, flags, MODE)
            try:
                os.write(fd, b"%d\n" % self._pid)
                place(aside, self._path)
            finally:
                os.close(fd)
                aside.unlink(missing_ok=True)
        except OSError as error:
            raise _error(
                f"{self._path}: could not write pid file: {error.strerror}"
            ) from error


def check(path: str | Path) -> None:
    """Remove a stale pid file; ConfigError when its process is alive."""
    file = Path(path)
    try:
        pid = _read(file)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _error(f"{path}: could not read pid file: {error.strerror}") from error
    # In a container the dead pooler had our own number.
    if pid != os.getpid() and _is_alive(pid):
        raise _error(f"{path}: pid file exists and process {pid} is running")
    log.write(log.LOG, "stale pidfile, removing")
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise _error(f"{path}: could not remove pid file: {error.strerror}") from error


def _read(path: Path) -> int:
    with path.open("rb") as file:
        raw = file.read(32).strip()
    if not raw.isdigit() or int(raw) < 1:
        raise _error(f"{path}: pid file exists and holds no process id")
    return int(raw)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return not _has_ended(pid)


def _has_ended(pid: int) -> bool:
    """Whether a process waits for nothing but its parent (proc(5): a zombie)."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return said.rpartition(")")[2].split()[:1] == ["Z"]


def _error(problem: str) -> ConfigError:
    return ConfigError(problem, setting="pidfile")
