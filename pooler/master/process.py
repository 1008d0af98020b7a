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
import os
import platform
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from pooler import __version__, log
from pooler.config import changes, loading
from pooler.config.log_style import log_style
from pooler.config.model import Config, RunState
from pooler.errors import ConfigError
from pooler.ipc.bus import CONSOLE, MASTER, BusMessage
from pooler.ipc.signals import SignalPipe
from pooler.ipc.worker_start import (
    EXIT_BOOT_FAILURE,
    READY,
    ConsoleStart,
    WorkerStart,
)
from pooler.master import activation, births, dumpable, listeners, rlimit
from pooler.master.births import Estate
from pooler.master.cancel_relay import CancelRelay
from pooler.master.children import Child, Pipe, Slot
from pooler.master.cover import Cover
from pooler.master.inheritance import Inheritance
from pooler.master.pidfile import PidFile
from pooler.master.rollout import Rollouts
from pooler.master.service import Service
from pooler.master.signal_orders import SignalOrders
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
        self._estate = Estate.for_workers(
            self._workers, follows=inheritance is not None
        )
        self._bus, self._board = self._estate.bus, self._estate.board
        self._page, self._doors = self._estate.page, self._estate.doors
        self._cover = Cover(
            self._bus, self._board, self._slots, self._sockets_of_clients
        )
        self._rollouts = Rollouts(self._bus)
        self._wards = Wards(self._bus, self._page, self._serving, self._process_of)
        self._service = Service.from_environment(os.environ, self._board, self._page)
        self._signals = SignalPipe()
        self._listeners: listeners.Listeners | None = None
        self._wishes = Wishes(self, self._bus)
        self._cancels = CancelRelay(self._bus, self._slots)
        self._succession = Succession(self, self._bus, self._slots, self._cancels)
        # With the poolers before us and behind us.
        self._talks = (self._succession, self._cancels)
        self._handlers = {**SignalOrders(self).handlers, signal.SIGCHLD: self._reap}
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
        self._estate.close()
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
        """Start a child in ``slot``; a fork that fails counts as a death at birth."""
        try:
            slot.child = births.fork(
                slot.title,
                self._signals,
                self._handlers,
                lambda ready: self._live(slot, ready),
            )
        except OSError as error:
            self._schedule(slot, f"could not start {slot.title}: {error}")
            return
        log.write(log.DEBUG, f"{slot.title} started (pid {slot.child.pid})")

    def _live(self, slot: Slot, ready: Pipe) -> int:
        """In the child: let go of what is the master's, and be what it is for."""
        os.close(self._estate.life.write_fd)
        for other in self._children:
            if other.child is not None and other.child.ready_fd is not None:
                os.close(other.child.ready_fd)
        self.listeners.close_other_slots(slot.index)
        self._wards.forget()
        for talk in self._talks:
            talk.leave()
        if self._inheritance is not None:
            self._inheritance.leave()
        self._estate.doors.claim(slot.index)
        if slot is self._console:
            self.listeners.close()
            start = self._estate.console_start(self._config, ready.write_fd)
            return self._console_main(start)
        return self._worker_main(
            self._estate.worker_start(
                slot.index, self._config, self.listeners, ready.write_fd
            )
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
            self.fail()
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
            self.fail()
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

    # Configuration

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

    # The end

    def fail(self) -> None:
        """End at once, with the exit code of a failure."""
        self._exit_code = 1
        self.stop()

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
