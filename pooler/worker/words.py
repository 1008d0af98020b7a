# SPDX-License-Identifier: MIT
"""What the servers of a pool make of the values that clients ask for. Worker, cold.

PostgreSQL tells a client its parameters in its own words: ``utc`` becomes ``UTC``,
``iso`` becomes ``ISO, MDY``, and what it refuses ends the login. So does a login here.
The words are learned from an idle server, one value at a time, by a query that leaves
nothing behind; a login waits for that no longer than a moment, and never for a server
to become free. What is learned is bounded in number and forgotten with the welcome.

What a DateStyle leaves out comes from the server's default, so it is learned against
that, and only from a server whose default is that of the welcome. Where a role or a
database has its own default, PostgreSQL reads a startup packet before it, so only a
login can tell: one is made for it, and closed; also when no server is idle, because
the SET of a first transaction would be completed by that default.

Source: PostgreSQL documentation, "Asynchronous Operations" (ParameterStatus); "System
Administration Functions" (set_config).
"""

from __future__ import annotations

import asyncio
import enum
import re
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field

from pooler import log
from pooler.errors import (
    FEATURE_NOT_SUPPORTED,
    INVALID_PARAMETER_VALUE,
    LoginError,
)
from pooler.io.engine import Engine
from pooler.login import packets

MOMENT_S = 0.2  # that a login waits for words
REFUSED_S = 60.0  # what was refused is asked for again: a time zone may come to be
LOGIN_RETRY_S = 1.0  # after a login that was to learn a value has failed
WORDS_KEPT = 256
LONGEST_KEPT_BYTES = 255
QUESTIONS_KEPT = 64

# Its value may say a part only: the rest comes from what was there before.
PARTIAL = "DateStyle"
# Shows where its default comes from, the default, and then what it becomes.
PARTIAL_DEFAULT = (
    "SET LOCAL DateStyle TO DEFAULT;"
    "SELECT source FROM pg_catalog.pg_settings"
    " WHERE name OPERATOR(pg_catalog.=) 'DateStyle';"
    "SELECT pg_catalog.current_setting('DateStyle');"
)
PARTIAL_ROWS = 3
# Defaults that a startup packet comes before, so what it leaves out is not theirs.
LATER_DEFAULTS = frozenset({"global", "database", "user", "database user"})
# PostgreSQL cleans and cuts it, and refuses none.
LABEL = "application_name"
LABEL_BYTES = 63
IDENTIFIER_TRUNCATED = "42622"
UTF8_SIZES = ((0xF8, 1), (0xF0, 4), (0xE0, 3), (0xC0, 2))  # from this first byte on
VERSION_OF_ESCAPES = 16  # from here on it writes \xNN for what is not ASCII

# What says that a value is at fault, and not the server, its state or its load.
REFUSALS = frozenset({INVALID_PARAMETER_VALUE, FEATURE_NOT_SUPPORTED})


class RefusedValueError(LoginError):
    """A value that PostgreSQL refuses; ``report`` is what it says then, all of it."""

    def __init__(self, message: str, sqlstate: str, report: bytes) -> None:
        super().__init__(message, sqlstate)
        self.report = report


@dataclass(frozen=True, slots=True)
class Refusal:
    """A server's error about a value, its body as a login would get it."""

    body: bytes
    until_s: float

    def error(self) -> RefusedValueError:
        """What ends the login."""
        fields = packets.read_report(self.body)
        return RefusedValueError(
            fields.get("M", "invalid value"),
            fields.get("C", INVALID_PARAMETER_VALUE),
            packets.message(b"E", self.body),
        )


class Learn(enum.Enum):
    """How else a value can be learned."""

    BY_LOGIN = enum.auto()


Known = str | Refusal
Asked = tuple[str, str]


@dataclass(slots=True)
class Words:
    """What is known of the values of one pool; the oldest goes when it is full."""

    _known: dict[Asked, Known] = field(default_factory=dict)
    generation: int = 0
    # Called when what a login was told by these words may not be true any more.
    changed: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._known)

    def forget(self) -> None:
        """Nothing is known any more, nor what is being asked now."""
        self._known.clear()
        self.generation += 1
        self.changed()

    def learn(self, name: str, value: str, known: Known) -> None:
        """Keep what a server has answered."""
        if len(value) > LONGEST_KEPT_BYTES:
            return
        if self._known.pop((name, value), known) != known:
            self.changed()
        while len(self._known) >= WORDS_KEPT:
            del self._known[next(iter(self._known))]
        self._known[name, value] = known

    def look_up(self, name: str, value: str) -> Known | None:
        """What a server makes of a value, None if that is not known (any more)."""
        known = self._known.get((name, value))
        if isinstance(known, Refusal) and known.until_s <= time.monotonic():
            del self._known[name, value]
            return None
        return known

    def unknown(
        self, asked: Mapping[str, str], welcome: Mapping[str, str]
    ) -> list[Asked]:
        """What has to be asked, in the order of the packet, up to a known refusal."""
        unknown = []
        for name, value in asked.items():
            if name == LABEL or welcome.get(name, value) == value:
                continue
            known = self.look_up(name, value)
            if isinstance(known, Refusal):
                break
            if known is None:
                unknown.append((name, value))
        return unknown

    def told(
        self, asked: Mapping[str, str], welcome: Mapping[str, str]
    ) -> dict[str, str]:
        """The values as a server tells them; what is not known stays as it is.

        LoginError for the first that is known to be refused, or cannot be followed.
        """
        told = {}
        for name, value in asked.items():
            known = None
            if name != LABEL and welcome.get(name) != value:
                known = self.look_up(name, value)
            if isinstance(known, Refusal):
                raise known.error()
            if known is None and not value.isascii():
                # it cannot be put into a SET safely
                raise LoginError(
                    f'invalid value for parameter "{name}": "{value}"',
                    INVALID_PARAMETER_VALUE,
                )
            told[name] = value if known is None else known
        return told


# ---------------------------------------------------------------- one question


def quoted(text: str) -> str:
    """A literal that every server reads in the same way, in ASCII only."""
    text = text.replace("\\", "\\\\").replace("'", "''")
    return "E'" + "".join(map(_ascii, packets.encode(text))) + "'"


def _ascii(byte: int) -> str:
    return chr(byte) if byte < 0x80 else f"\\x{byte:02x}"


def question(name: str, value: str) -> bytes:
    """A Query that shows what becomes of a value, in one transaction of its own.

    An error in it comes in the server's own encoding, as at a startup.
    """
    sql = "SET LOCAL client_encoding TO DEFAULT;"
    if name == PARTIAL:
        sql += PARTIAL_DEFAULT
    sql += f"SELECT pg_catalog.set_config('{name}',{quoted(value)},true)"
    return sql.encode("ascii")


def messages_of(answer: bytes) -> Iterator[packets.Message]:
    """The messages of an answer that is complete."""
    at = 0
    while (one := packets.read_message(answer, at, len(answer))) is not None:
        yield one
        at = one.end


def only_column(body: bytes) -> str | None:
    """The value of a DataRow that has one column."""
    columns, size = struct.unpack_from("!hi", body)
    if columns != 1 or size < 0:
        return None
    return body[6 : 6 + size].decode("ascii")


def as_at_startup(body: bytes) -> bytes:
    """The error of a SET as PostgreSQL words it when a startup packet asks for it."""
    fields = packets.read_report(body)
    detail = fields.get("D", "")
    if fields.get("C") == FEATURE_NOT_SUPPORTED and detail:
        # two encodings without a conversion: a login has another message for it
        fields["M"] = detail[0].lower() + detail[1:].rstrip(".")
        del fields["D"]
    for severity in "SV":
        if severity in fields:
            fields[severity] = "FATAL"
    return b"".join(packets.cstring(key + text) for key, text in fields.items()) + b"\0"


def _refusal(name: str, body: bytes, now_s: float) -> Refusal | None:
    """What an error says of a value: nothing, unless it names the parameter.

    A server may lack what the question needs, or have no memory for it.
    """
    report = packets.read_report(body)
    names_it = name.lower() in report.get("M", "").lower()
    if report.get("C") not in REFUSALS or not names_it:
        return None
    return Refusal(as_at_startup(body), now_s + REFUSED_S)


def read_answer(
    name: str, answer: bytes, welcome: Mapping[str, str], now_s: float
) -> Known | Learn | None:
    """What an answer to ``question`` says; None: nothing that can be relied on."""
    rows: list[str | None] = []
    try:
        for one in messages_of(answer):
            if one.kind == b"E":
                return _refusal(name, one.body, now_s)
            if one.kind == b"D":
                rows.append(only_column(one.body))
    except (LoginError, ValueError, struct.error):
        return None
    if name == PARTIAL:
        if len(rows) != PARTIAL_ROWS:
            return None
        source, default = rows[:2]
        del rows[:2]
        if default != welcome.get(name):
            return None
        if source in LATER_DEFAULTS:
            return Learn.BY_LOGIN
    return rows[0] if len(rows) == 1 else None


# ---------------------------------------------------------------- questions


@dataclass(slots=True, eq=False)
class _Question:
    asked: Asked
    generation: int
    answered: asyncio.Future[None]


@dataclass(slots=True)
class Questions:
    """The questions to the servers of one pool: one at a time, each value once.

    ``log_in`` is what a server tells of a parameter that its startup packet asks for.
    ``bring``: whether a server comes that can be asked, where the pool has none at all.
    """

    engine: Engine
    pool_id: int
    words: Words
    welcome: Callable[[], Mapping[str, str] | None]
    log_in: Callable[[str, str], Awaitable[str | None]]
    bring: Callable[[], bool] = lambda: False
    _pending: dict[Asked, _Question] = field(default_factory=dict)
    _line: deque[_Question] = field(default_factory=deque)
    _under_way: _Question | None = None
    _logins: set[asyncio.Task[None]] = field(default_factory=set)
    _login_turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _next_login_s: float = 0.0

    async def ask(self, unknown: list[Asked]) -> None:
        """Return when all of this is known, or cannot be for now, or in a moment."""
        try:
            async with asyncio.timeout(MOMENT_S):
                for name, value in unknown:
                    answered = self._answer(name, value)
                    if answered is None:
                        return
                    await asyncio.shield(answered)
                    if not isinstance(self.words.look_up(name, value), str):
                        return  # refused, or nobody is free
        except TimeoutError:
            return

    def _answer(self, name: str, value: str) -> asyncio.Future[None] | None:
        """What is done when this question is; None when there are too many."""
        one = self._pending.get((name, value))
        if one is not None and one.generation == self.words.generation:
            return one.answered
        if len(self._pending) >= QUESTIONS_KEPT:
            return None
        future = asyncio.get_running_loop().create_future()
        one = _Question((name, value), self.words.generation, future)
        self._pending[one.asked] = one
        self._line.append(one)
        self.go_on()
        return future

    def go_on(self) -> None:
        """Put the next question; what no server is free for is not waited for."""
        while self._line and self._under_way is None:
            one = self._line.popleft()
            if self.engine.pool_inquire(self.pool_id, question(*one.asked)):
                self._under_way = one
            elif self.bring():
                self._line.appendleft(one)
                return
            elif one.asked[0] == PARTIAL:
                self._start_login(one)  # a SET might complete it in another way
            else:
                self._end(one, None)

    def _end(self, one: _Question, known: Known | None) -> None:
        """A question is answered, or nobody can say."""
        if known is not None and one.generation == self.words.generation:
            self.words.learn(*one.asked, known)
        if self._pending.get(one.asked) is one:
            del self._pending[one.asked]
        if not one.answered.done():
            one.answered.set_result(None)

    def inquired(self) -> None:
        """The engine has an answer, or has lost the server that was asked."""
        answer = self.engine.pool_inquiry_answer(self.pool_id)
        one, self._under_way = self._under_way, None
        if one is None:
            return
        known = read_answer(
            one.asked[0], answer, self.welcome() or {}, time.monotonic()
        )
        if isinstance(known, Learn):
            self._start_login(one)
        else:
            self._end(one, known)
        self.go_on()

    def _start_login(self, one: _Question) -> None:
        task = asyncio.get_running_loop().create_task(self._learn_by_login(one))
        self._logins.add(task)
        task.add_done_callback(self._logins.discard)

    async def _learn_by_login(self, one: _Question) -> None:
        """One at a time: PostgreSQL forks a process for each."""
        known: str | None = None
        try:
            async with self._login_turn:
                if time.monotonic() >= self._next_login_s:
                    known = await self.log_in(*one.asked)
        except LoginError as error:
            self._next_login_s = time.monotonic() + LOGIN_RETRY_S
            log.write(log.DEBUG, f"{one.asked[0]} is not learned: {error.message}")
        finally:
            self._end(one, known)


# ---------------------------------------------------------------- application_name


def label(given: bytes, welcome: Mapping[str, str]) -> tuple[str, bytes]:
    """application_name as PostgreSQL keeps it, and the notice that it gives if any.

    It is cut to 63 bytes, at a character of the database's encoding, then cleaned.
    """
    kept = given
    if len(given) > LABEL_BYTES:
        kept = given[:LABEL_BYTES]
        if welcome.get("server_encoding") == "UTF8":
            kept = given[: _whole_characters(given, LABEL_BYTES)]
    escaped = _major(welcome) >= VERSION_OF_ESCAPES
    clean = "".join(
        chr(b) if 0x20 <= b < 0x7F else f"\\x{b:02x}" if escaped else "?" for b in kept
    )
    if kept == given:
        return clean, b""
    notice = packets.notice_response(
        "NOTICE",
        IDENTIFIER_TRUNCATED,
        f'identifier "{packets.decode(given)}" will be truncated'
        f' to "{packets.decode(kept)}"',
    )
    return clean, notice


def _whole_characters(given: bytes, most: int) -> int:
    """How many bytes, at most, are whole characters; as PostgreSQL counts them.

    The first byte says how long a character is, and what says nothing is one alone.
    """
    at = 0
    while at < most:
        byte = given[at]
        size = next((n for first, n in UTF8_SIZES if byte >= first), 1)
        if at + size > most:
            break
        at += size
    return at


def _major(welcome: Mapping[str, str]) -> int:
    """The version of a server, of ``16.2`` and of ``17beta1``; 0 if it says none."""
    digits = re.match(r"[0-9]*", welcome.get("server_version", ""))
    return int(digits[0]) if digits and digits[0] else 0
