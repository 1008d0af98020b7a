# SPDX-License-Identifier: MIT
"""The pools of one worker: which there are, and how the engine runs them.

Worker layer, cold. What one pool is: ``pool``; how servers are opened: ``launches``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

from pooler import log
from pooler.config.changes import is_moved
from pooler.config.kinds import PoolMode
from pooler.config.model import Config
from pooler.config.settings import Database
from pooler.errors import CLOSE_REASON_ROWS, ConfigError, LoginError
from pooler.io.engine import Engine
from pooler.io.links import Links
from pooler.login import packets
from pooler.session.records import Change, CloseReason
from pooler.session.records import PoolMode as EngineMode
from pooler.worker.accounts import Accounts
from pooler.worker.console import DATABASE as CONSOLE_DATABASE
from pooler.worker.console import ConsoleDoor
from pooler.worker.launches import Launches
from pooler.worker.own_links import OwnLinks
from pooler.worker.past import Past
from pooler.worker.pool import Pool, tracked_parameters
from pooler.worker.servers import ServerOpener
from pooler.worker.stays import Stays
from pooler.worker.time_limits import is_single_use, limits_of, limits_of_lone, to_us
from pooler.worker.words import Questions

UNLIMITED_SERVERS = 1_000_000
PLACE_S = 15.0  # that a login which is to learn a word waits for a place
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


class Pools:
    """All pools of a worker; made on first use, kept until they are dropped."""

    def __init__(
        self,
        engine: Engine,
        links: Links,
        config: Config,
        workers: int,
        door: ConsoleDoor,
        stays: Stays,
        accounts: Accounts,
    ) -> None:
        self._engine = engine
        self.workers = workers
        self.tracked = tracked_parameters(config)
        self.tracked_names = tuple(self.tracked.values())
        self.opener = ServerOpener(
            links, config, self.tracked, door, stays, accounts.row
        )
        self.door = door
        self.accounts = accounts
        self.own_links = OwnLinks(self.opener, accounts)
        self.launches = Launches(
            engine, self.opener, self.tracked_names, accounts, self._free_dedicated
        )
        self.opener.names.moved = self.launches.retire_moved
        self._dedicated_ids: list[int] = []  # of the engine's pools, to be used again
        self._by_key: dict[tuple[str, str], Pool] = {}
        self._by_id: dict[int, Pool] = {}
        self._databases: dict[str, Database | None] = {}
        self.past = Past()
        self.on_made: Callable[[Pool], None] = lambda _: None
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
            self._tell_new(database.name)
            places = self.accounts.open(*key)
            pool_id = self._engine.pool_create(self._size(database, user))
            pool = self._by_key[key] = Pool(database, user, pool_id, places=places)
            self._by_id[pool_id] = pool
            self._engine.pool_share(
                pool_id, self.accounts.page, self.accounts.row, places.pool
            )
            pool.words.changed = self._engine.logins_forget
            pool.on_room = partial(self.launches.room, pool)
            self._prepare_questions(pool)
            self._configure(pool)
            self.on_made(pool)
        return pool

    def drop(self, pool: Pool) -> bool:
        """Forget a pool that clients have in common; False: somebody uses it."""
        if pool.is_awaited or not self._engine.pool_drop(pool.pool_id):
            return False
        pool.end()
        self.launches.forget(pool)
        del self._by_key[pool.key]
        del self._by_id[pool.pool_id]
        if pool.places is not None:
            self.accounts.close(pool.places)
        return True

    def _tell_new(self, name: str) -> None:
        """Say that the ``*`` entry is used for a database of which there is no pool."""
        known = name in self.config.databases or any(
            name == other for other, _ in self._by_key
        )
        if not known:
            log.write(log.LOG, f"registered new auto-database: {name}")

    def dedicated(
        self, database: Database, user: str, startup: Mapping[str, str]
    ) -> Pool:
        """Return a pool of one server for one replication client, or of the console.

        The server counts by the accounts of the pool that others have in common.
        """
        places = None
        if database is not CONSOLE_DATABASE:
            places = self.accounts.open(database.name, user)
        free = self._dedicated_ids
        pool_id = free.pop() if free else self._engine.pool_create(1)
        pool = Pool(database, user, pool_id, startup=startup, places=places)
        pool.on_room = partial(self.launches.room, pool)
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
            no_queries=self.config.settings.disable_pqexec
            and database is not CONSOLE_DATABASE,
            limits=limits_of_lone(self.config, database, user),
        )
        self.hold(pool)
        return pool

    def release_dedicated(self, pool: Pool) -> None:
        """A replication client is gone, and with it its pool and server."""
        if pool.startup is None or pool.abandoned:
            return
        pool.abandoned = True
        self.launches.forget(pool)
        self._engine.pool_retire(pool.pool_id, True)
        if self._engine.pool_stats(pool.pool_id)["connecting"] == 0:
            self._free_dedicated(pool)

    def _free_dedicated(self, pool: Pool) -> None:
        if pool.database.name in self.config.databases:
            self.past.add(pool.database.name, self.stats(pool))
        del self._by_id[pool.pool_id]
        self._dedicated_ids.append(pool.pool_id)
        if pool.places is not None:
            self.accounts.close(pool.places)

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

    def by_account(self, account: int) -> Pool | None:
        """Return the pool that is counted there, of those that are no client's own."""
        for pool in self._by_key.values():
            if pool.places is not None and pool.places.pool == account:
                return pool
        return None

    def shared(self) -> list[Pool]:
        """Return the pools that are no client's own."""
        return list(self._by_key.values())

    def by_names(self, database: str, user: str) -> Pool | None:
        """Return the pool of a database and a server user, if there is one."""
        return self._by_key.get((database, user))

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
        for pool in self.all():
            if name in ("", pool.database.name):
                self.replace_servers(pool)
        return True

    def replace_servers(self, pool: Pool) -> None:
        """Replace the servers of a pool as they become free.

        That of a replication client goes now: it may never be free.
        """
        if pool.startup is not None:
            if not pool.is_console:
                reason = CloseReason.CLOSE_CONFIG_CHANGED
                self._engine.pool_kill(pool.pool_id, reason)
            return
        pool.learn(None)
        pool.backoff.forget()
        pool.renewals += 1
        self._engine.pool_retire(pool.pool_id, False)

    def reload(self, config: Config, reconnect: frozenset[str]) -> None:
        """Take over a new configuration; servers of ``reconnect`` are replaced.

        So are those of a name that leads elsewhere because it has an entry of its own
        now, or has none any more. ``*``: all that have or had none.
        """
        old = self.config
        try:
            self.opener.use(config)
        except ConfigError as error:
            # The master has seen to it that it can be had; it has gone since.
            log.write(log.ERROR, f"reload: {error}; TLS stays as it was")
            self.opener.config = config
        self._limit()
        self._databases.clear()
        listed = old.databases.keys() & config.databases.keys()
        for pool in self.all():
            if pool.is_console:
                continue
            before, name = pool.database, pool.database.name
            database = self.database(name)
            if database is None:
                self.kill(pool)
                continue
            pool.database = database
            if pool.startup is None:
                self._begin_anew(pool, old)
            named = name in reconnect or ("*" in reconnect and name not in listed)
            if named or is_moved(before, database):
                self.replace_servers(pool)

    def _begin_anew(self, pool: Pool, old: Config) -> None:
        """Forget what was learnt under an old configuration, and follow the new one."""
        pool.words.forget()
        pool.backoff.forget()
        self._engine.pool_learned(pool.pool_id)  # what is on its way, as well
        if self.config.userlist.get(pool.user) != old.userlist.get(pool.user):
            pool.scram_keys = None  # they were proved by what is no secret any more
        self._configure(pool)
        self.resize(pool)

    def kill(self, pool: Pool) -> None:
        """Close all clients and servers of a pool: its database is not there."""
        gone = LoginError(*CLOSE_REASON_ROWS[CloseReason.CLOSE_DATABASE_REMOVED][1:])
        self.launches.refuse_logins(pool, gone)
        pool.renewals += 1
        self._engine.pool_kill(pool.pool_id, CloseReason.CLOSE_DATABASE_REMOVED)

    def _limit(self) -> None:
        """Tell the engine what clients may do, whatever their pool."""
        settings = self.config.settings
        self._engine.limit_logins(to_us(settings.client_login_timeout))
        self._engine.limit_buffers(-(-settings.max_buffer_memory // self.workers))
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
            no_queries=settings.disable_pqexec,
            clean_changed=settings.clean_changed_servers,
            clean_custom=settings.clean_custom_parameters,
            clean_sequences=settings.clean_sequences,
            single_use=is_single_use(self.config, pool.database),
            min_servers=self.config.min_pool_size(pool.database),
            round_robin=settings.server_round_robin,
            fast_close=settings.server_fast_close,
            limits=limits_of(self.config, pool.database, pool.user),
            max_prepared_statements=0
            if mode is PoolMode.SESSION
            else settings.max_prepared_statements,
        )
        self.hold(pool)

    def hold(self, pool: Pool) -> None:
        """Pause a pool or let it go, as the operator wants it now."""
        held = not pool.is_console and self.config.state.holds(pool.database.name)
        self._engine.pool_hold(pool.pool_id, held)

    def resize(self, pool: Pool) -> None:
        """Let a pool have as many servers as all workers may."""
        size = self._size(pool.database, pool.user)
        self._engine.pool_resize(pool.pool_id, size)

    def _size(self, database: Database, user: str) -> int:
        """What one worker may have at most; all together: see ``accounts``."""
        size = self.config.pool_size(database, user)
        if size == 0:
            return UNLIMITED_SERVERS
        return size + self.config.reserve_pool_size(database, user)

    # ------------------------------------------------------------ words

    def _prepare_questions(self, pool: Pool) -> None:
        """Let logins ask the servers of a pool for their words."""

        async def log_in(name: str, value: str) -> str | None:
            if self.config.state.holds(pool.database.name):
                return None  # nothing opens a server now
            try:
                async with asyncio.timeout(PLACE_S):
                    ready = await self.own_links.open(
                        pool.entry, pool.user, pool.scram_keys, {name: value}
                    )
            except TimeoutError:
                raise LoginError("no server could be opened") from None
            ready.link.close()
            return ready.greeting.parameters.get(name)

        pool.questions = Questions(
            self._engine,
            pool.pool_id,
            pool.words,
            lambda: pool.welcome,
            log_in,
            lambda: self.launches.bring(pool),
        )

    def inquired(self, pool_id: int) -> None:
        """The engine has the answer to what a server of the pool was asked."""
        pool = self._by_id.get(pool_id)
        if pool is not None and pool.questions is not None:
            pool.questions.inquired()

    def learned(self, pool_id: int) -> None:
        """Servers have put values of clients into their own words."""
        pool = self._by_id.get(pool_id)
        if pool is not None:
            for name, asked, told in self._engine.pool_learned(pool_id):
                pool.words.learn(name.decode(), asked.decode(), told.decode())

    # ------------------------------------------------------------ servers

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
        self.launches.end()
        for pool in self.all():
            self._engine.pool_retire(pool.pool_id, True)

    def send_waiting_away(self) -> None:
        """Tell those who wait for a server that there will be none."""
        for pool in self.all():
            self._engine.pool_drop_waiting(
                pool.pool_id,
                CloseReason.CLOSE_SHUTDOWN,
                packets.error_response("FATAL", "57P01", "server shutting down"),
            )
