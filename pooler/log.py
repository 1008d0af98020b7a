# SPDX-License-Identifier: MIT
"""Logging in PgBouncer's line form, shared by every process. Layer: base.

    2026-11-22 07:15:49.120 UTC [PID] LEVEL TAG: message

Built on the standard ``logging`` package, so any module may log with
``logging.getLogger("pooler")`` or with :func:`write`. The tag travels as
``extra={"tag": ...}``. A tag that already holds a colon and a space, such as
``C-0x7f: db/user@host:port``, is followed by a space alone, as in PgBouncer.

What a line looks like is in ``pooler.log_lines``, where it goes in
``pooler.log_sinks``.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pooler.log_lines import (
    DEBUG,
    ERROR,
    FATAL,
    LEVEL_NAMES,
    LOG,
    MAX_LINE_BYTES,
    NOISE,
    WARNING,
    JsonFormatter,
    LineFormatter,
    escape,
)
from pooler.log_sinks import (
    DatagramHandler,
    DescriptorHandler,
    FileHandler,
    JournalHandler,
    SyslogHandler,
    stderr_is_the_journal,
)

# What other modules take from here.
__all__ = [
    "DEBUG",
    "ERROR",
    "FATAL",
    "LEVEL_NAMES",
    "LOG",
    "LOGGER_NAMES",
    "MAX_LINE_BYTES",
    "NOISE",
    "WARNING",
    "LineFormatter",
    "RateLimiter",
    "Style",
    "configure",
    "escape",
    "follow",
    "orders",
    "reopen",
    "set_verbose",
    "together",
    "write",
    "write_exception",
]

# What the setting `verbose` (0-3) and the option -v let through.
VERBOSE_LEVELS = (LOG, DEBUG, NOISE, NOISE)

# asyncio reports exceptions nobody awaited; they belong in the same file.
LOGGER_NAMES = ("pooler", "asyncio")

_LOGGER = logging.getLogger("pooler")
_Handler = DescriptorHandler | DatagramHandler


@dataclass(frozen=True, slots=True)
class Style:
    """``json``: lines are objects. ``syslog``: a facility, empty for no syslog."""

    json: bool = False
    syslog: str = ""
    ident: str = "pgbouncer"


def configure(
    logfile: str = "",
    *,
    quiet: bool = False,
    verbose: int = 0,
    style: Style = Style(),
) -> None:
    """Send the log to stderr (unless ``quiet``) and to ``logfile`` (unless empty).

    May be called again: what was set up before is replaced. Raises OSError when
    the file cannot be opened, and then changes nothing.
    """
    handlers: list[_Handler] = []
    if not quiet:
        to_journal = stderr_is_the_journal()
        handlers.append(
            JournalHandler(style.ident) if to_journal else DescriptorHandler(2)
        )
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
    restyle(style)
    set_verbose(verbose)
    for handler in old:
        handler.close()


def restyle(style: Style) -> None:
    """Go on in this style."""
    for handler in _handlers():
        if isinstance(handler, DescriptorHandler):
            handler.setFormatter(JsonFormatter() if style.json else LineFormatter())
        elif isinstance(handler, SyslogHandler):
            _remove(handler)
    if style.syslog:
        _add(SyslogHandler(style.syslog, style.ident))


def _add(handler: _Handler) -> None:
    for name in LOGGER_NAMES:
        logging.getLogger(name).addHandler(handler)


def _remove(handler: _Handler) -> None:
    for name in LOGGER_NAMES:
        logging.getLogger(name).removeHandler(handler)
    handler.close()


def orders(logfile: str, style: Style, verbose: int) -> dict[str, Any]:
    """What ``follow`` takes, as JSON can carry it."""
    return {"logfile": logfile, "style": asdict(style), "verbose": verbose}


def follow(said: Mapping[str, Any]) -> None:
    """A reload: open the file anew, or another; style and level as it says."""
    reopen(said.get("logfile"))
    restyle(Style(**said.get("style", {})))
    set_verbose(int(said.get("verbose", 0)))


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
        for handler in files:
            _remove(handler)
        return
    try:
        if files:
            files[0].reopen(files[0].path if logfile is None else logfile)
        elif logfile is not None:
            _add(FileHandler(logfile))
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
    handlers = [one for one in _handlers() if isinstance(one, DescriptorHandler)]
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


def _handlers() -> list[_Handler]:
    """Return our handlers; `logging` itself is the one place that keeps them."""
    return [
        handler
        for handler in logging.getLogger("pooler").handlers
        if isinstance(handler, DescriptorHandler | DatagramHandler)
    ]
