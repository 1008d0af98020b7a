# SPDX-License-Identifier: MIT
"""How children come to be, and what all of them share. Layer: master.

A child never returns into the master's code: it lives, and ends its process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

from pooler import log
from pooler.board.page import Page
from pooler.config.model import Config
from pooler.ipc.board import Board
from pooler.ipc.bus import CONSOLE, Bus
from pooler.ipc.doors import Doors
from pooler.ipc.signals import ENDS, SignalPipe, leave_at_once
from pooler.ipc.worker_start import EXIT_FAILED, ConsoleStart, WorkerStart
from pooler.master.children import Child, Pipe, name_process
from pooler.master.listeners import Listeners


@dataclass(frozen=True, slots=True)
class Estate:
    """What a master and its children share; made before the first of them."""

    workers: int
    bus: Bus
    board: Board
    page: Page
    doors: Doors
    # The children hold the reading end: its end of file is the master's death.
    life: Pipe
    mock_key: bytes
    follows: bool  # another pooler, which may still have clients

    @classmethod
    def for_workers(cls, workers: int, *, follows: bool) -> Estate:
        """Make it for so many slots."""
        return cls(
            workers=workers,
            bus=Bus.for_slots(workers),
            board=Board.for_slots(workers),
            page=Page(workers),
            doors=Doors.for_slots(workers),
            life=Pipe.open(),
            mock_key=os.urandom(32),
            follows=follows,
        )

    def close(self) -> None:
        """Close what has descriptors."""
        self.bus.close()
        self.doors.close()
        self.life.close()

    def worker_start(
        self, slot: int, config: Config, listeners: Listeners, ready_fd: int
    ) -> WorkerStart:
        """In the child: what the worker of a slot begins with; its row is new."""
        self.board.clear(slot)
        self.board.set(slot, "pid", os.getpid())
        self.board.set(slot, "started_us", time.monotonic_ns() // 1000)
        return WorkerStart(
            slot=slot,
            workers=self.workers,
            config=config,
            tcp_listeners=listeners.tcp[slot],
            unix_listener=listeners.unix_listener,
            shared_listeners=listeners.shared,
            ready_fd=ready_fd,
            master_fd=self.life.read_fd,
            bus=self.bus.claim(slot),
            board=self.board,
            page=self.page,
            doors=self.doors,
            mock_key=self.mock_key,
            follows=self.follows,
        )

    def console_start(self, config: Config, ready_fd: int) -> ConsoleStart:
        """In the child: what the console begins with."""
        return ConsoleStart(
            config=config,
            ready_fd=ready_fd,
            master_fd=self.life.read_fd,
            bus=self.bus.claim(CONSOLE),
            board=self.board,
            page=self.page,
        )


def fork(
    title: str,
    signals: SignalPipe,
    handled: Iterable[signal.Signals],
    live: Callable[[Pipe], int],
) -> Child:
    """Start a child that lives and ends with the code of it; OSError: there is none.

    ``handled``: the signals that the master has handlers for. ``live`` gets the pipe by
    which the child says that it is ready.
    """
    ready = Pipe.open()
    sys.stdout.flush()
    sys.stderr.flush()
    # A signal between the fork and the child's own handlers must neither run
    # ours in the child nor get lost: it waits until the child is set up.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    try:
        pid = os.fork()
        if pid == 0:
            _become(title, ready, live, lambda: _leave_signals(signals, blocked))
    except OSError:
        ready.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    os.close(ready.write_fd)
    return Child(pid, time.monotonic(), ready.read_fd)


def _leave_signals(signals: SignalPipe, unblock: Iterable[int]) -> None:
    """In the child: what ends it is heeded, what is the master's is not."""
    signals.leave_to_parent()
    # A hang-up of the terminal reaches the whole group and must not kill a child;
    # reload and pause come by the bus.
    for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_IGN)
    # Until the child has handlers of its own, which takes a few imports.
    for signum in ENDS:
        signal.signal(signum, leave_at_once)
    signal.pthread_sigmask(signal.SIG_SETMASK, unblock)


def _become(
    title: str,
    ready: Pipe,
    live: Callable[[Pipe], int],
    leave_signals: Callable[[], None],
) -> NoReturn:
    code = EXIT_FAILED
    try:
        name_process(f"pooler {title}")
        leave_signals()
        os.close(ready.read_fd)
        code = live(ready)
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else EXIT_FAILED
    except BaseException:
        log.write_exception(f"{title} failed")
    finally:
        with contextlib.suppress(Exception):
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        # Not sys.exit: the master's cleanup is on this stack as well.
        os._exit(code)
