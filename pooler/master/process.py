# SPDX-License-Identifier: MIT
"""The master: forks the workers, watches them, takes the signals. Layer: master.

It owns the listening sockets, the bus and the board for as long as the pooler
lives, so a worker that dies loses nothing but its own clients: the backlog, the
inbox and the row on the board wait for its successor.

Invariants: one thread, no asyncio, no client byte, no extension module but that of the
page of accounts (the worker is imported in the child, after the fork). A signal handler
does nothing: the loop reads the signals from a pipe (``pooler.ipc.signals``).
Whatever way the master ends, its workers see the end of ``master_fd``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import gc
import logging
import os
import platform
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from pooler import __version__, log
from pooler.board.page import Page
from pooler.config import changes, loading
from pooler.config.loading import Config, RunState
from pooler.config.log_style import log_style
from pooler.config.run_state import StateError, changed
from pooler.errors import ConfigError
from pooler.ipc.board import Board
from pooler.ipc.bus import CONSOLE, MASTER, Bus, BusMessage
from pooler.ipc.doors import Doors
from pooler.ipc.signals import ENDS, SignalPipe, leave_at_once
from pooler.ipc.worker_start import (
    EXIT_BOOT_FAILURE,
    EXIT_FAILED,
    READY,
    ConsoleStart,
    WorkerStart,
)
from pooler.master import activation, dumpable, listeners, rlimit
from pooler.master.cancel_relay import CancelRelay
from pooler.master.children import Child, Pipe, Slot, name_process
from pooler.master.cover import Cover
from pooler.master.inheritance import Inheritance
from pooler.master.pidfile import PidFile
from pooler.master.rollout import Rollouts
from pooler.master.service import Service
from pooler.master.succession import Succession
from pooler.master.wards import Wards
from pooler.master.wishes import DRAINS, Drain, Wishes

WorkerMain = Callable[[WorkerStart], int]
ConsoleMain = Callable[[ConsoleStart], int]


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the master waits for what, in seconds."""

    # A worker that lived shorter than this died at birth: it will die again.
    birth_s: float = 1.0
    backoff_first_s: float = 0.1
    backoff_most_s: float = 10.0
    # From SIGQUIT to SIGKILL.
    kill_after_s: float = 5.0


# What the log says of a signal that is heeded, and of one that is not.
USR1_TEXTS = (
    "got SIGUSR1, pausing all activity",
    "got SIGUSR1, but already paused/suspended",
)
USR2_TEXTS = (
    "got SIGUSR2, continuing from {}",
    "got SIGUSR2, but not paused/suspended",
)


class Phase(enum.IntEnum):
    """How far the end of the pooler has come; it only ever grows."""

    RUNNING = 0
    # Waiting for the workers to leave when their clients or servers are gone.
    DRAINING = 1
    # Immediate: SIGQUIT is out, SIGKILL follows.
    STOPPING = 2


def run_worker(start: WorkerStart) -> int:
    """Run the real worker; the import is here because it loads the extensions."""
    from pooler.worker import process

    return process.run(start)


def run_console(start: ConsoleStart) -> int:
    """Run the real console; it is not needed here."""
    from pooler.console import process

    return process.run(start)


class Master:
    """One running pooler: ``bind()``, then ``run()`` until it ends."""

    def __init__(
        self,
        config: Config,
        *,
        worker_main: WorkerMain = run_worker,
        console_main: ConsoleMain = run_console,
        load: Callable[[str], Config] = loading.load,
        verbose: int = 0,
        timing: Timing = Timing(),
        inheritance: Inheritance | None = None,
    ) -> None:
        """Make what the processes share; nothing listens yet.

        ``verbose`` is what the command line asked for; a reload does not go below.
        ``inheritance``: of the pooler whose place this one takes.
        """
        self._inheritance = inheritance
        self._config = config
        self._mock_key = os.urandom(32)
        self._worker_main = worker_main
        self._console_main = console_main
        self._load = load
        self._verbose = verbose
        self._on_up: Callable[[], None] = _nothing
        self._timing = timing
        self._workers = config.worker_count
        self._slots = [Slot(index, f"worker {index}") for index in range(self._workers)]
        self._console = Slot(CONSOLE, "console")
        self._phase = Phase.RUNNING
        self._farewell = ""
        self._was_up = False
        self._exit_code = 0
        self._kill_at_s: float | None = None
        self._bus = Bus.for_slots(self._workers)
        self._board = Board.for_slots(self._workers)
        self._page = Page(self._workers)
        self._doors = Doors.for_slots(self._workers)
        self._cover = Cover(
            self._bus, self._board, self._slots, self._sockets_of_clients
        )
        self._rollouts = Rollouts(self._bus)
        self._wards = Wards(self._bus, self._page, self._serving, self._process_of)
        self._service = Service.from_environment(os.environ, self._board, self._page)
        # The workers hold the reading end: its end of file is the master's death.
        self._life = Pipe.open()
        self._signals = SignalPipe()
        self._listeners: listeners.Listeners | None = None
        self._wishes = Wishes(self, self._bus)
        self._cancels = CancelRelay(self._bus, self._slots)
        self._succession = Succession(self, self._bus, self._slots, self._cancels)
        # With the poolers before us and behind us.
        self._talks = (self._succession, self._cancels)
        self._handlers = self._handlers_of_signals()
        self._messages = self._handlers_of_messages()

    def _handlers_of_messages(self) -> dict[str, Callable[[BusMessage], None]]:
        return {
            "reloaded": self._on_reloaded,
            "leaving": lambda _: None,  # only to be looked at now
            **self._wards.messages,
            **self._wishes.messages,
            **self._succession.messages,
            **self._cancels.messages,
        }

    def _handlers_of_signals(self) -> dict[signal.Signals, Callable[[], None]]:
        return {
            signal.SIGTERM: self._on_sigterm,
            signal.SIGINT: self._on_sigint,
            signal.SIGQUIT: self._on_sigquit,
            signal.SIGHUP: self._on_sighup,
            signal.SIGUSR1: self._on_sigusr1,
            signal.SIGUSR2: self._on_sigusr2,
            signal.SIGCHLD: self._reap,
        }

    @property
    def config(self) -> Config:
        """What runs now."""
        return self._config

    @property
    def is_ending(self) -> bool:
        """Whether the end has begun."""
        return self._phase is not Phase.RUNNING

    @property
    def _children(self) -> list[Slot]:
        """Every place for a child."""
        return [*self._slots, self._console]

    @property
    def listeners(self) -> listeners.Listeners:
        """The listening sockets; ``bind`` made them."""
        if self._listeners is None:
            raise RuntimeError("bind() comes first")
        return self._listeners

    def _sockets_of_clients(self, index: int) -> list[int]:
        """Where the clients of a slot wait; the door comes last."""
        sockets = [listener.fileno() for listener in self.listeners.tcp[index]]
        sockets += [listener.fileno() for listener in self.listeners.shared]
        if self.listeners.unix_listener is not None:
            # Whom the kernel woke for it may be the one that does not serve.
            sockets.append(self.listeners.unix_listener.fileno())
        return [*sockets, self._doors.inner(index)]

    def bind(self) -> None:
        """Open the listening sockets; ConfigError when that is impossible.

        From here on signals wait for ``run``, which clears away what is opened here.
        """
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self._signals.take_over(self._handlers)
        passed = activation.passed_sockets(os.environ)
        if passed:
            self._listeners = activation.share(passed, self._workers)
            return
        settings = self._config.settings
        self._listeners = listeners.open_listeners(
            listen_addr=settings.listen_addr,
            listen_port=settings.listen_port,
            listen_backlog=settings.listen_backlog,
            workers=self._workers,
            share_port=settings.so_reuseport,
            unix_socket_dir=settings.unix_socket_dir,
            unix_socket_mode=settings.unix_socket_mode,
            unix_socket_group=settings.unix_socket_group,
            inherited=self._inheritance,
        )

    def leave_signals(self) -> None:
        """In a fork that is no master: signals do again what they always do."""
        self._signals.leave_to_parent()

    def release(self) -> None:
        """Close everything and remove the Unix socket; ``run`` does it at its end."""
        if self._listeners is not None:
            if self._listeners.unix is not None:
                self._listeners.unix.remove()
            self._listeners.close()
        self._bus.close()
        self._doors.close()
        self._life.close()
        self._wards.forget()

    def run(self, on_up: Callable[[], None] | None = None) -> int:
        """Serve until a signal ends it; return the exit code of the process.

        ``on_up`` is called once, when every worker serves.
        """
        if on_up is not None:
            self._on_up = on_up
        if self._listeners is None:
            self.bind()
        settings = self._config.settings
        with contextlib.ExitStack() as cleanup:
            # For good: neither the cleanup nor the rest of the process is interrupted.
            cleanup.callback(self._signals.ignore)
            cleanup.callback(self.release)
            if settings.pidfile:
                old = self._inheritance
                claim = PidFile.acquire if old is None else old.pidfile
                cleanup.callback(claim(settings.pidfile).remove)
            rlimit.raise_file_limit(
                settings.max_client_conn,
                settings.default_pool_size * max(1, len(self._config.databases)),
            )
            if not settings.core_dumps:
                dumpable.forbid_core_dumps()
            # First of all, for when the loop failed: no worker outlives its master.
            cleanup.callback(self._kill_all)
            # The parent's objects will never be garbage in a child, and a collection
            # there would copy every page it touches.
            gc.collect()
            gc.freeze()
            for slot in self._children:
                self._fork(slot)
            self._loop()
        return self._exit_code

    # The loop

    def _loop(self) -> None:
        while self._phase is Phase.RUNNING or self._alive():
            ready = self._wait()
            if self._signals.fileno() in ready:
                for signum in self._signals.pending():
                    self._handlers[signum]()
            for slot in self._children:
                if slot.child is not None and slot.child.ready_fd in ready:
                    self._on_ready_fd(slot.child)
            if self._bus.fileno(MASTER) in ready:
                self._read_inbox()
            for talk in self._talks:
                if talk.fileno() in ready:
                    talk.on_ready()
            self._on_time(time.monotonic())
        if self._farewell:
            log.write(log.LOG, self._farewell)

    def _wait(self) -> set[int]:
        """Wait for a descriptor or for the next deadline."""
        poll = select.poll()
        poll.register(self._signals.fileno(), select.POLLIN)
        poll.register(self._bus.fileno(MASTER), select.POLLIN)
        for slot in self._children:
            if slot.child is not None and slot.child.ready_fd is not None:
                poll.register(slot.child.ready_fd, select.POLLIN)
        for fd in (talk.fileno() for talk in self._talks):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        deadlines = [slot.restart_at_s for slot in self._children]
        deadlines += [self._kill_at_s, self._rollouts.due_s, self._service.due_s]
        deadlines += [self._cover.due_s(), self._wards.due_s, self._succession.due_s]
        due_s = min((at for at in deadlines if at is not None), default=None)
        if due_s is None:
            timeout_ms = None
        else:
            # One more, because poll(2) rounds down and would spin the last part.
            timeout_ms = max(0, int((due_s - time.monotonic()) * 1000) + 1)
        return {fd for fd, _ in poll.poll(timeout_ms)}

    def _on_time(self, now_s: float) -> None:
        self._rollouts.on_time(now_s)
        self._wards.on_time(now_s)
        self._succession.on_time(now_s)
        self._service.on_time(now_s, self._slots)
        self._cover.on_time(
            now_s,
            self._config.settings.worker_stuck_timeout,
            cover=self._phase is Phase.RUNNING,
        )
        if self._kill_at_s is not None and now_s >= self._kill_at_s:
            self._kill_at_s = None
            for worker in self._alive():
                log.write(
                    log.WARNING, f"worker (pid {worker.pid}) does not end, killing it"
                )
                os.kill(worker.pid, signal.SIGKILL)
        for slot in self._children:
            if slot.restart_at_s is not None and now_s >= slot.restart_at_s:
                slot.restart_at_s = None
                self._fork(slot)

    def _read_inbox(self) -> None:
        while (message := self._bus.receive(MASTER)) is not None:
            handler = self._messages.get(message.kind)
            try:
                if handler is None:
                    log.write(
                        log.DEBUG,
                        f"bus: {message.kind!r} from slot {message.sender} ignored",
                    )
                else:
                    handler(message)
            finally:
                message.close_fds()

    def _on_reloaded(self, message: BusMessage) -> None:
        self._rollouts.answered(message.sender, message.payload.get("number"))

    # Births and deaths

    def _fork(self, slot: Slot) -> None:
        """Start a worker in ``slot``; a fork that fails counts as a death at birth."""
        try:
            ready = Pipe.open()
        except OSError as error:
            self._schedule(slot, f"could not start {slot.title}: {error}")
            return
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal between the fork and the child's own handlers must neither run
        # ours in the child nor get lost: it waits until the child is set up.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, self._handlers)
        try:
            pid = os.fork()
            if pid == 0:
                self._child(slot, ready, blocked)
        except OSError as error:
            ready.close()
            self._schedule(slot, f"could not start {slot.title}: {error}")
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(ready.write_fd)
        slot.child = Child(pid, time.monotonic(), ready.read_fd)
        log.write(log.DEBUG, f"{slot.title} started (pid {pid})")

    def _child(
        self, slot: Slot, ready: Pipe, unblock: set[int | signal.Signals]
    ) -> NoReturn:
        """Become the child in ``slot``. Never returns into the master's code."""
        code = EXIT_FAILED
        try:
            self._leave_to_master(slot, ready, unblock)
            if slot is self._console:
                code = self._console_main(self._console_start(ready))
            else:
                code = self._worker_main(self._worker_start(slot, ready))
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else EXIT_FAILED
        except BaseException:
            log.write_exception(f"{slot.title} failed")
        finally:
            with contextlib.suppress(Exception):
                logging.shutdown()
                sys.stdout.flush()
                sys.stderr.flush()
            # Not sys.exit: the master's cleanup is on this stack as well.
            os._exit(code)

    def _leave_to_master(
        self, slot: Slot, ready: Pipe, unblock: set[int | signal.Signals]
    ) -> None:
        """Let go of what is the master's, and of the other children's."""
        name_process(f"pooler {slot.title}")
        self._signals.leave_to_parent()
        # A hang-up of the terminal reaches the whole group and must not kill a child;
        # reload and pause come by the bus.
        for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(signum, signal.SIG_IGN)
        # Until the child has handlers of its own, which takes a few imports.
        for signum in ENDS:
            signal.signal(signum, leave_at_once)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblock)
        os.close(self._life.write_fd)
        os.close(ready.read_fd)
        for other in self._children:
            if other.child is not None and other.child.ready_fd is not None:
                os.close(other.child.ready_fd)
        self.listeners.close_other_slots(slot.index)
        self._wards.forget()
        for talk in self._talks:
            talk.leave()
        if self._inheritance is not None:
            self._inheritance.leave()
        self._doors.claim(slot.index)

    def _worker_start(self, slot: Slot, ready: Pipe) -> WorkerStart:
        board = self._board
        board.clear(slot.index)
        board.set(slot.index, "pid", os.getpid())
        board.set(slot.index, "started_us", time.monotonic_ns() // 1000)
        return WorkerStart(
            slot=slot.index,
            workers=self._workers,
            config=self._config,
            tcp_listeners=self.listeners.tcp[slot.index],
            unix_listener=self.listeners.unix_listener,
            shared_listeners=self.listeners.shared,
            ready_fd=ready.write_fd,
            master_fd=self._life.read_fd,
            bus=self._bus.claim(slot.index),
            board=board,
            page=self._page,
            doors=self._doors,
            mock_key=self._mock_key,
            follows=self._inheritance is not None,
        )

    def _console_start(self, ready: Pipe) -> ConsoleStart:
        self.listeners.close()
        return ConsoleStart(
            config=self._config,
            ready_fd=ready.write_fd,
            master_fd=self._life.read_fd,
            bus=self._bus.claim(CONSOLE),
            board=self._board,
            page=self._page,
        )

    def _on_ready_fd(self, worker: Child) -> None:
        if worker.ready_fd is None:
            return
        with contextlib.suppress(BlockingIOError):
            worker.ready = os.read(worker.ready_fd, 1) == READY
            os.close(worker.ready_fd)
            worker.ready_fd = None
        if not self._was_up and all(
            slot.child is not None and slot.child.ready for slot in self._children
        ):
            self._was_up = True
            if self._inheritance is not None and not self._enter(self._inheritance):
                return
            log.write(
                log.LOG,
                f"process up: pooler {__version__}, workers {self._workers},"
                f" Python {platform.python_version()}",
            )
            self._service.up()
            self._on_up()

    def _enter(self, inheritance: Inheritance) -> bool:
        """Take the place of the old pooler for good; False: it keeps it."""
        try:
            unix = inheritance.enter()
        except ConfigError as error:
            log.write(log.FATAL, str(error))
            self._exit_code = 1
            self.stop()
            return False
        self._listeners = dataclasses.replace(self.listeners, unix=unix)
        self._cancels.follow(inheritance.elder)
        return True

    def _reap(self) -> None:
        """Collect every dead child; as PID 1 there are others than ours."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for slot in self._children:
                if slot.child is not None and slot.child.pid == pid:
                    self._on_death(slot, slot.child, os.waitstatus_to_exitcode(status))

    def _on_death(self, slot: Slot, worker: Child, code: int) -> None:
        # Its last byte may still be in the pipe when the death is seen first.
        self._on_ready_fd(worker)
        slot.child = None
        if slot is self._console:
            self._wishes.abandoned()
        else:
            self._read_inbox()  # what it had to say
            self._wards.died(slot.index, expected=code == 0)
            self._board.clear(slot.index)
            for talk in self._talks:
                talk.gone(slot.index)
        self._rollouts.gone(slot.index)
        level = log.WARNING
        if self._phase is not Phase.RUNNING:
            level = log.DEBUG if code == 0 or self._kill_at_s is not None else level
            log.write(level, slot.obituary(worker, code))
            return
        if code == EXIT_BOOT_FAILURE and not self._was_up:
            log.write(
                log.FATAL,
                f"{slot.title} cannot work with this configuration, giving up",
            )
            self._exit_code = 1
            self.stop()
            return
        log.write(level, slot.obituary(worker, code))
        lived_s = time.monotonic() - worker.started_s
        if worker.ready and lived_s >= self._timing.birth_s:
            slot.failures = 0
            self._fork(slot)
        else:
            self._schedule(slot)

    def _schedule(self, slot: Slot, problem: str = "") -> None:
        """Start the next worker of ``slot`` after a pause that doubles each time."""
        if problem:
            log.write(log.ERROR, problem)
        timing = self._timing
        # The exponent is capped only to keep the float finite.
        pause_s = min(
            timing.backoff_most_s,
            timing.backoff_first_s * 2.0 ** min(slot.failures, 64),
        )
        slot.failures += 1
        slot.restart_at_s = time.monotonic() + pause_s
        log.write(log.LOG, f"{slot.title} starts again in {pause_s:.1f} s")

    def _alive(self) -> list[Child]:
        return [slot.child for slot in self._slots if slot.child is not None]

    def _process_of(self, slot: int) -> int:
        child = self._slots[slot].child if 0 <= slot < len(self._slots) else None
        return 0 if child is None else child.pid

    def _serving(self) -> list[int]:
        """The slots of workers that can be asked for something."""
        return [
            slot.index
            for slot in self._slots
            if slot.child is not None and slot.child.ready
        ]

    # Signals

    def _on_sigterm(self) -> None:
        self._shut_down(signal.SIGTERM)

    def _on_sigint(self) -> None:
        self._shut_down(signal.SIGINT)

    def _on_sigquit(self) -> None:
        log.write(log.LOG, "got SIGQUIT, fast exit")
        self.stop()

    def _on_sighup(self) -> None:
        log.write(log.LOG, "got SIGHUP, re-reading config")
        self.reload(_nothing)

    def reload(self, done: Callable[[], None]) -> bool:
        """Read the files again; ``done`` follows when all children run what they say.

        False: they cannot be used. The log says why, and nothing changes.
        """
        self._service.reloading()
        try:
            new = self._load(self._config.settings.conffile or self._config.path)
        except ConfigError as error:
            log.write(log.ERROR, f"{error}; the running configuration is kept")
            self._service.reloaded()
            return False

        def all_run_it() -> None:
            self._service.reloaded()
            done()

        for warning in new.warnings:
            log.write(log.WARNING, warning)
        for name in changes.diff(self._config, new).restart:
            log.write(log.WARNING, f"{name}: a change needs a restart, ignored")
        self.run_with(changes.reloaded(self._config, new), all_run_it)
        return True

    def run_with(self, config: Config, done: Callable[[], None]) -> None:
        """Change over to a configuration, all processes together."""
        self._config = config
        verbose = max(self._verbose, config.settings.verbose)
        settings = config.settings
        log.follow(log.orders(settings.logfile, log_style(settings), verbose))
        self._rollouts.send(config, verbose, self._children, done)

    def change_state(self, state: RunState, done: Callable[[], None]) -> None:
        """Change what the operator has paused or disabled, in all processes."""
        self.run_with(dataclasses.replace(self._config, state=state), done)

    def _on_sigusr1(self) -> None:
        self._on_state_signal("PAUSE", USR1_TEXTS)

    def _on_sigusr2(self) -> None:
        if self.is_ending:
            log.write(log.LOG, "got SIGUSR2 while shutting down, ignoring")
        else:
            self._on_state_signal("RESUME", USR2_TEXTS)

    def _on_state_signal(self, verb: str, texts: tuple[str, str]) -> None:
        done, already = texts
        try:
            state = changed(self._config.state, verb, "")
        except StateError:
            log.write(log.LOG, already)
            return
        was = "SUSPEND" if self._config.state.suspended else "PAUSE"
        log.write(log.LOG, done.format(was))
        self.change_state(state, _nothing)

    # The end

    def _shut_down(self, signum: signal.Signals) -> None:
        if self._phase is not Phase.RUNNING:
            log.write(log.LOG, f"got {signum.name} while shutting down, fast exit")
            self.stop()
            return
        drain = next(one for one in DRAINS.values() if one.signum == signum)
        log.write(log.LOG, f"got {signum.name}, shutting down, {drain.wait}")
        if self._config.state.suspended:
            log.write(log.FATAL, "suspend was in progress, going down immediately")
            self._exit_code = 1
            self.stop()
            return
        self.drain(drain)

    def drain(self, drain: Drain) -> None:
        """Take no new clients, and end when the workers have ended."""
        self._phase = Phase.DRAINING
        self._service.stopping(drain.wait)
        self._farewell = drain.farewell
        self._no_more_births()
        self.listeners.close_tcp()
        if not self.listeners.is_own:
            self._succession.step_down(drain.signum)
            return
        for slot in self._slots:
            if slot.child is not None:
                self._bus.send(slot.index, "ending", {})
                os.kill(slot.child.pid, drain.signum)

    def abdicate(self) -> None:
        """Another pooler serves: the end begins, and sockets and files are its own."""
        drain = DRAINS["WAIT_FOR_CLIENTS"]
        self._phase = Phase.DRAINING
        self._service.stopping(drain.wait)
        self._farewell = drain.farewell
        self._no_more_births()
        self.listeners.close()
        self._listeners = dataclasses.replace(self.listeners, unix=None)

    def stop(self) -> None:
        """End at once: SIGQUIT to the workers now, SIGKILL when that does not help."""
        if self._phase is Phase.STOPPING:
            return
        self._phase = Phase.STOPPING
        self._service.stopping("at once")
        self._farewell = ""
        self._no_more_births()
        self._kill_at_s = time.monotonic() + self._timing.kill_after_s
        for worker in self._alive():
            os.kill(worker.pid, signal.SIGQUIT)

    def _no_more_births(self) -> None:
        for slot in self._children:
            slot.restart_at_s = None

    def _kill_all(self) -> None:
        """Leave no child behind: the console, or all when the loop has failed."""
        for child in (slot.child for slot in self._children):
            if child is None:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, 0)


def _nothing() -> None:
    """Tell nobody that the pooler is up."""
