# SPDX-License-Identifier: MIT
"""Clients from accept to admission. Worker layer, cold.

The engine keeps what a client sends before it is logged in; here it is read by a
``ClientLogin``, checked against the limits and, once a server of its pool has said
what the welcome is, admitted. From then on Python does not see the client again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from pooler import log
from pooler.config.model import RESERVED_DATABASE
from pooler.errors import (
    CANNOT_CONNECT_NOW,
    CLOSE_REASON_ROWS,
    INTERNAL_ERROR,
    INVALID_AUTHORIZATION,
    INVALID_CATALOG_NAME,
    INVALID_PARAMETER_VALUE,
    INVALID_PASSWORD,
    ConfigError,
    LoginError,
    SilentLoginError,
)
from pooler.io.engine import Engine
from pooler.ipc.board import Board
from pooler.login import packets
from pooler.login.client import ClientLogin
from pooler.login.outcomes import (
    Cancel,
    Closed,
    LoggedIn,
    NeedKeys,
    NeedSecret,
    NeedVerdict,
    Pending,
    Reply,
    StartTls,
)
from pooler.login.policy import AuthMethod, ClientPolicy
from pooler.session.records import CloseReason
from pooler.worker.arrivals import Arrival, farewell_of, who
from pooler.worker.auth_query import AuthQuery
from pooler.worker.cancel import Cancels
from pooler.worker.client_places import ClientLimits
from pooler.worker.console import DATABASE as CONSOLE_DATABASE
from pooler.worker.console import is_operator, startup_of
from pooler.worker.identity import Peer
from pooler.worker.keys import KeyRing
from pooler.worker.known import KnownLogins, log_login
from pooler.worker.login_extras import asked_values, notify_message
from pooler.worker.policy import make_policy
from pooler.worker.pool import Pool
from pooler.worker.pools import Pools
from pooler.worker.refusals import Refusals, client_tag
from pooler.worker.removed import close_users, user_removed
from pooler.worker.tls import client_context
from pooler.worker.words import Asked

# Who judges a password that is not looked up: the question and the client's address
# ("unix" for a Unix socket) to why it is not right, empty if it is. LoginError: nobody
# can say.
Judge = Callable[[NeedVerdict, str], Awaitable[str]]

# Who is sent away with these has not proved who it is.
UNPROVEN = frozenset({INVALID_PASSWORD, INVALID_AUTHORIZATION})
# What ends a login of which Python has not heard.
ENDED: Mapping[int, str] = {
    reason: CLOSE_REASON_ROWS[reason][1]
    for reason in (CloseReason.CLOSE_LOGIN_TIMEOUT, CloseReason.CLOSE_LOGIN_SERVER_DOWN)
}

REPLICATION_WORDS = {"logical": "database", "physical": "true"}
MAX_PARAMETER_BYTES = 4096


def check_values(given: dict[str, str]) -> None:
    """LoginError for a value that is longer than any that can be followed."""
    for name, text in given.items():
        if "\0" in text or len(packets.encode(text)) > MAX_PARAMETER_BYTES:
            raise LoginError(
                f'invalid value for parameter "{name}"', INVALID_PARAMETER_VALUE
            )


class Admission:
    """All clients of a worker that are not admitted yet."""

    def __init__(
        self,
        engine: Engine,
        pools: Pools,
        board: Board,
        slot: int,
        mock_key: bytes,
        cancels: Cancels,
    ) -> None:
        self._engine = engine
        self._pools = pools
        self._mock_key = mock_key
        self._cancels = cancels
        self._arrivals: dict[int, Arrival] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.judges: dict[AuthMethod, Judge] = {}
        self._auth_query = AuthQuery(pools)
        self._hashes = KeyRing()
        self._refusals = Refusals(engine, lambda: pools.config.settings, pools.workers)
        self._context = client_context(pools.config.settings, mock_key)
        self._policy = self._make_policy()
        self._notify_message = notify_message(pools.config.settings)
        self._limits = ClientLimits(engine, pools)
        self._known = KnownLogins(engine, board, slot, self._limits)
        self._known.configure(pools.config.settings, self._context)
        self._closed = False

    def _make_policy(self) -> ClientPolicy:
        return make_policy(
            self._pools, self._mock_key, self._context, self._auth_query.can_ask
        )

    def reload(self, removed: frozenset[str] = frozenset()) -> None:
        """New logins follow the new configuration; those under way the old one.

        But those of users who were ``removed`` from auth_file end.

        Certificates are read anew. Should one have gone since the master has looked,
        new clients go on with those of before.
        """
        try:
            self._context = client_context(self._pools.config.settings, self._mock_key)
        except ConfigError as error:
            log.write(log.ERROR, f"reload: {error}; TLS stays as it was")
        self._auth_query.reload()
        self._policy = self._make_policy()
        self._notify_message = notify_message(self._pools.config.settings)
        self._known.configure(self._pools.config.settings, self._context)
        if removed:
            can_ask = self._auth_query.can_ask
            for handle, arrival in list(self._arrivals.items()):
                database, user = arrival.login.asked
                if user in removed and not can_ask(database):
                    self._refuse(handle, user_removed())
            close_users(self._engine, self._pools, removed, can_ask)

    def database_gone(self, name: str) -> None:
        """Nobody uses a database any more: the next client of it begins anew."""
        self._limits.let_go_of(name)

    @property
    def accepted_count(self) -> int:
        """Clients that have proved who they are, and wait for what a server says."""
        return sum(one.accepted is not None for one in self._arrivals.values())

    def close(self) -> None:
        """The pooler ends: nobody but the console's clients is let in any more."""
        self._closed = True
        self._known.stop()

    def end(self) -> None:
        """The worker ends."""
        self._refusals.end()
        self._hashes.close()

    # ------------------------------------------------------------ arriving

    def arrived(self, handle: int) -> None:
        """A client in login has sent something."""
        arrival = self._arrivals.get(handle)
        led = None
        try:
            if arrival is None:
                if self._refusals.holds(handle):
                    return
                arrival = self._arrivals[handle] = self._new_arrival(handle)
                led = self._known.led(handle, arrival.login)
            elif arrival.accepted is not None or arrival.pending is not None:
                return  # its next words wait with it
            if led is not None:
                reply = arrival.login.take_over(led)
            else:
                self._check_protocol(handle, arrival)
                reply = arrival.login.receive(self._engine.login_bytes(handle))
            self._carry_out(handle, arrival, reply)
        except LoginError as error:
            self._refuse(handle, error)
        except LookupError:
            self._forget(handle)  # it has closed meanwhile

    def led_by_engine(self, handle: int, number: int, peer: object) -> None:
        """The engine has let a client in of which Python has not heard."""
        self._known.log_login(handle, number, peer)

    def _carry_out(self, handle: int, arrival: Arrival, reply: Reply) -> None:
        """Do what a step of the login came to; LookupError when the client has gone."""
        login = arrival.login
        if login.wants_in and not arrival.checked:
            arrival.checked = True
            self._check_room(handle, *login.asked)
        if reply.send:
            self._engine.client_send(handle, reply.send)
        self._engine.login_consume(handle, reply.consumed, reply.wanted)
        match reply.outcome:
            case LoggedIn():
                arrival.accepted = reply.outcome
                self._await_welcome(handle, arrival, reply.outcome)
            case Cancel(key):
                del self._arrivals[handle]
                self._cancels.requested(handle, key)
            case Closed():
                self._engine.client_close(handle, CloseReason.CLOSE_CLIENT_REQUEST)
            case StartTls(direct):
                self._start_tls(handle, arrival, direct)
            case NeedSecret() | NeedVerdict() | NeedKeys():
                task = asyncio.get_running_loop().create_task(
                    self._pend(handle, arrival, reply.outcome)
                )
                arrival.pending = task
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _new_arrival(self, handle: int) -> Arrival:
        peer = Peer(self._engine, handle)
        return Arrival(ClientLogin(self._policy, peer=peer), self._context)

    async def _pend(self, handle: int, arrival: Arrival, question: Pending) -> None:
        """Hold a login until its question is answered; cancelled if the client leaves.

        ``client_login_timeout`` goes on. What comes meanwhile stays unread, and the
        engine takes no more of it than of any login.
        """
        try:
            reply = await self._answer(handle, arrival, question)
            arrival.pending = None
            if not self._is_here(handle):
                return
            self._carry_out(handle, arrival, reply)
            if reply.outcome is None:
                self.arrived(handle)
        except LoginError as error:
            arrival.pending = None
            if self._is_here(handle):
                self._refuse(handle, error)
        except LookupError:
            self._forget(handle)
        except Exception:
            arrival.pending = None
            log.write_exception("authentication failed", tag=f"C-{handle:#x}")
            self._refuse(handle, LoginError("internal error", INTERNAL_ERROR))

    async def _answer(self, handle: int, arrival: Arrival, question: Pending) -> Reply:
        """What a login goes on with; LoginError if it cannot."""
        match question:
            case NeedSecret(user, database):
                arrival.asked = True
                found = await self._auth_query.find(user, database)
                return arrival.login.secret_found(found.secret, found.server_user)
            case NeedKeys(request, is_ours):
                derive = self._hashes.get if is_ours else self._hashes.once
                return arrival.login.keys_found(await derive(request))
            case NeedVerdict(method):
                judge = self.judges[method]
                host, _ = self._engine.client_peer(handle)
                return arrival.login.judged(await judge(question, host))

    def _start_tls(self, handle: int, arrival: Arrival, direct: bool) -> None:
        assert arrival.context is not None  # noqa: S101 - the policy was made with it
        if not direct and self._engine.login_bytes(handle):
            raise LoginError("received unencrypted data after SSL request")
        arrival.direct = direct
        arrival.login.secured()
        self._engine.client_start_tls(handle, arrival.context)

    def _check_protocol(self, handle: int, arrival: Arrival) -> None:
        """A client that begins with TLS says by ALPN that it means PostgreSQL."""
        if not arrival.direct:
            return
        facts = self._engine.client_tls(handle)
        if facts is None or facts[2] != "postgresql":
            raise SilentLoginError(
                "direct TLS without ALPN: the client does not ask for postgresql"
            )
        arrival.direct = False

    def _check_room(self, handle: int, database: str, user: str) -> None:
        """Give a client its place; LoginError if it is not to try at all now."""
        if database == RESERVED_DATABASE:
            is_own = Peer(self._engine, handle).is_own()
            operator = is_operator(self._pools.config, user, is_own=is_own)
            self._limits.take(handle, database, user, is_operator=operator)
            return
        self._check_open()
        self._limits.take(handle, database, user, is_operator=False)
        self._refusals.check_address(handle)

    def _check_open(self) -> None:
        """Refuse a client that comes while the pooler ends."""
        if self._closed:
            raise LoginError("pooler is shutting down", CANNOT_CONNECT_NOW)

    def _forget(self, handle: int) -> None:
        """A client will not be admitted."""
        arrival = self._arrivals.pop(handle, None)
        if arrival is None:
            return
        arrival.end()
        if arrival.pool is not None:
            self._pools.release_dedicated(arrival.pool)

    def _refuse(self, handle: int, error: LoginError) -> None:
        arrival = self._arrivals.get(handle)
        failed = (
            arrival is not None
            and arrival.accepted is None
            and error.sqlstate in UNPROVEN
        )
        if arrival is not None and error.sqlstate == INVALID_PASSWORD:
            database, user = arrival.login.asked
            self._auth_query.forget(user, database)
            self._known.forget(user)
        self._forget(handle)
        with contextlib.suppress(LookupError):  # it has gone
            self._refusals.refuse(
                handle, error, who(arrival), farewell_of(error), failed=failed
            )

    # ------------------------------------------------------------ admitting

    def _await_welcome(self, handle: int, arrival: Arrival, accepted: LoggedIn) -> None:
        self._limits.proved(handle, accepted.database, accepted.user)
        if accepted.database == RESERVED_DATABASE:
            self._enter_console(handle, arrival, accepted)
            return
        database = self._pools.database(accepted.database)
        if database is None:
            raise LoginError(
                f"no such database: {accepted.database}", INVALID_CATALOG_NAME
            )
        if accepted.database in self._pools.config.state.disabled:
            raise LoginError(f'database "{accepted.database}" is disabled')
        values: dict[str, str] = {}
        if accepted.replication:
            startup = accepted.startup_parameters | {
                "replication": REPLICATION_WORDS[accepted.replication]
            }
            pool = self._pools.dedicated(database, accepted.server_user, startup)
            arrival.pool = pool
        else:
            check_values(accepted.parameters)
            settings = self._pools.config.settings
            values = asked_values(settings, self._engine, handle, accepted.parameters)
            pool = self._pools.get(database, accepted.server_user)
        if accepted.secret is not None or pool.user in self._pools.config.userlist:
            self._pools.learn_secret(pool, accepted.secret, stored=arrival.asked)
        if accepted.scram_keys is not None:
            pool.scram_keys = accepted.scram_keys
        self._choose_words(handle, accepted, pool, values)

    def _enter_console(self, handle: int, arrival: Arrival, accepted: LoggedIn) -> None:
        if accepted.replication:
            raise LoginError("not allowed", why="the console replicates nothing")
        is_own = Peer(self._engine, handle).is_own()
        names = f"{RESERVED_DATABASE}/{accepted.user}"
        peer = client_tag(handle, names, self._engine.client_peer(handle))
        startup = startup_of(self._pools.config, accepted.user, peer, is_own=is_own)
        pool = self._pools.dedicated(CONSOLE_DATABASE, accepted.user, startup)
        arrival.pool = pool
        self._engine.client_uncounted(handle)  # it is there when all is full
        self._choose_words(handle, accepted, pool, {})

    def _limit_wait(self, handle: int, pool: Pool) -> None:
        """A login that waits for a server has no more time than a query that does."""
        config = self._pools.config
        with contextlib.suppress(LookupError):  # it has gone
            self._engine.client_proved(handle)
        limits = {
            "query_timeout": config.limit_of_user("query_timeout", pool.user),
            "query_wait_timeout": config.query_wait_timeout(pool.database, pool.user),
        }
        seconds, text = min(((s, t) for t, s in limits.items() if s), default=(0, ""))
        arrival = self._arrivals.get(handle)
        if arrival is None or arrival.waits is not None or pool.is_console:
            return
        if pool.startup is not None and self._pools.stats(pool)["refused"]:
            self._engine.client_may_wait(handle)  # others have all servers that may be
        if seconds:
            arrival.waits = asyncio.get_running_loop().call_later(
                seconds, self._refuse, handle, LoginError(text)
            )

    def _choose_words(
        self, handle: int, accepted: LoggedIn, pool: Pool, values: dict[str, str]
    ) -> None:
        """Go on once there is a welcome, and the server's words for all values.

        For those that are not known yet a server is asked if one is idle; no login
        waits until one is free.
        """
        if pool.welcome is None:
            launches = self._pools.launches
            ready = partial(self._welcomed, handle, accepted, pool, values)
            launches.when_welcome(pool, ready)
            self._arrivals[handle].unwait = partial(launches.unwait, pool, ready)
            self._limit_wait(handle, pool)
            return
        unknown = pool.words.unknown(values, pool.welcome)
        if unknown and pool.questions is not None:
            pool.guests += 1
            task = asyncio.get_running_loop().create_task(
                self._ask(handle, accepted, pool, values, unknown)
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._admit(handle, accepted, pool, values)

    async def _ask(
        self,
        handle: int,
        accepted: LoggedIn,
        pool: Pool,
        values: dict[str, str],
        unknown: list[Asked],
    ) -> None:
        assert pool.questions is not None  # noqa: S101 - what the caller has asked
        try:
            await pool.questions.ask(unknown)
            if not self._is_here(handle):
                return
            if pool.welcome is None:  # forgotten by a reload meanwhile
                self._choose_words(handle, accepted, pool, values)
            else:
                self._admit(handle, accepted, pool, values)
        except LoginError as error:
            self._refuse(handle, error)
        except Exception:
            log.write_exception("admission failed", tag=pool.tag)
        finally:
            pool.guests -= 1

    def _welcomed(
        self,
        handle: int,
        accepted: LoggedIn,
        pool: Pool,
        values: dict[str, str],
        error: LoginError | None,
    ) -> None:
        """The pool's first server has answered, or there will be none: why."""
        if not self._is_here(handle):
            return
        try:
            if error is not None:
                raise error
            if pool.welcome is None:
                raise pool.backoff.failure or LoginError("cannot connect")
            self._choose_words(handle, accepted, pool, values)
        except LoginError as refused:
            self._refuse(handle, refused)

    def _is_here(self, handle: int) -> bool:
        """Whether a client that had to wait is still there."""
        if handle not in self._arrivals:
            return False
        try:
            self._engine.client_peer(handle)
        except LookupError:
            self._forget(handle)  # it has left; its notice is on the way
            return False
        return True

    def _admit(
        self, handle: int, accepted: LoggedIn, pool: Pool, values: dict[str, str]
    ) -> None:
        """Let a client in, in the server's words; LoginError if one was refused."""
        told, notice = pool.in_words(values)
        if not pool.is_console:
            notice += self._notify_message
        arrival = self._arrivals.pop(handle)
        arrival.served()
        if self._pools.config.settings.log_connections:
            log_login(
                self._engine,
                handle,
                accepted.database,
                accepted.user,
                self._engine.client_peer(handle),
                accepted.replication,
            )
        greeting = pool.greeting(told, self._pools.tracked_names)
        other = accepted.user != pool.user
        user = packets.encode(accepted.user) if other else b""
        is_shared = pool.startup is None
        if is_shared and not pool.words.unknown(values, pool.welcome or {}):
            self._known.remember(
                handle,
                arrival.login,
                accepted,
                pool,
                greeting,
                notice,
                self._auth_query.kept_for_s,
                user,
            )
        key = self._cancels.new_key(accepted.minor_protocol)
        self._engine.client_admit(
            handle,
            pool.pool_id,
            greeting.values,
            key,
            b"".join(
                (
                    greeting.messages,
                    notice,
                    packets.message(b"K", key),
                    packets.ready_for_query(),
                )
            ),
            user=user,
        )

    # ------------------------------------------------------------ leaving

    def _forget_lent(self, pool: Pool) -> None:
        """A client has left: its password goes with the last that needs it."""
        if not any(one.is_bound_for(pool) for one in self._arrivals.values()):
            self._pools.client_left(pool)

    def client_closed(
        self,
        handle: int,
        reason: int,
        pool_id: int,
        age_us: int,
        peer: object,
        detail: str,
        user: bytes,
    ) -> None:
        """The engine has closed a client, admitted or not.

        ``detail``: why TLS has failed; of one that was admitted, whether it was told
        an error; empty: no. ``user``: as whom it was admitted; empty: its pool's.
        """
        arrival = self._arrivals.get(handle)
        self._forget(handle)
        host, port = peer if isinstance(peer, tuple) else ("?", 0)
        pool = self._pools.by_id(pool_id)
        if pool is None:
            why = f"TLS handshake error: {detail}" if detail else ENDED.get(reason, "")
            self._refusals.closed(handle, who(arrival), (host, port), age_us, why)
            return  # a probe that just left is not worth a line
        self._pools.release_dedicated(pool)
        if pool.is_lent and pool.secret is not None:
            self._forget_lent(pool)
        text = CLOSE_REASON_ROWS[reason][1]
        if reason == CloseReason.CLOSE_SERVER_UNUSABLE and pool.backoff.failure:
            text = pool.backoff.failure.message  # what the client has heard
        settings = self._pools.config.settings
        lines = (
            (settings.log_pooler_errors and detail, log.WARNING, "pooler error: {}"),
            (settings.log_disconnections, log.LOG, "closing because: {} (age={}s)"),
        )
        for wanted, level, line in lines:
            if wanted:
                words = line.format(text, age_us // 1_000_000)
                names = pool.tag
                if user:
                    names = f"{pool.database.name}/{packets.decode(user)}"
                tag = client_tag(handle, names, (host, port))
                log.write(level, words, tag=tag, later=True)
