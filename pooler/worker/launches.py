# SPDX-License-Identifier: MIT
"""When a pool's servers are opened, and what it means that one cannot be.

Worker layer, cold. The engine says that a pool wants servers; this module has them
opened, hands them to the engine, and keeps what went wrong last.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from functools import partial

from pooler import log
from pooler.board.page import Verdict
from pooler.errors import (
    CANNOT_CONNECT_NOW,
    CLOSE_REASON_ROWS,
    SQLCLIENT_UNABLE_TO_CONNECT,
    LoginError,
)
from pooler.io.engine import Engine
from pooler.login import packets
from pooler.session.records import CloseReason
from pooler.worker.accounts import Accounts, Limits, limits_of, now_us
from pooler.worker.hosts import Address
from pooler.worker.pool import Pool, Server, tracked_values
from pooler.worker.servers import ReadyServer, ServerOpener

FRESH_US = 1_000_000
# Why a server goes that has only just come, and the next one would, too.
FAULTS = frozenset(
    {
        CloseReason.CLOSE_SERVER_CHECK,
        CloseReason.CLOSE_SERVER_EOF,
        CloseReason.CLOSE_SERVER_PROTO,
        CloseReason.CLOSE_SERVER_DIRTY,
    }
)


def _nothing() -> None:
    """Nobody is asked."""


class Launches:
    """Servers of all pools of a worker, from the wish to the engine."""

    def __init__(
        self,
        engine: Engine,
        opener: ServerOpener,
        tracked_names: tuple[str, ...],
        accounts: Accounts,
        dedicated_gone: Callable[[Pool], None],
    ) -> None:
        """``dedicated_gone``: the last server of an abandoned pool is gone."""
        self._engine = engine
        self._opener = opener
        self._tracked_names = tracked_names
        self._accounts = accounts
        # Who does something about it that a pool has no place for a server.
        self.on_refused: list[Callable[[Pool, Verdict], None]] = []
        self.on_closed: list[Callable[[Pool], None]] = []
        # Who does something about it that a pause has begun.
        self.on_failing: list[Callable[[Pool, LoginError], None]] = []
        # Who tells others that it is over.
        self.on_opens: Callable[[Pool], None] = lambda _: None
        # What was wrong may be right by now: looked at before a client hears of it.
        self.before_refusal: Callable[[], None] = _nothing
        self._dedicated_gone = dedicated_gone
        self._leaving = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.servers: dict[int, Server] = {}

    def end(self) -> None:
        """Open no servers any more."""
        self._leaving = True

    # ------------------------------------------------------------ welcome

    def when_welcome(
        self, pool: Pool, ready: Callable[[LoginError | None], None]
    ) -> None:
        """Call ``ready`` once the pool has a welcome, or has failed to get one.

        Not before this returns, and not after ``unwait``. Raises LoginError at once
        while the last failure is fresh, if it is one that does not pass by itself.
        """
        if self._leaving:
            raise LoginError("pooler is shutting down", CANNOT_CONNECT_NOW)
        if self._is_refused(pool):
            raise pool.backoff.cached()
        pool.on_welcome[ready] = now_us()
        self.seek_welcome(pool)

    def _is_refused(self, pool: Pool) -> bool:
        """Whether the last failure is fresh, and none that passes by itself."""
        if pool.backoff.hopeless:
            self.before_refusal()
        return pool.backoff.hopeless and pool.backoff.pause_s(time.monotonic()) > 0

    def unwait(self, pool: Pool, ready: Callable[[LoginError | None], None]) -> None:
        """Who has waited for a welcome does not any more; ignored if nobody has."""
        pool.on_welcome.pop(ready, None)

    def seek_welcome(self, pool: Pool) -> None:
        """Open a server if clients wait for a welcome and none is being opened.

        A pool that is full of servers on their way out is asked again when one closes.
        """
        if not pool.on_welcome or self._leaving:
            return
        pause_s = pool.backoff.pause_s(time.monotonic())
        if pause_s:
            self._retry_in(pool, pause_s)
            return
        if self._engine.pool_stats(pool.pool_id)["connecting"]:
            return
        if self._has_way(pool) and self._take(pool):
            self._open_one(pool)

    def refuse_logins(self, pool: Pool, error: LoginError) -> None:
        """Send those away who wait for the first welcome of a pool."""
        waiting, pool.on_welcome = pool.on_welcome, {}
        for ready in waiting:
            ready(error)

    def settle_welcome(self, pool: Pool) -> None:
        """There is a welcome, or there will be none."""
        waiting, pool.on_welcome = pool.on_welcome, {}
        for ready in waiting:
            try:
                ready(None)
            except Exception:
                # one client's trouble must not cost the others their login
                log.write_exception("admission failed", tag=pool.tag)

    # ------------------------------------------------------------ opening

    def launch(self, pool: Pool) -> None:
        """The engine has waiting clients and too few servers: open some."""
        if self._leaving:
            return
        refused = self._is_refused(pool)
        stats = self._engine.pool_stats(pool.pool_id)
        pause_s = pool.backoff.pause_s(time.monotonic())
        if pause_s:
            if stats["servers"] == 0 and refused:
                self._fail_waiting(pool, pool.backoff.cached())
            self._engine.pool_launching(pool.pool_id, 0)
            self._retry_in(pool, pause_s)
            return
        if not self._has_way(pool):
            self._engine.pool_launching(pool.pool_id, 0)
            return
        launched = 0
        for _ in range(pool.backoff.room(stats["connecting"])):
            if not self._engine.pool_stats(pool.pool_id)["wanted"]:
                break
            if not self._take(pool):
                return
            launched += self._engine.pool_launching(pool.pool_id, 1)
            self._start(pool)
        if not launched:
            self._engine.pool_launching(pool.pool_id, 0)

    # ------------------------------------------------------------ names

    def _has_way(self, pool: Pool) -> bool:
        """Whether a host of a pool has an address; if not, it is found, and then tried.

        Meanwhile the pool has no place: a name server that says nothing keeps nobody
        from servers of other databases of the same user.
        """
        if pool.is_console or self._opener.knows_a_way(pool.entry):
            return True
        if pool.finding is None:
            loop = asyncio.get_running_loop()
            pool.finding = loop.create_task(self._find_way(pool))
        return False

    async def _find_way(self, pool: Pool) -> None:
        era, begun_s = pool.backoff.era, time.monotonic()
        try:
            await self._opener.find_way(pool.entry)
        except LoginError as error:
            self._log_failure(pool, error, time.monotonic() - begun_s)
            if era == pool.backoff.era:
                self._pause(pool, error)
                self._tell_waiting(pool, error)
        pool.finding = None
        self.try_again(pool)

    # ------------------------------------------------------------ places

    def _take(self, pool: Pool) -> bool:
        """Take a place for a server of a pool; False: it waits for room."""
        if pool.places is None:
            return True
        config = self._opener.config
        limits = limits_of(config, pool.database, pool.user)
        reserved = self._may_use_reserve(pool, limits)
        if reserved:
            reserve = config.reserve_pool_size(pool.database, pool.user)
            limits = limits._replace(pool=limits.pool + reserve)
        verdict = self._accounts.take(pool.places, limits, pool.on_room)
        if verdict is Verdict.TAKEN:
            if reserved:
                text = "taking connection from reserve_pool"
                log.write(log.WARNING, text, tag=pool.tag)
            return True
        self._engine.pool_refused(pool.pool_id)
        for refused in self.on_refused:
            refused(pool, verdict)
        return False

    def _may_use_reserve(self, pool: Pool, limits: Limits) -> bool:
        """Whether a client has waited so long that a pool may have more servers."""
        config = self._opener.config
        reserve = config.reserve_pool_size(pool.database, pool.user)
        timeout_s = config.settings.reserve_pool_timeout
        if not (limits.pool and reserve and timeout_s) or pool.places is None:
            return False
        since_us = self._engine.pool_stats(pool.pool_id)["waiting_since_us"]
        # who logs in waits for a server, too
        logins_us = next(iter(pool.on_welcome.values()), 0)
        since_us = min(filter(None, (since_us, logins_us)), default=0)
        if not since_us or now_us() - since_us < timeout_s * 1e6:
            return False
        count = self._accounts.page.total(pool.places.pool, "servers")
        return limits.pool <= count < limits.pool + reserve

    def keep_ready(self, pool: Pool, minimum: int) -> None:
        """Open one server if all workers together have fewer than ``minimum``."""
        if self._leaving or pool.places is None:
            return
        if pool.backoff.pause_s(time.monotonic()):
            return
        if self._accounts.page.total(pool.places.pool, "servers") >= minimum:
            return
        if not self._has_way(pool):
            return
        limits = limits_of(self._opener.config, pool.database, pool.user)
        least = min(minimum, limits.pool or minimum)
        verdict = self._accounts.try_take(pool.places, limits._replace(pool=least))
        if verdict is Verdict.TAKEN:
            self._open_one(pool)

    def _open_one(self, pool: Pool) -> bool:
        """Open a server that has a place and nobody asked for; False: it may not be."""
        if self._engine.pool_prelaunch(pool.pool_id):
            self._start(pool)
            return True
        self.give_place(pool)
        return False

    def give_place(self, pool: Pool) -> None:
        """PostgreSQL is rid of a server of a pool, or has never had it."""
        if pool.places is not None:
            self._accounts.give(pool.places)

    def room(self, pool: Pool) -> None:
        """There may be room for servers of a pool again."""
        if self._leaving or pool.abandoned:
            return
        self._engine.pool_room(pool.pool_id)
        self.seek_welcome(pool)
        self._ask_on(pool)

    def bring(self, pool: Pool) -> bool:
        """Open a server if a pool has none; whether one is there soon, or may be.

        A login that was to learn a word may have taken the place of the only one.
        """
        stats = self._engine.pool_stats(pool.pool_id)
        if stats["servers"] or self._leaving:
            return False
        if stats["connecting"]:
            return True
        if pool.backoff.pause_s(time.monotonic()):
            return False
        return not (self._has_way(pool) and self._take(pool)) or self._open_one(pool)

    def _ask_on(self, pool: Pool) -> None:
        """Questions that have waited for a server are put, or given up."""
        if pool.questions is not None:
            pool.questions.go_on()

    def _retry_in(self, pool: Pool, pause_s: float) -> None:
        if pool.retry is None:
            loop = asyncio.get_running_loop()
            pool.retry = loop.call_later(pause_s, self._launch_again, pool)

    def _launch_again(self, pool: Pool) -> None:
        """``server_login_retry`` is over."""
        pool.retry = None
        self.seek_welcome(pool)
        self.launch(pool)

    def try_again(self, pool: Pool) -> None:
        """There is no pause any more: open what is waited for."""
        self.forget(pool)
        self._launch_again(pool)

    def forget(self, pool: Pool) -> None:
        """Nobody is there any more who waits for a server of the pool."""
        if pool.retry is not None:
            pool.retry.cancel()
            pool.retry = None
        if pool.finding is not None:
            pool.finding.cancel()
            pool.finding = None

    def _start(self, pool: Pool) -> None:
        begun_s = time.monotonic()
        task = asyncio.get_running_loop().create_task(self._open(pool, begun_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, pool: Pool, begun_s: float) -> None:
        """Open one server that the engine counts as connecting."""
        era, renewals = pool.backoff.era, pool.renewals
        try:
            ready = await self._opener.open(
                pool.entry,
                pool.user,
                pool.scram_keys,
                pool.startup or {},
                places=pool.places,
                gone=partial(self.give_place, pool),
            )
        except LoginError as error:
            self._log_failure(pool, error, time.monotonic() - begun_s)
            if era == pool.backoff.era:
                self._failed(pool, error)
            else:
                self._outdated(pool)
        except BaseException:
            self._engine.pool_launch_failed(pool.pool_id)
            raise
        else:
            if renewals == pool.renewals:
                self._adopt(pool, ready, begun_s)
            else:
                ready.link.close()
                self._outdated(pool)
        if pool.startup is None:
            self.launch(pool)

    def _outdated(self, pool: Pool) -> None:
        """What was opened is of a configuration that is gone: it is not used.

        It says nothing of today's, and may even lead to another host.
        """
        self._engine.pool_launch_failed(pool.pool_id)
        if pool.abandoned:
            self._dedicated_gone(pool)
            return
        self.seek_welcome(pool)
        self._ask_on(pool)

    def _adopt(self, pool: Pool, ready: ReadyServer, begun_s: float) -> None:
        greeting = ready.greeting
        if self._opener.config.settings.log_connections and not pool.is_console:
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
                self._dedicated_gone(pool)
            return
        if pool.backoff.opened(begun_s, time.monotonic()):
            self.on_opens(pool)
        pool.learn(greeting.parameters)
        handle, more = ready.link.give_up()
        self._engine.server_adopt(
            handle,
            pool.pool_id,
            tracked_values(greeting.parameters, self._tracked_names),
            ready.early + more,
        )
        self.servers[handle] = Server(
            pool,
            ready.way,
            greeting.backend_pid,
            greeting.cancel_key,
            0 if pool.is_console else self._engine.take_id(),
        )
        self.settle_welcome(pool)
        self._ask_on(pool)
        self._retire_if_moved(handle)

    def retire_moved(self) -> None:
        """Replace servers of addresses that names have left, as they become free."""
        for handle in tuple(self.servers):
            self._retire_if_moved(handle)

    def _retire_if_moved(self, handle: int) -> None:
        server = self.servers.get(handle)
        if server is not None and not self._opener.hosts.is_current(server.way):
            self._engine.server_retire(handle)

    def _log_failure(self, pool: Pool, error: LoginError, age_s: float) -> None:
        tag, said = f"S: {pool.tag}", getattr(error, "server_message", None)
        line = error.message if said is None else f"server login failed: FATAL {said}"
        log.write(log.WARNING, line, tag=tag)
        if self._opener.config.settings.log_disconnections:
            line = f"closing because: {error.message} (age={int(age_s)}s)"
            log.write(log.LOG, line, tag=tag)

    def _failed(self, pool: Pool, error: LoginError) -> None:
        self._pause(pool, error)
        self._engine.pool_launch_failed(pool.pool_id)
        if pool.abandoned:
            self._dedicated_gone(pool)
        else:
            self._tell_waiting(pool, error)

    def _tell_waiting(self, pool: Pool, error: LoginError) -> None:
        """Those who wait are told if that is of no use; else they wait on."""
        stats = self._engine.pool_stats(pool.pool_id)
        if stats["connecting"] == 0 and pool.backoff.hopeless:
            if stats["servers"] == 0:
                self._fail_waiting(pool, error)
            # There is no welcome: what servers there are are on their way out.
            self.settle_welcome(pool)
        else:
            self.seek_welcome(pool)
        self._ask_on(pool)

    def _pause(self, pool: Pool, error: LoginError) -> None:
        """Open no server of this pool for a while."""
        retry_s = self._opener.config.settings.server_login_retry
        if pool.backoff.failed(error, time.monotonic(), retry_s):
            for failing in self.on_failing:
                failing(pool, error)

    def _fail_waiting(self, pool: Pool, error: LoginError) -> None:
        farewell = packets.error_response("FATAL", error.sqlstate, error.message)
        self._engine.pool_drop_waiting(
            pool.pool_id, CloseReason.CLOSE_SERVER_UNUSABLE, farewell
        )

    def server_closed(
        self, handle: int, reason: int, age_us: int, *, used: bool
    ) -> None:
        """The engine has closed a server; ``used``: some client has had it."""
        server = self.servers.pop(handle, None)
        if server is not None:
            for closed in self.on_closed:
                closed(server.pool)
            unused = not used and not server.has_moved
            if reason in FAULTS and age_us < FRESH_US and unused:
                # what a new server cannot do, the next one could not either
                text = CLOSE_REASON_ROWS[reason][1]
                self._pause(server.pool, LoginError(text, SQLCLIENT_UNABLE_TO_CONNECT))
            self.seek_welcome(server.pool)
        if server is None or not self._opener.config.settings.log_disconnections:
            return
        if server.pool.is_console:
            return
        text = CLOSE_REASON_ROWS[reason][1]
        log.write(
            log.LOG,
            f"closing because: {text} (age={age_us // 1_000_000}s)",
            tag=f"S-{server.backend_pid}: {server.pool.tag}@{server.way.address}",
        )
