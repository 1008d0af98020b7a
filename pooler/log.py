# SPDX-License-Identifier: MIT
"""Logging in PgBouncer's line form, shared by every process. Layer: base.

    2026-11-22 07:15:49.120 UTC [PID] LEVEL TAG: message

Built on the standard ``logging`` package, so any module may log with
``logging.getLogger("pooler")`` or with :func:`write`. The tag travels as
``extra={"tag": ...}``. A tag that already holds a colon and a space, such as
``C-0x7f: db/user@host:port``, is followed by a space alone, as in PgBouncer.

Invariants: what is one record is written whole, and no more at once than stays whole,
to a descriptor opened with O_APPEND, so processes that share a file never mix their
lines; nothing a peer sends can start a line of its own (control characters are
escaped); a log that cannot be written never stops the pooler.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

NOISE = 5
DEBUG = logging.DEBUG
LOG = logging.INFO
WARNING = logging.WARNING
ERROR = logging.ERROR
FATAL = logging.CRITICAL

LEVEL_NAMES = {
    NOISE: "NOISE",
    DEBUG: "DEBUG",
    LOG: "LOG",
    WARNING: "WARNING",
    ERROR: "ERROR",
    FATAL: "FATAL",
}
# What the setting `verbose` (0-3) and the option -v let through.
VERBOSE_LEVELS = (LOG, DEBUG, NOISE, NOISE)

# asyncio reports exceptions nobody awaited; they belong in the same file.
LOGGER_NAMES = ("pooler", "asyncio")

# pipe(7): writes of up to PIPE_BUF bytes are atomic, so stderr may be a pipe too.
MAX_LINE_BYTES = select.PIPE_BUF
LOGFILE_MODE = 0o640

_LOGGER = logging.getLogger("pooler")

_ESCAPED = (
    *range(0x20),
    *range(0x7F, 0xA0),
    # Line ends and direction marks of Unicode: they fake lines on a terminal.
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
)
_ESCAPES = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _ESCAPED
} | {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}


def escape(text: str) -> str:
    """Return ``text`` with every character escaped that could fake a log line."""
    if text.isascii() and text.isprintable():
        return text  # nearly always, and a tenth of the cost
    return text.translate(_ESCAPES)


class LineFormatter(logging.Formatter):
    """Make PgBouncer's line of a record; a traceback takes one line per line."""

    def __init__(self) -> None:
        super().__init__()
        self._second = -1
        self._stamps = ("", "")  # of that second, before and behind the milliseconds

    def _stamp(self, second: int) -> tuple[str, str]:
        if second != self._second:
            local = time.localtime(second)
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", local)
            self._second, self._stamps = second, (stamp, str(local.tm_zone))
        return self._stamps

    def format(self, record: logging.LogRecord) -> str:
        """Return the finished line or lines, without the last line end."""
        stamp, zone = self._stamp(int(record.created))
        level = LEVEL_NAMES.get(record.levelno, record.levelname)
        head = (
            f"{stamp}.{int(record.msecs):03d} {zone}"
            f" [{record.process}] {level} {self._tag(record)}"
        )
        texts = [record.getMessage()]
        if record.exc_info and record.exc_info[0] is not None:
            texts += "".join(traceback.format_exception(*record.exc_info)).splitlines()
        return "\n".join(head + escape(text) for text in texts)

    @staticmethod
    def _tag(record: logging.LogRecord) -> str:
        tag = getattr(record, "tag", None)
        if not tag:
            return ""
        separator = " " if ": " in tag else ": "
        return f"{escape(tag)}{separator}"


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


def configure(logfile: str = "", *, quiet: bool = False, verbose: int = 0) -> None:
    """Send the log to stderr (unless ``quiet``) and to ``logfile`` (unless empty).

    May be called again: what was set up before is replaced. Raises OSError when
    the file cannot be opened, and then changes nothing.
    """
    handlers: list[DescriptorHandler] = [] if quiet else [DescriptorHandler(2)]
    if logfile:
        handlers.append(FileHandler(logfile))
    old = _handlers()
    for name in LOGGER_NAMES:
        logger = logging.getLogger(name)
        logger.handlers[:] = handlers
        if not handlers:
            # Without any handler `logging` would fall back to stderr.
            logger.addHandler(logging.NullHandler())
        logger.propagate = False
    set_verbose(verbose)
    for handler in old:
        handler.close()


def set_verbose(verbose: int) -> None:
    """Let through what ``verbose`` (0-3) asks for; ``asyncio`` only warnings."""
    level = VERBOSE_LEVELS[min(max(verbose, 0), len(VERBOSE_LEVELS) - 1)]
    logging.getLogger("pooler").setLevel(level)
    logging.getLogger("asyncio").setLevel(WARNING)


def reopen(logfile: str | None = None) -> None:
    """Open the log file anew, at ``logfile`` when given (a reload may move it).

    An empty ``logfile`` stops file logging. What cannot be opened leaves the
    running log as it is, and says so there.
    """
    files = [h for h in _handlers() if isinstance(h, FileHandler)]
    if logfile == "":
        for name in LOGGER_NAMES:
            for handler in files:
                logging.getLogger(name).removeHandler(handler)
        for handler in files:
            handler.close()
        return
    try:
        if files:
            files[0].reopen(files[0].path if logfile is None else logfile)
        elif logfile is not None:
            added = FileHandler(logfile)
            for name in LOGGER_NAMES:
                logging.getLogger(name).addHandler(added)
    except OSError as error:
        write(ERROR, f"could not open log file: {error}")


def write(level: int, message: str, *, tag: str = "", later: bool = False) -> None:
    """Log ``message`` as it stands: no ``%`` in it is ever interpreted.

    ``later``: it may be written with what follows in a block of ``together``.
    Who has called is in no line, so it is not looked up, which is half of the cost.
    """
    if _LOGGER.isEnabledFor(level):
        record = logging.LogRecord("pooler", level, "", 0, message, None, None)
        record.tag = tag
        record.later = later
        _LOGGER.handle(record)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Lines of this block that may wait are written together, in their order."""
    handlers = _handlers()
    for handler in handlers:
        handler.gathered = bytearray()
    try:
        yield
    finally:
        for handler in handlers:
            handler.write_gathered()


def write_exception(message: str, *, tag: str = "") -> None:
    """Log ``message`` as ERROR with the traceback of the exception in hand."""
    logging.getLogger("pooler").error("%s", message, exc_info=True, extra={"tag": tag})


@dataclass(slots=True)
class _Repeated:
    """One kind of message: when it was last let through, and the count since."""

    last_s: float
    suppressed: int = 0


class RateLimiter:
    """Let a repeated message through once per interval, and count the rest.

    At most ``max_keys`` kinds are remembered; the one heard of longest ago is
    forgotten first, so keys made from what a peer sends cannot grow memory.
    """

    def __init__(
        self,
        interval_s: float,
        *,
        max_keys: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_s = interval_s
        self._max_keys = max_keys
        self._clock = clock
        self._seen: OrderedDict[str, _Repeated] = OrderedDict()

    def allow(self, key: str) -> int | None:
        """Return how many were suppressed since the last one, None to suppress."""
        now = self._clock()
        seen = self._seen.get(key)
        if seen is not None and now - seen.last_s < self._interval_s:
            seen.suppressed += 1
            return None
        self._seen[key] = _Repeated(now)
        self._seen.move_to_end(key)
        if len(self._seen) > self._max_keys:
            self._seen.popitem(last=False)
        return 0 if seen is None else seen.suppressed

    def write(self, level: int, key: str, message: str, *, tag: str = "") -> None:
        """Log ``message`` unless one of the same ``key`` was logged just now."""
        suppressed = self.allow(key)
        if suppressed is None:
            return
        if suppressed:
            message = f"{message} ({suppressed} more suppressed)"
        write(level, message, tag=tag)


def _handlers() -> list[DescriptorHandler]:
    """Return our handlers; `logging` itself is the one place that keeps them."""
    return [
        handler
        for handler in logging.getLogger("pooler").handlers
        if isinstance(handler, DescriptorHandler)
    ]


def _open_append(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
    return os.open(path, flags, LOGFILE_MODE)


def _line_bytes(line: str) -> bytes:
    raw = line.encode("utf-8", "backslashreplace")
    if len(raw) >= MAX_LINE_BYTES:
        cut = raw[: MAX_LINE_BYTES - 4].decode("utf-8", "ignore")
        raw = cut.encode() + b"..."
    return raw + b"\n"
