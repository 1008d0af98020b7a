# SPDX-License-Identifier: MIT
"""The console's process: sessions come from the workers. Console layer.

A worker that has let a client in to the database ``pgbouncer`` sends one end of a
socket pair by the bus, and serves the client from the other end as from any server.
So login, TLS and cancel requests work for the console as for any database, and nobody
else can reach it. Its death costs its sessions and nothing else.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from pooler import log
from pooler.board.page import Page
from pooler.config.model import Config
from pooler.config.travel import unpack
from pooler.console.answers import ConsoleError
from pooler.console.commands import CommandTable
from pooler.console.session import EndOfSession, Session
from pooler.console.stats import Stats, log_line, snapshot
from pooler.console.workers import ask_workers, list_workers
from pooler.errors import LoginError
from pooler.ipc.board import Board
from pooler.ipc.bus import CONSOLE, MASTER, BusMessage
from pooler.ipc.signals import SignalPipe
from pooler.ipc.worker_start import (
    CONSOLE_ADMIN,
    CONSOLE_PEER,
    EXIT_OK,
    READY,
    ConsoleStart,
)
from pooler.login.startup import NeedMore, StartupMessage, parse_startup

RECEIVE_BYTES = 65_536
# What the master has to do for a command: reading files and telling every worker.
MASTER_S = 20.0
MAX_SESSIONS = 1000


def run(start: ConsoleStart) -> int:
    """Serve until the end; returns the exit code."""
    loop = asyncio.new_event_loop()
    signals = SignalPipe()
    console = Console(start, loop)
    try:
        signals.take_over((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))
        loop.add_reader(signals, lambda: console.on_signals(signals.pending()))
        return loop.run_until_complete(console.serve())
    finally:
        signals.ignore()
        loop.close()


class Console:
    """All sessions, and what their commands work on."""

    def __init__(self, start: ConsoleStart, loop: asyncio.AbstractEventLoop) -> None:
        self._start = start
        self._loop = loop
        self._config = start.config
        self._stats = Stats(time.monotonic())
        self._sessions: dict[int, Session] = {}
        self._commands = CommandTable(self)
        self._end: asyncio.Future[int] = loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_pid = 1
        self._next_number = 1
        self._asked: dict[int, asyncio.Future[str]] = {}
        self._messages: dict[str, Callable[[BusMessage], None]] = {
            "reload": self._on_reload,
            "session": self._on_session,
            "done": self._on_done,
            "cancel": self._on_cancel,
        }

    @property
    def config(self) -> Config:
        """The running configuration."""
        return self._config

    @property
    def stats(self) -> Stats:
        """What all workers have done, and the console itself."""
        return self._stats

    @property
    def board(self) -> Board:
        """The counters of the workers."""
        return self._start.board

    @property
    def page(self) -> Page:
        """What pools, databases and users have in all workers."""
        return self._start.page

    async def serve(self) -> int:
        """Say that we are ready, and stay until the end."""
        start = self._start
        self._loop.add_reader(start.bus.fileno(CONSOLE), self._on_bus)
        self._loop.add_reader(start.master_fd, self._on_master_gone)
        gc.collect()
        gc.freeze()
        os.write(start.ready_fd, READY)
        os.close(start.ready_fd)
        self._spawn(self._keep_stats())
        try:
            return await self._end
        finally:
            for task in self._tasks:
                task.cancel()

    async def _keep_stats(self) -> None:
        """A mark and a line in the log each ``stats_period``."""
        while True:
            await asyncio.sleep(self._config.settings.stats_period)
            counted = snapshot(await self.ask_workers("pools"))
            now_s = time.monotonic()
            self._stats.mark(now_s, counted)
            if self._config.settings.log_stats:
                _, averages = self._stats.of_all(now_s, counted)
                log.write(log.LOG, log_line(averages))

    def on_signals(self, signals: list[signal.Signals]) -> None:
        """Only the immediate end is for us: operators look on while workers drain."""
        if signal.SIGQUIT in signals:
            self._leave()

    def _leave(self) -> None:
        if not self._end.done():
            self._end.set_result(EXIT_OK)

    def _on_master_gone(self) -> None:
        if not os.read(self._start.master_fd, 1):
            self._leave()

    # ------------------------------------------------------------ bus

    def _on_bus(self) -> None:
        self._start.bus.serve(CONSOLE, self._messages)

    def _on_reload(self, message: BusMessage) -> None:
        self._config = unpack(message.fds[0])
        log.follow(message.payload)
        self._check_abandoned()
        number = message.payload.get("number")
        self._start.bus.send(MASTER, "reloaded", {"number": number})

    def _on_done(self, message: BusMessage) -> None:
        answer = self._asked.get(message.payload.get("number", -1))
        if answer is not None and not answer.done():
            answer.set_result(str(message.payload.get("problem", "")))

    def _on_cancel(self, message: BusMessage) -> None:
        """A client gives up what its session waits for."""
        session = self._sessions.get(message.payload.get("pid", 0))
        if session is not None:
            session.cancel()

    async def ask_master(self, kind: str, **payload: str) -> str:
        """Have the master do something; returns what was wrong, "" for nothing.

        ConsoleError: it has not answered in time.
        """
        number, self._next_number = self._next_number, self._next_number + 1
        answer: asyncio.Future[str] = self._loop.create_future()
        self._asked[number] = answer
        try:
            if not self._start.bus.send(MASTER, kind, {"number": number, **payload}):
                raise ConsoleError("the master does not read its inbox")
            async with asyncio.timeout(MASTER_S):
                return await answer
        except TimeoutError:
            raise ConsoleError("the master does not answer") from None
        finally:
            del self._asked[number]

    async def ask_workers(self, kind: str, **payload: str) -> list[Any]:
        """Have every worker do or tell something; the answers of those that live."""
        return await ask_workers(self._start.bus, kind, payload)

    async def list_workers(self, kind: str) -> list[list[Any]]:
        """Rows of all workers."""
        return await list_workers(self._start.bus, kind)

    async def wait_for_workers(self, kind: str, **payload: str) -> list[Any]:
        """As ``ask_workers``, for as long as it takes."""
        return await ask_workers(self._start.bus, kind, payload, None)

    # ------------------------------------------------------------ sessions

    def _on_session(self, message: BusMessage) -> None:
        if len(self._tasks) >= MAX_SESSIONS:
            return  # its worker sees the end of the socket
        sock = socket.socket(fileno=os.dup(message.fds[0]))
        sock.setblocking(False)
        self._spawn(self._hold(sock))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hold(self, sock: socket.socket) -> None:
        """One session from its startup packet to its end."""
        try:
            with sock:
                await self._converse(sock)
        except (OSError, LoginError):
            pass  # the worker has gone, or the client
        except Exception:
            log.write_exception("console session failed")

    async def _converse(self, sock: socket.socket) -> None:
        data = b""
        while isinstance(packet := parse_startup(data), NeedMore):
            more = await self._loop.sock_recv(sock, RECEIVE_BYTES)
            if not more:
                return
            data += more
        if not isinstance(packet, StartupMessage):
            return
        data = data[packet.consumed :]
        pid, self._next_pid = self._next_pid, self._next_pid % 0x7FFF_FFFF + 1
        admin = packet.parameters.get(CONSOLE_ADMIN) == "1"
        tell = partial(self._log_error, packet.parameters.get(CONSOLE_PEER, ""))
        session = Session(self._commands, admin=admin, backend_pid=pid, on_error=tell)
        self._stats.own["client_logins"] += 1
        self._sessions[pid] = session
        try:
            await self._loop.sock_sendall(sock, session.greeting())
            while True:
                used, answer = await session.receive(data)
                data = data[used:]
                if answer:
                    await self._loop.sock_sendall(sock, answer)
                more = await self._loop.sock_recv(sock, RECEIVE_BYTES)
                if not more:
                    return
                data += more
        except EndOfSession as end:
            await self._loop.sock_sendall(sock, end.farewell)
        finally:
            del self._sessions[pid]
            self._check_abandoned()

    def _log_error(self, peer: str, text: str) -> None:
        """What a command has failed for, as PgBouncer logs it."""
        log.write(log.ERROR, text)
        if self._config.settings.log_pooler_errors:
            log.write(log.WARNING, f"pooler error: {text}", tag=peer)

    def _check_abandoned(self) -> None:
        """Who has said SUSPEND and is gone cannot say RESUME, and nobody gets in."""
        if self._config.state.suspended and not self._sessions:
            self._start.bus.send(MASTER, "abandoned", {})
