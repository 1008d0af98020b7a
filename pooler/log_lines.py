# SPDX-License-Identifier: MIT
"""The forms of a log line: PgBouncer's, JSON, and a plain text. Layer: base.

Invariant: nothing a peer sends can start a line of its own (control characters are
escaped).
"""

from __future__ import annotations

import datetime
import json
import logging
import select
import time
import traceback

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
# pipe(7): writes of up to PIPE_BUF bytes are atomic, so stderr may be a pipe too.
MAX_LINE_BYTES = select.PIPE_BUF

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


def head_of(tag: str) -> str:
    """A tag as the beginning of a message."""
    if not tag:
        return ""
    separator = " " if ": " in tag else ": "
    return f"{escape(tag)}{separator}"


def texts_of(record: logging.LogRecord) -> list[str]:
    """The message, and the lines of a traceback behind it."""
    texts = [record.getMessage()]
    if record.exc_info and record.exc_info[0] is not None:
        texts += "".join(traceback.format_exception(*record.exc_info)).splitlines()
    return texts


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
        return "\n".join(head + escape(text) for text in texts_of(record))

    @staticmethod
    def _tag(record: logging.LogRecord) -> str:
        return head_of(getattr(record, "tag", ""))


class JsonFormatter(logging.Formatter):
    """One object a record, on one line that is never cut in its middle."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object; what is too long for one write is cut in its message."""
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        fields: dict[str, object] = {
            "time": at.isoformat(timespec="milliseconds"),
            "pid": record.process,
            "level": LEVEL_NAMES.get(record.levelno, record.levelname),
        }
        if tag := getattr(record, "tag", ""):
            fields["tag"] = tag
        message = "\n".join(texts_of(record))
        line = json.dumps({**fields, "message": message})
        if len(line) >= MAX_LINE_BYTES:
            # In ASCII a character is at most twelve bytes.
            fields["tag"] = str(fields.get("tag", ""))[:100]
            room = (MAX_LINE_BYTES - len(json.dumps(fields)) - 32) // 12
            line = json.dumps({**fields, "message": message[:room] + "..."})
        return line
