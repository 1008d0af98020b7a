# SPDX-License-Identifier: MIT
"""A worker process: the engine inside an asyncio loop. Worker layer.

One worker per core, each with its own listening sockets, engine and pools. It ends
when it is told to, or when the master is gone.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import secrets
import signal
import string
import time
from collections.abc import Callable
from typing import TypedDict

from pooler import log
from pooler.config.changes import diff, removed_users
from pooler.config.travel import unpack
from pooler.errors import ConfigError
from pooler.io.conn import Notice
from pooler.io.engine import Engine
from pooler.io.links import Links
from pooler.io.selector import EngineSelector
from pooler.ipc.bus import MASTER, BusMessage
from pooler.ipc.outbox import Outbox
from pooler.ipc.signals import ENDS, SignalPipe
from pooler.ipc.worker_start import EXIT_BOOT_FAILURE, EXIT_OK, READY, WorkerStart
from pooler.session.records import CloseReason
from pooler.worker.accounts import Accounts
from pooler.worker.admission import Admission
from pooler.worker.cancel import Cancels
from pooler.worker.console import ConsoleDoor
from pooler.worker.departures import Departures
from pooler.worker.listening import Listening
from pooler.worker.luggage import make_handover
from pooler.worker.outside import Outside
from pooler.worker.pauses import Pauses
from pooler.worker.pool import tracked_parameters
from pooler.worker.pools import Pools
from pooler.worker.report import Reports
from pooler.worker.stays import Stays
from pooler.worker.totals import Totals
from pooler.worker.unused import Unused

# Notice, handle, argument, pool id or -1, age in us, peer, detail; see
# Engine.take_notices.
NoticeRow = tuple[int, int, int, int, int, tuple[str, int] | None, str, bytes]

NAME_LETTERS = string.ascii_lowercase + string.digits
BEAT_S = 1 / 3
ACCEPT_PAUSE_S = 1.0
UNUSED = "unused"  # detail of NOTICE_SERVER_CLOSED: it has answered nobody
HURRY_S = 0.1


# What a start raises for values that cannot be worked with. The configuration refuses
# them when it is read; what it has missed would end every worker in the same way.
REFUSALS = (ConfigError, ValueError, OverflowError)


def run(start: WorkerStart) -> int:
    """Serve until the end; returns the exit code."""
    try:
        engine = make_engine(start)
        loop = asyncio.SelectorEventLoop(EngineSelector(engine))
        asyncio.set_event_loop(loop)
        worker = Worker(start, engine, loop)
    except REFUSALS as error:
        log.write(
            log.ERROR,
            f"worker {start.slot} cannot work with this configuration: {error}",
        )
        return EXIT_BOOT_FAILURE
    signals = SignalPipe()
    try:
        worker.handle_signals(signals)
        return loop.run_until_complete(worker.serve())
    finally:
        signals.ignore()
        engine.close()
        loop.close()


class StatementNames(TypedDict):
    """How the engine calls statements on servers; see ``Engine``."""

    statement_prefix: bytes
    statement_own: bytes
    statement_key: bytes


def letters_of(random: bytes) -> str:
    """Some letters for a name."""
    return "".join(NAME_LETTERS[byte % len(NAME_LETTERS)] for byte in random)


def statement_names(slot: int, secret: bytes) -> StatementNames:
    """How this worker calls statements on servers; ``secret``: of all workers.

    Nobody can guess such a name: SQL that is too long to be kept is not read to its
    end, and no name in it may be that of another client's statement. Tests choose
    that part themselves, for they have to write such names; then all are counted.
    """
    known = os.environ.get("POOLER_STATEMENT_NAMES")
    if known is not None:
        prefix = f"pooler_{slot}_{known}".encode()
        return {"statement_prefix": prefix, "statement_own": b".", "statement_key": b""}
    drawn = hashlib.shake_256(b"statements\0" + secret).digest(22)
    return {
        "statement_prefix": f"pooler_{letters_of(drawn[16:])}_".encode(),
        "statement_own": f"{slot}.{letters_of(secrets.token_bytes(6))}.".encode(),
        "statement_key": drawn[:16],
    }


def make_engine(start: WorkerStart) -> Engine:
    """The engine of a worker, as its configuration says."""
    return Engine(
        tracked_parameters(start.config).values(),
        max_message_bytes=start.config.settings.max_packet_size,
        **statement_names(start.slot, start.mock_key),
        schema_cell=start.board.schema_cell(),
        parse_cell=start.board.parse_cell(),
        id_cell=start.board.id_cell(),
        databases_cell=start.board.databases_cell(),
    )


class Worker:
    """What one worker process does, notice by notice."""

    def __init__(
        self, start: WorkerStart, engine: Engine, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._start = start
        self._engine = engine
        self._loop = loop
        self._end: asyncio.Future[int] = loop.create_future()
        self._links = Links(engine)
        door = ConsoleDoor(start.bus, self._links)
        stays = Stays(Outbox(start.bus, MASTER))
        accounts = Accounts(start.page, start.slot, start.bus)
        self._pools = Pools(
            engine, self._links, start.config, start.workers, door, stays, accounts
        )
        self._departures = Departures(engine, self._links, stays, self._pools.opener)
        self._handover = make_handover(
            start, engine, self._pools, stays, self._departures
        )
        self._totals = Totals(engine, self._pools, start.bus)
        self._cancels = Cancels(
            engine,
            self._links,
            self._pools,
            start.bus,
            start.slot,
            start.workers,
            follows=start.follows,
        )
        self._admission = Admission(
            engine, self._pools, start.board, start.slot, start.mock_key, self._cancels
        )
        self._outside = Outside(start.config, start.slot, start.workers)
        self._admission.judges.update(self._outside.judges)
        gone = (self._admission.database_gone, self._handover.database_gone)
        self._unused = Unused(engine, self._pools, gone)
        self._listening = Listening(engine, start)
        self._pauses = Pauses(engine, self._pools)
        self._reports = Reports(
            engine,
            self._pools,
            self._cancels,
            self._pauses,
            self._handover,
            start.slot,
        )
        self._leaving: Callable[[], bool] | None = None
        self._all_end = False
        self._notices = self._notice_table()
        self._messages = self._message_table()

    def _message_table(self) -> dict[str, Callable[[BusMessage], None]]:
        """What is done about each kind of message."""
        return {
            "reload": self._on_reload,
            "cancel": self._cancels.heard,
            "cancelled": self._cancels.answered,
            "ask": self._reports.asked,
            "bury": self._departures.bury,
            **self._handover.messages,
            **self._totals.messages,
            "ending": self._on_ending,
            "take_none": self._on_take_none,
            "drained": lambda _: self._check_leaving(),
            "stand_in": self._listening.stand_in,
            "stand_down": self._listening.stand_down,
        }

    def _notice_table(self) -> dict[int, Callable[[NoticeRow], None]]:
        """What is done about each kind of notice."""
        return {
            Notice.NOTICE_LOGIN: self._on_login,
            Notice.NOTICE_LOGGED_IN: self._on_logged_in,
            Notice.NOTICE_CLIENT_CLOSED: self._on_client_closed,
            Notice.NOTICE_SERVER_CLOSED: self._on_server_closed,
            Notice.NOTICE_LAUNCH: self._on_launch,
            Notice.NOTICE_CHANGED: self._on_changed,
            Notice.NOTICE_ACCEPT_PAUSED: self._on_accept_paused,
            Notice.NOTICE_CANCEL: self._on_cancel,
            Notice.NOTICE_LINK: self._on_link,
            Notice.NOTICE_INQUIRED: self._on_inquired,
            Notice.NOTICE_LEARNED: self._on_learned,
            Notice.NOTICE_PARTED: self._on_parted,
            Notice.NOTICE_GONE: self._on_gone,
            Notice.NOTICE_OFFER: self._on_offer,
            Notice.NOTICE_UNEVEN: self._on_uneven,
        }

    def handle_signals(self, signals: SignalPipe) -> None:
        """Make the signals of the master mean what they say; main thread only."""
        meaning = {
            signal.SIGTERM: self.leave_after_clients,
            signal.SIGINT: self.leave_after_servers,
            signal.SIGQUIT: self.leave_now,
        }

        def on_signals() -> None:
            for signum in signals.pending():
                meaning[signum]()

        self._loop.add_reader(signals, on_signals)
        signals.take_over(ENDS)

    async def serve(self) -> int:
        """Listen, say that we are ready, and stay until the end."""
        start, loop = self._start, self._loop
        loop.add_reader(self._engine.fileno(), self._on_notices)
        loop.add_reader(start.master_fd, self._on_master_gone)
        loop.add_reader(start.bus.fileno(start.slot), self._on_bus)
        self._listening.begin()
        self._pauses.apply()
        self._beat()
        gc.collect()
        gc.freeze()
        os.write(start.ready_fd, READY)
        os.close(start.ready_fd)
        try:
            return await self._end
        finally:
            self._admission.end()
            self._pools.opener.close()

    # ------------------------------------------------------------ notices

    def _on_notices(self) -> None:
        with log.together():
            for row in self._engine.take_notices():
                try:
                    self._notices[row[0]](row)
                except Exception:
                    # one client's trouble must not become everybody's
                    log.write_exception(f"notice {row[0]} failed")
        self._pauses.check()
        self._check_leaving()

    def _on_login(self, row: NoticeRow) -> None:
        self._admission.arrived(row[1])

    def _on_logged_in(self, row: NoticeRow) -> None:
        self._admission.led_by_engine(row[1], row[2], row[5])

    def _on_client_closed(self, row: NoticeRow) -> None:
        _, handle, reason, pool_id, age_us, peer, detail, user = row
        self._admission.client_closed(
            handle, reason, pool_id, age_us, peer, detail, user
        )

    def _on_server_closed(self, row: NoticeRow) -> None:
        _, handle, reason, _, age_us, _, detail, _ = row
        self._pools.launches.server_closed(
            handle, reason, age_us, used=detail != UNUSED
        )

    def _on_launch(self, row: NoticeRow) -> None:
        pool = self._pools.by_id(row[3])
        if pool is not None:
            self._pools.launches.launch(pool)

    def _on_changed(self, row: NoticeRow) -> None:
        pool = self._pools.by_id(row[3])
        if pool is not None:
            self._pools.servers_changed(pool)

    def _on_cancel(self, row: NoticeRow) -> None:
        self._cancels.abandoned(row[1])

    def _on_link(self, row: NoticeRow) -> None:
        self._links.happened(row[1])

    def _on_inquired(self, row: NoticeRow) -> None:
        self._pools.inquired(row[3])

    def _on_learned(self, row: NoticeRow) -> None:
        self._pools.learned(row[3])

    def _on_parted(self, row: NoticeRow) -> None:
        self._departures.parted(row[1], at_work=bool(row[2]))

    def _on_gone(self, row: NoticeRow) -> None:
        self._departures.gone(row[1], row[2])

    def _on_offer(self, row: NoticeRow) -> None:
        pool = self._pools.by_id(row[3])
        if pool is not None:
            self._handover.offered(pool, row[1], row[2])

    def _on_uneven(self, row: NoticeRow) -> None:
        pool = self._pools.by_id(row[3])
        if pool is not None:
            self._handover.uneven(pool)

    def _on_accept_paused(self, row: NoticeRow) -> None:
        _, handle, code, *_ = row
        log.write(
            log.WARNING,
            f"accept failed: {os.strerror(code)}; pausing for {ACCEPT_PAUSE_S:g} s"
            " (see the kernel file descriptor limit logged at start)",
        )
        self._loop.call_later(ACCEPT_PAUSE_S, self._engine.accept_again, handle)

    # ------------------------------------------------------------ time

    def _beat(self) -> None:
        """Show on the board that this worker turns; goes on whatever happens."""
        self._loop.call_later(BEAT_S, self._beat)
        self._start.board.set(
            self._start.slot, "heartbeat_us", time.monotonic_ns() // 1000
        )
        self._pauses.check()
        self._totals.beat()
        self._unused.look()
        self._check_leaving()

    # ------------------------------------------------------------ bus

    def _on_bus(self) -> None:
        self._start.bus.serve(self._start.slot, self._messages)

    def _on_reload(self, message: BusMessage) -> None:
        """Run what the master has read and found to be good from now on."""
        old, new = self._pools.config, unpack(message.fds[0])
        log.follow(message.payload)
        self._engine.limit_messages(new.settings.max_packet_size)
        self._pools.reload(new, frozenset(diff(old, new).reconnect))
        self._pauses.apply()
        try:
            self._outside.use(self._pools.config)
        except ConfigError as error:
            log.write(log.ERROR, f"reload: {error}; who judges passwords stays")
        self._admission.reload(removed_users(old, new))
        self._listening.configure(new.settings)
        number = message.payload.get("number")
        self._start.bus.send(MASTER, "reloaded", {"number": number})

    # ------------------------------------------------------------ end

    def _on_ending(self, message: BusMessage) -> None:
        """All workers are asked to leave, and there is nobody to come to but us."""
        self._all_end = True
        self._admission.close()
        self._listening.only_refuse()

    def _on_take_none(self, message: BusMessage) -> None:
        """Another pooler has our place, or is to have it: the end follows soon."""
        self._listening.take_none()
        for pool in self._pools.all():
            if pool.is_console and message.payload.get("end_consoles"):
                self._engine.pool_kill(pool.pool_id, CloseReason.CLOSE_SHUTDOWN)
        self._start.bus.send(MASTER, "takes_none", {})

    def leave_after_clients(self) -> None:
        """SIGTERM: take no new clients, end with the last one that is here."""
        self._listening_ends()
        if self._leaving is None:
            self._hurry_later()
        self._leaving = lambda: (
            self._clients_left() == 0 and not self._listening.is_awaited()
        )
        self._engine.tell_closes()
        self._check_leaving()

    def _listening_ends(self) -> None:
        if not self._all_end:
            self._listening.stop()

    def _clients_left(self) -> int:
        """Clients to wait for. Where all end, nobody else who logs in is let in."""
        counters = self._engine.counters()
        if not self._all_end:
            return counters["clients"]
        refused = counters["logins"] - self._admission.accepted_count
        return counters["clients"] - refused

    def _hurry_later(self) -> None:
        settings = self._pools.config.settings
        if settings.shutdown_timeout:
            self._loop.call_later(settings.shutdown_timeout, self._hurry, 0.0)

    def _hurry(self, credit: float) -> None:
        """Send idle clients away, some at a time: they will all come back elsewhere.

        The others follow when their transactions are over. ``credit``: how many were
        not sent yet of those that could have been.
        """
        per_worker = self._pools.config.settings.shutdown_rate / self._start.workers
        credit = min(credit + per_worker * HURRY_S, per_worker + 1)
        credit -= self._engine.send_clients_away(int(credit), idle_only=True)
        self._loop.call_later(HURRY_S, self._hurry, credit)
        self._check_leaving()

    def leave_after_servers(self) -> None:
        """SIGINT: let transactions end, then go.

        Those who wait hear of it in a moment, as from PgBouncer, who looks at its
        queue three times a second; idle clients at the end, or when they ask.
        """
        self._listening_ends()
        self._pools.retire()
        self._loop.call_later(BEAT_S, self._pools.send_waiting_away)
        self._leaving = self._are_servers_gone
        self._check_leaving()

    def _are_servers_gone(self) -> bool:
        """Whether nobody has a server any more: where all end, in no worker."""
        if self._engine.counters()["servers"] or self._listening.is_awaited():
            return False
        if not self._all_end:
            return True
        board, own = self._start.board, self._start.slot
        others = [slot for slot in range(board.slots) if slot != own]
        if not board.get(own, "drained"):
            board.set(own, "drained", 1)
            for slot in others:
                self._start.bus.send(slot, "drained", {})
        return all(
            board.get(slot, "drained") or not board.get(slot, "pid") for slot in others
        )

    def leave_now(self) -> None:
        """SIGQUIT: go, whoever is here."""
        self._outside.close()
        if not self._end.done():
            self._engine.send_clients_away()
            self._end.set_result(EXIT_OK)

    def _check_leaving(self) -> None:
        if self._leaving is not None and self._leaving():
            self.leave_now()

    def _on_master_gone(self) -> None:
        if not os.read(self._start.master_fd, 1):
            log.write(log.WARNING, "master is gone, exiting")
            self.leave_now()
