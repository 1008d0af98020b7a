# SPDX-License-Identifier: MIT
"""``auth_query``: users that auth_file does not know, as a database does.

Worker layer, cold. Each (database, auth_user) that is asked has a few connections of
its own, which count as servers of the pool of these names. No parameter of a client
ever reaches them, and their search_path is fixed: a client is only a value there
(CVE-2025-12819).

One question about a user is on its way at a time. Who comes meanwhile is told by the
next one: an answer is never older than the client that it lets in. Only where the
operator wants answers to be kept is an older one taken.

A question outlives the client that has caused it, so an answer can only reach those
who have asked it; ``auth_query_timeout`` bounds it.

Source: PgBouncer documentation, "auth_user", "auth_query", "auth_dbname".
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from pooler import log
from pooler.config.model import RESERVED_AUTH_DBNAME, RESERVED_DATABASE
from pooler.config.settings import Database, Settings
from pooler.errors import (
    QUERY_CANCELED,
    SQLCLIENT_UNABLE_TO_CONNECT,
    LoginError,
)
from pooler.login import packets
from pooler.login.scram import ScramKeys
from pooler.worker.backoff import is_hopeless
from pooler.worker.lookup import Answer, Lookup, LostError
from pooler.worker.pools import Pools

# Of one (database, auth_user), in one worker.
CONNECTIONS = 4
IDLE_S = 60.0
# Answers that are kept, and (database, auth_user) that are remembered.
ANSWERS_KEPT = 4096
TARGETS_KEPT = 256
# The name of a user in a database of another encoding is bytes, as at its own login.
NO_CONVERSION = "SQL_ASCII"
SEARCH_PATH = "pg_catalog, public"
_NAME_UNKNOWN_IN_ENCODING = "22021"
_UNEXPECTED = "unexpected response from auth_query"


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a user; ``secret`` None: there is none of that name.

    An empty secret is one that no password opens.
    """

    secret: str | None = field(repr=False)
    server_user: str


NOBODY = Found(None, "")


class Question(NamedTuple):
    """Who is asked what."""

    auth_database: str
    auth_user: str
    sql: str
    user: str


def _misconfigured(why: str) -> LoginError:
    """PgBouncer's word for all of it; ours alone says why."""
    return LoginError("bouncer config error", why=why)


def read_answer(answer: Answer) -> Found:
    """What an answer says of the user; LoginError if it is none.

    Of more rows than one none is believed: it would let somebody in as somebody else.
    """
    if answer.error.get("C") == _NAME_UNKNOWN_IN_ENCODING:
        return NOBODY
    if answer.error:
        why = answer.error.get("M", "no reason")
        raise _misconfigured(f"error response from auth_query: {why}")
    if answer.columns is None:
        raise _misconfigured(f"{_UNEXPECTED}: it returns no rows")
    if answer.columns != 2:
        raise _misconfigured(
            f"expected 2 columns from auth_query, not {answer.columns}"
        )
    if not answer.rows:
        return NOBODY
    if len(answer.rows) > 1:
        raise _misconfigured(f"{_UNEXPECTED}: it returns more than one row")
    [(name, secret)] = answer.rows
    if name is None:
        raise _misconfigured("auth_query response contained null user name")
    if secret is not None and len(packets.encode(secret)) > packets.MAX_PASSWORD_BYTES:
        raise _misconfigured(f"{_UNEXPECTED}: the secret is too long")
    return Found(secret or "", name)


def _cannot_connect(why: str) -> LoginError:
    """Whoever is not logged in yet does not hear of auth_user."""
    return LoginError("cannot connect", SQLCLIENT_UNABLE_TO_CONNECT, why=why)


class Target:
    """The connections to one database as one auth_user."""

    def __init__(self, pools: Pools, database: Database, user: str) -> None:
        settings = pools.config.settings
        known = pools.config.userlist.get(user)
        self._pools = pools
        self._database = dataclasses.replace(
            database,
            password=None if known is None else known.text,
            connect_query=None,
            client_encoding=NO_CONVERSION,
            datestyle=None,
            timezone=None,
            application_name="auth_query",
        )
        self._user = user
        self._retry_s = settings.server_login_retry
        self._settings: Mapping[str, str] = MappingProxyType(
            {
                "search_path": SEARCH_PATH,
                "statement_timeout": str(math.ceil(settings.auth_query_timeout * 1000)),
            }
        )
        self._places = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[tuple[Lookup, asyncio.TimerHandle]] = []
        self._scram_keys: ScramKeys | None = None
        self._closed = False
        self._failure = ""
        self._retry_at_s = 0.0

    async def ask(self, sql: str, value: str) -> Answer:
        """Ask on a connection that is free, or a new one; raises LoginError."""
        async with self._places:
            if self._idle:
                lookup, timer = self._idle.pop()
                timer.cancel()
                try:
                    return await self._ask(lookup, sql, value)
                except LostError:
                    pass  # while it was idle, most likely
            return await self._ask(await self._open(), sql, value)

    async def _ask(self, lookup: Lookup, sql: str, value: str) -> Answer:
        try:
            answer = await lookup.ask(sql, value)
        except BaseException:
            lookup.close()
            raise
        self._put_back(lookup)
        return answer

    def _put_back(self, lookup: Lookup) -> None:
        if self._closed:
            lookup.close()
            return
        timer = asyncio.get_running_loop().call_later(IDLE_S, self._expire, lookup)
        self._idle.append((lookup, timer))
        names = (self._database.name, self._user)
        self._pools.own_links.idle(names, self._evict)

    def _expire(self, lookup: Lookup) -> None:
        self._idle = [one for one in self._idle if one[0] is not lookup]
        lookup.close()

    def _evict(self) -> bool:
        """Somebody needs the place of an idle connection; False: there is none."""
        if not self._idle:
            return False
        lookup, timer = self._idle.pop(0)
        timer.cancel()
        lookup.close()
        return True

    async def _open(self) -> Lookup:
        """Log in. What the server has refused is not tried again for a while."""
        if time.monotonic() < self._retry_at_s:
            raise _cannot_connect(f"{self._failure} (server_login_retry)")
        try:
            ready = await self._pools.own_links.open(
                self._database, self._user, self._scram_keys
            )
        except LoginError as error:
            if is_hopeless(error):
                self._failure = error.message
                self._retry_at_s = time.monotonic() + self._retry_s
            raise _cannot_connect(error.message) from None
        self._scram_keys = ready.greeting.scram_keys
        if self._pools.config.settings.log_connections:
            log.write(
                log.LOG,
                "new connection to server for auth_query",
                tag=f"S-{ready.greeting.backend_pid}: {self.tag}@{ready.way.address}",
            )
        return Lookup(ready.link, ready.early, self._settings)

    @property
    def tag(self) -> str:
        """How log lines name it."""
        return f"{self._database.name}/{self._user}"

    def close(self) -> None:
        """Ask nobody any more; what is under way ends."""
        self._closed = True
        for lookup, timer in self._idle:
            timer.cancel()
            lookup.close()
        self._idle.clear()


class AuthQuery:
    """Secrets that databases are asked for, of one worker."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._targets: OrderedDict[tuple[str, str], Target] = OrderedDict()
        self._kept: OrderedDict[Question, tuple[float, Found]] = OrderedDict()
        self._running: dict[Question, asyncio.Task[Found]] = {}
        self._queued: dict[Question, asyncio.Task[Found]] = {}

    def reload(self) -> None:
        """Forget what was found by the configuration of before."""
        for target in self._targets.values():
            target.close()
        self._targets.clear()
        self._kept = OrderedDict()  # what is on its way finds the old one
        self._running = {}
        self._queued = {}

    def can_ask(self, database: str) -> bool:
        """Whether there is somebody to ask about users of this database.

        Those of the console are asked for by the global settings.
        """
        entry = self._pools.database(database)
        if entry is None and database != RESERVED_DATABASE:
            return False
        return bool(self._auth_user(entry))

    def forget(self, user: str, database: str) -> None:
        """A login has failed: the secret may be another by now.

        That there is no such user stays known, or unknown names would cost a question
        each.
        """
        if not self.can_ask(database):
            return
        question = self._question(user, database)
        kept = self._kept.get(question)
        if kept is not None and kept[1].secret is not None:
            del self._kept[question]

    def kept_for_s(self, user: str, database: str) -> float:
        """How long what was found of a user counts from now on; 0: not any more."""
        kept = self._kept.get(self._question(user, database))
        return 0.0 if kept is None else max(0.0, kept[0] - time.monotonic())

    async def find(self, user: str, database: str) -> Found:
        """The secret of a user who asks for a database; LoginError: nobody can say."""
        question = self._question(user, database)
        kept = self._kept.get(question)
        if kept is not None and time.monotonic() < kept[0]:
            self._kept.move_to_end(question)
            return kept[1]
        return await asyncio.shield(self._ask_with_others(question))

    # ------------------------------------------------------------ who is asked

    def _auth_user(self, entry: Database | None) -> str | None:
        own = None if entry is None else entry.auth_user
        return own or self._pools.config.settings.auth_user

    def _question(self, user: str, database: str) -> Question:
        wide = self._pools.config.settings
        entry = self._pools.database(database)
        auth_user = self._auth_user(entry)
        if not auth_user:
            raise _misconfigured("a reload has taken auth_user away")
        own: Database | Settings = wide if entry is None else entry
        return Question(
            own.auth_dbname or wide.auth_dbname or database,
            auth_user,
            wide.auth_query if own.auth_query is None else own.auth_query,
            user,
        )

    def _target(self, question: Question) -> Target:
        name = question.auth_database
        if name in self._pools.config.state.disabled:
            raise LoginError(f'authentication database "{name}" is disabled')
        key = (name, question.auth_user)
        target = self._targets.get(key)
        if target is None:
            database = self._pools.database(question.auth_database)
            if database is None:
                shown = question.auth_database
                raise _misconfigured(
                    RESERVED_AUTH_DBNAME
                    if shown == RESERVED_DATABASE
                    else f'authentication database "{shown}" is not configured'
                )
            target = Target(self._pools, database, question.auth_user)
            self._targets[key] = target
            if len(self._targets) > TARGETS_KEPT:
                self._targets.popitem(last=False)[1].close()
        self._targets.move_to_end(key)
        return target

    # ------------------------------------------------------------ asking

    def _ask_with_others(self, question: Question) -> asyncio.Task[Found]:
        """The task of the next question, which is this one or one that waits."""
        queued = self._queued.get(question)
        running = self._running.get(question)
        if queued is not None:
            return queued
        if running is None:
            return self._start(question)
        settings = self._pools.config.settings
        if min(settings.auth_query_cache_ttl, settings.auth_query_negative_ttl) > 0:
            return running
        task = asyncio.get_running_loop().create_task(
            self._ask_behind(running, question, self._queued)
        )
        self._queued[question] = task
        task.add_done_callback(_note_failure)
        return task

    def _start(self, question: Question) -> asyncio.Task[Found]:
        task = asyncio.get_running_loop().create_task(self._ask(question))
        running = self._running
        running[question] = task

        def done(task: asyncio.Task[Found]) -> None:
            if running.get(question) is task:
                del running[question]
            _note_failure(task)

        task.add_done_callback(done)
        return task

    async def _ask_behind(
        self,
        running: asyncio.Task[Found],
        question: Question,
        queued: dict[Question, asyncio.Task[Found]],
    ) -> Found:
        await asyncio.wait([running])
        del queued[question]
        return await self._start(question)

    async def _ask(self, question: Question) -> Found:
        settings = self._pools.config.settings
        kept = self._kept
        began_s = time.monotonic()
        target = self._target(question)
        where = f"auth_query of {target.tag}"
        try:
            async with asyncio.timeout(settings.auth_query_timeout or None):
                answer = await target.ask(question.sql, question.user)
            found = read_answer(answer)
        except TimeoutError:
            raise LoginError(
                "auth_query timeout", QUERY_CANCELED, why=f"{where}: auth_query_timeout"
            ) from None
        except LoginError as error:
            if not error.why:  # it is about the connection or what came over it
                error = _cannot_connect(error.message)
            raise LoginError(
                error.message, error.sqlstate, why=f"{where}: {error.why}"
            ) from None
        ttl_s = (
            settings.auth_query_negative_ttl
            if found.secret is None
            else settings.auth_query_cache_ttl
        )
        if ttl_s > 0 and kept is self._kept:
            kept[question] = (began_s + ttl_s, found)
            kept.move_to_end(question)
            if len(kept) > ANSWERS_KEPT:
                kept.popitem(last=False)
        return found


def _note_failure(task: asyncio.Task[Found]) -> None:
    """Those who wait hear of it; there may be none left."""
    if not task.cancelled():
        task.exception()
