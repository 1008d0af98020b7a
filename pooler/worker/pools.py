# SPDX-License-Identifier: MIT
"""The pools of one worker, seen from Python: when to open servers, what to tell.

Worker layer, cold. The engine decides that a pool wants servers and hands them out;
this module opens them, remembers what a server of the pool says at login (the
welcome that every client gets) and what went wrong last.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pooler import log
from pooler.config.kinds import PoolMode
from pooler.config.loading import Config
from pooler.config.settings import Database
from pooler.errors import (
    CANNOT_CONNECT_NOW,
    CLOSE_REASON_ROWS,
    INVALID_PASSWORD,
    ConfigError,
    LocalResourceError,
    LoginError,
)
from pooler.io.engine import Engine
from pooler.io.links import Links
from pooler.login import packets
from pooler.login.scram import ScramKeys
from pooler.login.server import ServerLoginError
from pooler.parameters import TRACKED_PARAMETERS
from pooler.session.records import Change, CloseReason
from pooler.session.records import PoolMode as EngineMode
from pooler.worker.console import DATABASE as CONSOLE_DATABASE
from pooler.worker.console import ConsoleDoor
from pooler.worker.servers import Address, ReadyServer, ServerOpener, Way
from pooler.worker.words import LABEL, Questions, Words, label

# Logins under way at once, per pool: PostgreSQL forks a process for each.
LOGINS_AT_ONCE = 4
UNLIMITED_SERVERS = 1_000_000
TESTED_S = 10.0
LOCAL_RETRY_S = 1.0
FRESH_US = 1_000_000
GREETINGS_KEPT = 256
DATABASES_KEPT = 1024
EMPTY_QUERY = b"\0"
ENGINE_MODES = {
    PoolMode.SESSION: EngineMode.MODE_SESSION,
    PoolMode.TRANSACTION: EngineMode.MODE_TRANSACTION,
    PoolMode.STATEMENT: EngineMode.MODE_STATEMENT,
}

LEFT_TEXTS: Mapping[int, str] = {
    Change.CHANGE_SETTING: "settings (SET, RESET, ROLE, set_config)",
    Change.CHANGE_TEMPORARY: "temporary tables",
    Change.CHANGE_LISTEN: "LISTEN",
    Change.CHANGE_LOCK: "advisory locks",
    Change.CHANGE_CURSOR: "cursors WITH HOLD",
    Change.CHANGE_HIDDEN: "what DO, CALL or a long text may have done",
    Change.CHANGE_FOR_GOOD: "what no command takes back (LOAD, setseed, SET my.own)",
}


@dataclass(frozen=True, slots=True)
class Greeting:
    """What clients that have the same parameter values are told and given."""

    messages: bytes  # AuthenticationOk and every ParameterStatus
    values: list[bytes | None]  # of the tracked parameters, in the engine's order


@dataclass(slots=True)
class Pool:
    """One (database, user) of this worker."""

    database: Database
    user: str
    pool_id: int
    welcome: dict[str, str] | None = None
    greetings: dict[tuple[tuple[str, str], ...], Greeting] = field(default_factory=dict)
    failure: LoginError | None = None
    hopeless: bool = False  # the server itself refused: waiting will not help
    retry_at_s: float = 0.0
    retry: asyncio.TimerHandle | None = None
    scram_keys: ScramKeys | None = field(default=None, repr=False)
    # What the login of a client has found: auth_file does not know the user.
    secret: str | None = field(default=None, repr=False)
    is_lent: bool = False  # the secret is a client's password, gone with the last one
    on_welcome: list[Callable[[], None]] = field(default_factory=list)
    # Of a replication client: what its own server is started with.
    startup: Mapping[str, str] | None = None
    abandoned: bool = False
    told_left: int = 0  # of LEFT_TEXTS, what the log has said
    words: Words = field(default_factory=Words)
    questions: Questions | None = None  # None: of a replication client

    @property
    def is_console(self) -> bool:
        """Whether its one server is the console."""
        return self.database is CONSOLE_DATABASE

    @property
    def tag(self) -> str:
        """How log lines name the pool."""
        return f"{self.database.name}/{self.user}"

    @property
    def entry(self) -> Database:
        """The database, with the secret by which its servers are logged in to."""
        if self.secret is None or self.database.password is not None:
            return self.database
        return dataclasses.replace(self.database, password=self.secret)

    def learn_secret(self, secret: str | None) -> None:
        """Take over what the newest login has found; it has not failed yet."""
        if secret != self.secret:
            self.secret = secret
            self.scram_keys = None  # of another secret
            self.failure = None

    def learn(self, welcome: dict[str, str] | None) -> None:
        """Take over what the newest server said at its login; None forgets it."""
        if welcome != self.welcome:
            self.greetings.clear()
            self.words.forget()
        self.welcome = welcome

    def in_words(self, asked: dict[str, str]) -> tuple[dict[str, str], bytes]:
        """What a client asks for as a server tells it, and the notices it gives.

        LoginError if a value is known to be refused, or cannot be followed.
        """
        welcome = self.welcome or {}
        notice = b""
        if LABEL in asked:
            text, notice = label(packets.encode(asked[LABEL]), welcome)
            asked = {**asked, LABEL: text}
        return self.words.told(asked, welcome), notice

    def greeting(self, values: dict[str, str], tracked: tuple[str, ...]) -> Greeting:
        """The greeting of a client that has these parameter values.

        Made once for all clients that have the same: drivers ask for the same values
        again and again, and this is half of what a login costs. A parameter that the
        server does not report is told to nobody.
        """
        key = tuple(values.items())
        known = self.greetings.get(key)
        if known is None:
            welcome = self.welcome or {}
            told = {name: values.get(name, text) for name, text in welcome.items()}
            messages = [packets.authentication_ok()]
            messages += (packets.parameter_status(*item) for item in told.items())
            known = Greeting(b"".join(messages), tracked_values(told, tracked))
            if len(self.greetings) >= GREETINGS_KEPT:
                self.greetings.clear()
            self.greetings[key] = known
        return known


@dataclass(frozen=True, slots=True)
class Server:
    """What Python knows of a server that the engine runs."""

    pool: Pool
    way: Way
    backend_pid: int
    cancel_key: bytes = field(repr=False)


def share_of(total: int, slot: int, workers: int) -> int:
    """This worker's part of a pool size that counts for all workers.

    At least one, else clients of this worker could never be served; so a size below
    the number of workers is exceeded. 0 means no limit.
    """
    if total == 0:
        return UNLIMITED_SERVERS
    return max(1, total // workers + (slot < total % workers))


def to_us(seconds: float) -> int:
    """Seconds of a setting as the engine's microseconds."""
    return int(seconds * 1_000_000)


def tracked_parameters(config: Config) -> dict[str, str]:
    """Lower-case to canonical name of the parameters that follow a client."""
    extra = config.settings.track_extra_parameters
    return {**TRACKED_PARAMETERS} | {
        name.lower(): name for name in extra if name.lower() not in TRACKED_PARAMETERS
    }


def tracked_values(
    parameters: dict[str, str], tracked: tuple[str, ...]
) -> list[bytes | None]:
    """Values in the engine's order; what cannot be put into a SET is not followed.

    Nor is what the server does not report: nobody could say whether it has the value.
    """
    values: list[bytes | None] = []
    for name in tracked:
        text = parameters.get(name)
        values.append(text.encode() if text is not None and text.isascii() else None)
    return values


def is_hopeless(error: LoginError) -> bool:
    """Whether those who wait for a server should be told now, rather than wait.

    Yes when PostgreSQL refused the login, or asks for a secret that we have not. A
    server that cannot be reached, or that is starting up (57P03), may come back within
    ``query_wait_timeout``.
    """
    if not isinstance(error, ServerLoginError):
        return False
    if error.server_message is None:
        return error.sqlstate == INVALID_PASSWORD
    return error.sqlstate != CANNOT_CONNECT_NOW


class Pools:
    """All pools of a worker; made on first use, kept until the worker ends."""

    def __init__(
        self,
        engine: Engine,
        links: Links,
        config: Config,
        slot: int,
        workers: int,
        door: ConsoleDoor,
    ) -> None:
        self._engine = engine
        self._slot = slot
        self.workers = workers
        self.tracked = tracked_parameters(config)
        self.tracked_names = tuple(self.tracked.values())
        self.opener = ServerOpener(links, config, self.tracked, door)
        self.door = door
        self._leaving = False
        self._dedicated_ids: list[int] = []  # of the engine's pools, to be used again
        self._by_key: dict[tuple[str, str], Pool] = {}
        self._by_id: dict[int, Pool] = {}
        self._databases: dict[str, Database | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.servers: dict[int, Server] = {}
        self._limit()

    @property
    def config(self) -> Config:
        """The running configuration."""
        return self.opener.config

    def database(self, name: str) -> Database | None:
        """``Config.database``, remembered: an entry made from ``*`` is not cheap."""
        if name not in self._databases:
            if len(self._databases) >= DATABASES_KEPT:
                self._databases.clear()
            self._databases[name] = self.config.database(name)
        return self._databases[name]

    def get(self, database: Database, user: str) -> Pool:
        """Return the pool of a database entry and a server user."""
        key = (database.name, user)
        pool = self._by_key.get(key)
        if pool is None:
            pool_id = self._engine.pool_create(self._size(database, user))
            pool = self._by_key[key] = Pool(database, user, pool_id)
            self._by_id[pool_id] = pool
            pool.words.changed = self._engine.logins_forget
            self._prepare_questions(pool)
            self._configure(pool)
        return pool

    def dedicated(
        self, database: Database, user: str, startup: Mapping[str, str]
    ) -> Pool:
        """Return a pool of one server for one replication client."""
        free = self._dedicated_ids
        pool_id = free.pop() if free else self._engine.pool_create(1)
        pool = Pool(database, user, pool_id, startup=startup)
        self._by_id[pool_id] = pool
        self._engine.pool_configure(
            pool_id,
            mode=EngineMode.MODE_SESSION,
            reset_query=b"",
            reset_always=False,
            check_query=b"",
            check_delay_us=0,
            cancel_abandoned=False,
            dedicated=True,
            query_wait_us=to_us(self.config.settings.query_wait_timeout),
        )
        return pool

    def release_dedicated(self, pool: Pool) -> None:
        """A replication client is gone, and with it its pool and server."""
        if pool.startup is None or pool.abandoned:
            return
        pool.abandoned = True
        self._engine.pool_retire(pool.pool_id, True)
        if self._engine.pool_stats(pool.pool_id)["connecting"] == 0:
            self._free_dedicated(pool)

    def _free_dedicated(self, pool: Pool) -> None:
        del self._by_id[pool.pool_id]
        self._dedicated_ids.append(pool.pool_id)

    def learn_secret(self, pool: Pool, secret: str | None, *, stored: bool) -> None:
        """Take over what the newest login of a pool has found.

        ``stored``: by a database, for the role. If it is another one the role may be
        another, too, of the same name, and would be a stranger in its servers: those
        are replaced as they become free.
        """
        if stored and pool.secret not in (None, secret):
            pool.learn(None)
            self._engine.pool_retire(pool.pool_id, False)
        pool.learn_secret(secret)
        pool.is_lent = not stored

    def by_id(self, pool_id: int) -> Pool | None:
        """Return the pool with the engine's id."""
        return self._by_id.get(pool_id)

    def all(self) -> list[Pool]:
        """Return every pool."""
        return list(self._by_id.values())

    def stats(self, pool: Pool) -> dict[str, int]:
        """Counts and totals of a pool; see ``Engine.pool_stats``."""
        found: dict[str, int] = self._engine.pool_stats(pool.pool_id)
        return found

    def reconnect(self, name: str) -> bool:
        """Replace the servers of a database as they become free; "": of all.

        False: there is no such database.
        """
        if name and self.database(name) is None:
            return False
        for pool in self._by_key.values():
            if name in ("", pool.database.name):
                self._replace_servers(pool)
        return True

    def _replace_servers(self, pool: Pool) -> None:
        pool.learn(None)
        pool.failure = None
        self._engine.pool_retire(pool.pool_id, False)

    def reload(self, config: Config, reconnect: frozenset[str]) -> None:
        """Take over a new configuration; servers of ``reconnect`` are replaced."""
        secrets = self.config.userlist
        try:
            self.opener.use(config)
        except ConfigError as error:
            # The master has seen to it that it can be had; it has gone since.
            log.write(log.ERROR, f"reload: {error}; TLS stays as it was")
            self.opener.config = config
        self._limit()
        self._databases.clear()
        for pool in list(self._by_key.values()):
            pool.words.forget()
            pool.failure = None  # what was wrong may be right by now
            self._engine.pool_learned(pool.pool_id)  # what is on its way, as well
            if config.userlist.get(pool.user) != secrets.get(pool.user):
                pool.scram_keys = None  # they were proved by what is no secret any more
            database = self.database(pool.database.name)
            if database is None:
                continue
            pool.database = database
            self._configure(pool)
            self._engine.pool_resize(pool.pool_id, self._size(database, pool.user))
            if pool.database.name in reconnect or "*" in reconnect:
                self._replace_servers(pool)

    def _limit(self) -> None:
        """Tell the engine what clients may do, whatever their pool."""
        settings = self.config.settings
        self._engine.limit_logins(to_us(settings.client_login_timeout))
        self._engine.limit_statements(
            max_client_count=settings.max_client_prepared_statements,
            max_client_bytes=settings.max_client_prepared_bytes,
            max_bytes=-(-settings.max_prepared_memory // self.workers),
            cache_unnamed=settings.cache_unnamed_statements,
        )

    def _configure(self, pool: Pool) -> None:
        """Tell the engine how the pool works."""
        settings = self.config.settings
        mode = self.config.pool_mode(pool.database, pool.user)
        check = settings.server_check_query
        self._engine.pool_configure(
            pool.pool_id,
            mode=ENGINE_MODES[mode],
            reset_query=settings.server_reset_query.encode(),
            reset_always=settings.server_reset_query_always,
            check_query=EMPTY_QUERY if check == "<empty>" else check.encode(),
            check_delay_us=to_us(settings.server_check_delay),
            cancel_abandoned=settings.cancel_abandoned,
            clean_changed=settings.clean_changed_servers,
            clean_custom=settings.clean_custom_parameters,
            clean_sequences=settings.clean_sequences,
            query_wait_us=to_us(settings.query_wait_timeout),
            tested_us=to_us(settings.cancel_wait_timeout or TESTED_S),
            max_prepared_statements=0
            if mode is PoolMode.SESSION
            else settings.max_prepared_statements,
        )

    def _size(self, database: Database, user: str) -> int:
        total = self.config.pool_size(database, user)
        return share_of(total, self._slot, self.workers)

    # ------------------------------------------------------------ welcome

    def when_welcome(self, pool: Pool, ready: Callable[[], None]) -> None:
        """Call ``ready`` once the pool has a welcome, or has failed to get one.

        Raises LoginError at once while the last failure is fresh.
        """
        if self._leaving:
            raise LoginError("pooler is shutting down", CANNOT_CONNECT_NOW)
        if pool.failure is not None and time.monotonic() < pool.retry_at_s:
            raise LoginError(
                "server login has been failing, cached error: "
                f"{pool.failure.message} (server_login_retry)",
                pool.failure.sqlstate,
            )
        pool.on_welcome.append(ready)
        self._seek_welcome(pool)

    def _seek_welcome(self, pool: Pool) -> None:
        """Open a server if clients wait for a welcome and none is being opened.

        A pool that is full of servers on their way out is asked again when one closes.
        """
        if not pool.on_welcome or self._leaving:
            return
        if self._engine.pool_stats(pool.pool_id)["connecting"]:
            return
        if self._engine.pool_prelaunch(pool.pool_id):
            self._start(pool)

    def _settle_welcome(self, pool: Pool) -> None:
        waiting, pool.on_welcome = pool.on_welcome, []
        for ready in waiting:
            try:
                ready()
            except Exception:
                # one client's trouble must not cost the others their login
                log.write_exception("admission failed", tag=pool.tag)

    def _prepare_questions(self, pool: Pool) -> None:
        """Let logins ask the servers of a pool for their words."""

        async def log_in(name: str, value: str) -> str | None:
            ready = await self.opener.open(
                pool.entry, pool.user, pool.scram_keys, {name: value}
            )
            ready.link.close()
            return ready.greeting.parameters.get(name)

        pool.questions = Questions(
            self._engine, pool.pool_id, pool.words, lambda: pool.welcome, log_in
        )

    def inquired(self, pool_id: int) -> None:
        """The engine has the answer to what a server of the pool was asked."""
        pool = self._by_id.get(pool_id)
        if pool is not None and pool.questions is not None:
            pool.questions.inquired()

    def learned(self, pool_id: int) -> None:
        """Servers have put values of clients into their own words."""
        found = self._engine.pool_learned(pool_id)
        pool = self._by_id.get(pool_id)
        if pool is not None:
            for name, asked, told in found:
                pool.words.learn(name.decode(), asked.decode(), told.decode())

    # ------------------------------------------------------------ servers

    def launch(self, pool: Pool) -> None:
        """The engine has waiting clients and too few servers: open some."""
        if self._leaving:
            return
        stats = self._engine.pool_stats(pool.pool_id)
        pause_s = pool.retry_at_s - time.monotonic()
        if pool.failure is not None and pause_s > 0:
            if stats["servers"] == 0 and pool.hopeless:
                self._fail_waiting(pool, pool.failure)
            self._engine.pool_launching(pool.pool_id, 0)
            self._retry_in(pool, pause_s)
            return
        room = max(0, LOGINS_AT_ONCE - stats["connecting"])
        for _ in range(self._engine.pool_launching(pool.pool_id, room)):
            self._start(pool)

    def _retry_in(self, pool: Pool, pause_s: float) -> None:
        if pool.retry is None:
            loop = asyncio.get_running_loop()
            pool.retry = loop.call_later(pause_s, self._launch_again, pool)

    def _launch_again(self, pool: Pool) -> None:
        """``server_login_retry`` is over."""
        pool.retry = None
        self.launch(pool)

    def _start(self, pool: Pool) -> None:
        task = asyncio.get_running_loop().create_task(self._open(pool))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, pool: Pool) -> None:
        """Open one server that the engine counts as connecting."""
        begun_s = time.monotonic()
        try:
            ready = await self.opener.open(
                pool.entry, pool.user, pool.scram_keys, pool.startup or {}
            )
        except LoginError as error:
            self._log_failure(pool, error, time.monotonic() - begun_s)
            self._failed(pool, error)
        except BaseException:
            self._engine.pool_launch_failed(pool.pool_id)
            raise
        else:
            self._adopt(pool, ready)
        if pool.startup is None:
            self.launch(pool)

    def _adopt(self, pool: Pool, ready: ReadyServer) -> None:
        greeting = ready.greeting
        if self.config.settings.log_connections and not pool.is_console:
            family, local = ready.way.address.family, ready.link.local_address
            unix = family == socket.AF_UNIX
            origin = "" if unix else f" (from {Address(family, local)})"
            log.write(
                log.LOG,
                f"new connection to server{origin}",
                tag=f"S-{greeting.backend_pid}: {pool.tag}@{ready.way.address}",
            )
        if pool.abandoned or self._leaving:
            ready.link.close()
            self._engine.pool_launch_failed(pool.pool_id)
            if pool.abandoned:
                self._free_dedicated(pool)
            return
        pool.failure = None
        pool.learn(greeting.parameters)
        handle, more = ready.link.give_up()
        self._engine.server_adopt(
            handle,
            pool.pool_id,
            tracked_values(greeting.parameters, self.tracked_names),
            ready.early + more,
        )
        self.servers[handle] = Server(
            pool, ready.way, greeting.backend_pid, greeting.cancel_key
        )
        self._settle_welcome(pool)

    def _log_failure(self, pool: Pool, error: LoginError, age_s: float) -> None:
        tag, said = f"S: {pool.tag}", getattr(error, "server_message", None)
        line = error.message if said is None else f"server login failed: FATAL {said}"
        log.write(log.WARNING, line, tag=tag)
        if self.config.settings.log_disconnections:
            line = f"closing because: {error.message} (age={int(age_s)}s)"
            log.write(log.LOG, line, tag=tag)

    def _failed(self, pool: Pool, error: LoginError) -> None:
        self._pause(pool, error)
        self._engine.pool_launch_failed(pool.pool_id)
        if pool.abandoned:
            self._free_dedicated(pool)
            return
        stats = self._engine.pool_stats(pool.pool_id)
        if stats["servers"] == 0 and stats["connecting"] == 0:
            if pool.hopeless:
                self._fail_waiting(pool, error)
            self._settle_welcome(pool)

    def _pause(self, pool: Pool, error: LoginError) -> None:
        """Open no server of this pool before ``server_login_retry`` is over."""
        retry_s = self.config.settings.server_login_retry
        if isinstance(error, LocalResourceError):
            retry_s = min(retry_s, LOCAL_RETRY_S)
        pool.failure = error
        pool.hopeless = is_hopeless(error)
        pool.retry_at_s = time.monotonic() + retry_s

    def _fail_waiting(self, pool: Pool, error: LoginError) -> None:
        farewell = packets.error_response("FATAL", error.sqlstate, error.message)
        self._engine.pool_drop_waiting(pool.pool_id, farewell)

    def server_closed(self, handle: int, reason: int, age_us: int) -> None:
        """The engine has closed a server."""
        server = self.servers.pop(handle, None)
        if server is not None:
            if reason == CloseReason.CLOSE_SERVER_CHECK and age_us < FRESH_US:
                # what a new server cannot answer, the next one could not either
                self._pause(server.pool, LoginError(CLOSE_REASON_ROWS[reason][1]))
            self._seek_welcome(server.pool)
        if server is None or not self.config.settings.log_disconnections:
            return
        if server.pool.is_console:
            return
        text = CLOSE_REASON_ROWS[reason][1]
        log.write(
            log.LOG,
            f"closing because: {text} (age={age_us // 1_000_000}s)",
            tag=f"S-{server.backend_pid}: {server.pool.tag}@{server.way.address}",
        )

    def client_left(self, pool: Pool) -> None:
        """Forget a lent secret that no client is here for: the next one brings its own.

        One that was looked up stays: by it the pool sees that the role has changed.
        """
        if not self._engine.pool_stats(pool.pool_id)["clients"]:
            pool.secret = None

    def servers_changed(self, pool: Pool) -> None:
        """Say what clients leave in the pool's servers: once of each kind."""
        left = self._engine.pool_stats(pool.pool_id)["left"]
        new = [text for bit, text in LEFT_TEXTS.items() if left & bit & ~pool.told_left]
        pool.told_left |= left
        if new:
            log.write(
                log.LOG,
                f"clients leave {', '.join(new)} in the session of a server: it is"
                " cleaned before another client gets it (clean_changed_servers)",
                tag=pool.tag,
            )

    # ------------------------------------------------------------ end

    def retire(self) -> None:
        """Hand out no server any more; servers leave when they are free."""
        self._leaving = True
        for pool in self.all():
            self._engine.pool_retire(pool.pool_id, True)
            self._engine.pool_drop_waiting(
                pool.pool_id,
                packets.error_response("FATAL", "57P01", "server shutting down"),
            )
