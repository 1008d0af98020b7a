# SPDX-License-Identifier: MIT
"""Where log lines go: a descriptor, a file, syslog, the journal. Layer: base.

Invariants: what is one record is written whole, and no more at once than stays whole,
to a descriptor opened with O_APPEND, so processes that share a file never mix their
lines; a log that cannot be written never stops the pooler, and never waits.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket

from pooler.log_lines import (
    LEVEL_NAMES,
    MAX_LINE_BYTES,
    NOISE,
    LineFormatter,
    escape,
    head_of,
    texts_of,
)

LOGFILE_MODE = 0o640
SYSLOG_PATH = "/dev/log"
JOURNAL_PATH = "/run/systemd/journal/socket"

# Severities of syslog(3), also of the journal.
SEVERITIES = {
    NOISE: 7,
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}
# The numbers of syslog(3), by the names that PgBouncer knows.
FACILITIES = {"user": 1, "daemon": 3, "auth": 4, "authpriv": 10} | {
    f"local{number}": 16 + number for number in range(8)
}


class DescriptorHandler(logging.Handler):
    """Write each record with one ``write(2)``; losing a line is not an error."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self.gathered: bytearray | None = None  # lines that are written together
        self.setFormatter(LineFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Write ``record``; a full disk or a closed pipe is let pass."""
        try:
            lines = self.format(record).split("\n")
        except Exception:
            # A wrong format string must show up, yet not end its caller.
            self.handleError(record)
            return
        whole = b"".join(map(_line_bytes, lines))
        waiting = self.gathered
        if waiting is None:
            self._write(whole)
            return
        if len(waiting) + len(whole) > MAX_LINE_BYTES:
            self._write(bytes(waiting))
            waiting.clear()
        waiting += whole
        if not getattr(record, "later", False):
            self._write(bytes(waiting))
            waiting.clear()

    def write_gathered(self) -> None:
        """Write what was gathered, and gather no more."""
        lines, self.gathered = self.gathered, None
        if lines:
            self._write(bytes(lines))

    def _write(self, whole: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._fd, whole)


class FileHandler(DescriptorHandler):
    """The log file: appended to, and opened anew when the operator moved it."""

    def __init__(self, path: str) -> None:
        super().__init__(_open_append(path))
        self.path = path

    def reopen(self, path: str) -> None:
        """Go on in ``path``; raises OSError, and then the old file stays in use."""
        new = _open_append(path)
        with self.lock or contextlib.nullcontext():
            old, self._fd, self.path = self._fd, new, path
        os.close(old)

    def close(self) -> None:
        """Close the file."""
        super().close()
        with contextlib.suppress(OSError):
            os.close(self._fd)
        self._fd = -1


class DatagramHandler(logging.Handler):
    """One datagram a record; who does not read loses it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._socket: socket.socket | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Send ``record``; a reader that went away is looked for anew, once."""
        try:
            datagrams = self.datagrams(record)
        except Exception:
            self.handleError(record)
            return
        for raw in datagrams:
            if not self._send(raw):
                self.forget()
                self._send(raw)

    def datagrams(self, record: logging.LogRecord) -> list[bytes]:
        """What is sent of a record."""
        raise NotImplementedError

    def _send(self, raw: bytes) -> bool:
        """False: a new socket may help."""
        try:
            if self._socket is None:
                self._socket = socket.socket(
                    socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
                )
                self._socket.connect(self._path)
            self._socket.send(raw)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def forget(self) -> None:
        """Close the socket; the next record opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Send nothing more."""
        super().close()
        self.forget()


class SyslogHandler(DatagramHandler):
    """syslog(3), without its waiting: the system adds time and host."""

    def __init__(self, facility: str, ident: str) -> None:
        super().__init__(SYSLOG_PATH)
        self._facility = FACILITIES[facility]
        self._ident = escape(ident)

    def datagrams(self, record: logging.LogRecord) -> list[bytes]:
        """A line each."""
        severity = SEVERITIES.get(record.levelno, 6)
        head = f"<{self._facility << 3 | severity}>{self._ident}[{record.process}]: "
        head += head_of(getattr(record, "tag", ""))
        lines = [head + escape(text) for text in texts_of(record)]
        return [_line_bytes(line)[:-1] for line in lines]


class JournalHandler(DatagramHandler):
    """The journal's own protocol: fields instead of a line.

    Source: systemd, "Native Journal Protocol".
    """

    def __init__(self, ident: str) -> None:
        super().__init__(JOURNAL_PATH)
        self._ident = ident

    def datagrams(self, record: logging.LogRecord) -> list[bytes]:
        """One, with every field."""
        tag = getattr(record, "tag", "")
        text = "\n".join(map(escape, texts_of(record)))
        fields = {
            "MESSAGE": head_of(tag) + text,
            "PRIORITY": str(SEVERITIES.get(record.levelno, 6)),
            "SYSLOG_IDENTIFIER": self._ident,
            "SYSLOG_PID": str(record.process),
            "POOLER_LEVEL": LEVEL_NAMES.get(record.levelno, record.levelname),
        }
        if tag:
            fields["POOLER_TAG"] = tag
        return [b"".join(_field(name, value) for name, value in fields.items())]


def _field(name: str, value: str) -> bytes:
    raw = value.encode("utf-8", "backslashreplace")
    # A value of several lines has its length in front of it: no line can be forged.
    return b"%s\n%s%s\n" % (name.encode(), len(raw).to_bytes(8, "little"), raw)


def stderr_is_the_journal() -> bool:
    """Whether what is written to stderr goes there; sd_journal_stream_fd(3)."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def _open_append(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
    return os.open(path, flags, LOGFILE_MODE)


def _line_bytes(line: str) -> bytes:
    raw = line.encode("utf-8", "backslashreplace")
    if len(raw) >= MAX_LINE_BYTES:
        cut = raw[: MAX_LINE_BYTES - 4].decode("utf-8", "ignore")
        raw = cut.encode() + b"..."
    return raw + b"\n"
