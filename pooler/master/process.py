# SPDX-License-Identifier: MIT
"""The master: forks the workers, watches them, takes the signals. Layer: master.

It owns the listening sockets, the bus and the board for as long as the pooler
lives, so a worker that dies loses nothing but its own clients: the backlog, the
inbox and the row on the board wait for its successor.

Invariants: one thread, no asyncio, no client byte, no extension module (the
worker is imported in the child, after the fork). A signal handler does nothing:
the loop reads the signals from a pipe (``pooler.ipc.signals``).
Whatever way the master ends, its workers see the end of ``master_fd``.
"""

from __future__ import annotations

import contextlib
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
from pooler.config import loading
from pooler.config.loading import Config
from pooler.errors import ConfigError
from pooler.ipc.board import Board
from pooler.ipc.bus import MASTER, Bus
from pooler.ipc.signals import ENDS, SignalPipe, leave_at_once
from pooler.ipc.worker_start import EXIT_BOOT_FAILURE, EXIT_FAILED, READY, WorkerStart
from pooler.master import dumpable, listeners, rlimit
from pooler.master.pidfile import PidFile

WorkerMain = Callable[[WorkerStart], int]


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


@dataclass(slots=True)
class _Worker:
    """A living child."""

    pid: int
    started_s: float
    # Own, closed when the byte or the end of file came.
    ready_fd: int | None
    ready: bool = False


@dataclass(slots=True)
class _Slot:
    """A place for a worker; empty between a death and the next birth."""

    index: int
    worker: _Worker | None = None
    # Deaths at birth in a row; they set the next pause.
    failures: int = 0
    restart_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Pipe:
    read_fd: int
    write_fd: int

    @classmethod
    def open(cls) -> _Pipe:
        return cls(*os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))

    def close(self) -> None:
        for fd in (self.read_fd, self.write_fd):
            with contextlib.suppress(OSError):
                os.close(fd)


def run_worker(start: WorkerStart) -> int:
    """Run the real worker; the import is here because it loads the extensions."""
    from pooler.worker import process

    return process.run(start)


class Master:
    """One running pooler: ``bind()``, then ``run()`` until it ends."""

    def __init__(
        self,
        config: Config,
        *,
        worker_main: WorkerMain = run_worker,
        load: Callable[[str], Config] = loading.load,
        verbose: int = 0,
        timing: Timing = Timing(),
    ) -> None:
        """Make what the processes share; nothing listens yet.

        ``verbose`` is what the command line asked for; a reload does not go below.
        """
        self._config = config
        self._mock_key = os.urandom(32)
        self._worker_main = worker_main
        self._load = load
        self._verbose = verbose
        self._on_up: Callable[[], None] = _nothing
        self._timing = timing
        self._workers = config.worker_count
        self._slots = [_Slot(index) for index in range(self._workers)]
        self._phase = Phase.RUNNING
        self._farewell = ""
        self._was_up = False
        self._exit_code = 0
        self._kill_at_s: float | None = None
        self._bus = Bus.for_slots(self._workers)
        self._board = Board.for_slots(self._workers)
        # The workers hold the reading end: its end of file is the master's death.
        self._life = _Pipe.open()
        self._signals = SignalPipe()
        self._listeners: listeners.Listeners | None = None
        self._handlers: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGTERM: self._on_sigterm,
            signal.SIGINT: self._on_sigint,
            signal.SIGQUIT: self._on_sigquit,
            signal.SIGHUP: self._on_sighup,
            signal.SIGUSR1: self._on_sigusr1,
            signal.SIGUSR2: self._on_sigusr2,
            signal.SIGCHLD: self._reap,
        }

    @property
    def listeners(self) -> listeners.Listeners:
        """The listening sockets; ``bind`` made them."""
        if self._listeners is None:
            raise RuntimeError("bind() comes first")
        return self._listeners

    def bind(self) -> None:
        """Open the listening sockets; ConfigError when that is impossible.

        From here on signals wait for ``run``, which clears away what is opened here.
        """
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self._signals.take_over(self._handlers)
        settings = self._config.settings
        self._listeners = listeners.open_listeners(
            listen_addr=settings.listen_addr,
            listen_port=settings.listen_port,
            listen_backlog=settings.listen_backlog,
            workers=self._workers,
            unix_socket_dir=settings.unix_socket_dir,
            unix_socket_mode=settings.unix_socket_mode,
            unix_socket_group=settings.unix_socket_group,
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
        self._life.close()

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
                cleanup.callback(PidFile.acquire(settings.pidfile).remove)
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
            for slot in self._slots:
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
            for slot in self._slots:
                if slot.worker is not None and slot.worker.ready_fd in ready:
                    self._on_ready_fd(slot.worker)
            if self._bus.fileno(MASTER) in ready:
                self._read_inbox()
            self._on_time(time.monotonic())
        if self._farewell:
            log.write(log.LOG, self._farewell)

    def _wait(self) -> set[int]:
        """Wait for a descriptor or for the next deadline."""
        poll = select.poll()
        poll.register(self._signals.fileno(), select.POLLIN)
        poll.register(self._bus.fileno(MASTER), select.POLLIN)
        for slot in self._slots:
            if slot.worker is not None and slot.worker.ready_fd is not None:
                poll.register(slot.worker.ready_fd, select.POLLIN)
        deadlines = [slot.restart_at_s for slot in self._slots]
        due_s = min(
            (at for at in (*deadlines, self._kill_at_s) if at is not None), default=None
        )
        if due_s is None:
            timeout_ms = None
        else:
            # One more, because poll(2) rounds down and would spin the last part.
            timeout_ms = max(0, int((due_s - time.monotonic()) * 1000) + 1)
        return {fd for fd, _ in poll.poll(timeout_ms)}

    def _on_time(self, now_s: float) -> None:
        if self._kill_at_s is not None and now_s >= self._kill_at_s:
            self._kill_at_s = None
            for worker in self._alive():
                log.write(
                    log.WARNING, f"worker (pid {worker.pid}) does not end, killing it"
                )
                os.kill(worker.pid, signal.SIGKILL)
        for slot in self._slots:
            if slot.restart_at_s is not None and now_s >= slot.restart_at_s:
                slot.restart_at_s = None
                self._fork(slot)

    def _read_inbox(self) -> None:
        while (message := self._bus.receive(MASTER)) is not None:
            # The workers have nothing to tell the master that it must act on; the
            # inbox is emptied so that a sender is never held up by it.
            message.close_fds()
            log.write(
                log.DEBUG, f"bus: {message.kind!r} from slot {message.sender} ignored"
            )

    # Births and deaths

    def _fork(self, slot: _Slot) -> None:
        """Start a worker in ``slot``; a fork that fails counts as a death at birth."""
        try:
            ready = _Pipe.open()
        except OSError as error:
            self._schedule(slot, f"could not start worker {slot.index}: {error}")
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
            self._schedule(slot, f"could not start worker {slot.index}: {error}")
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(ready.write_fd)
        slot.worker = _Worker(pid, time.monotonic(), ready.read_fd)
        log.write(log.DEBUG, f"worker {slot.index} started (pid {pid})")

    def _child(
        self, slot: _Slot, ready: _Pipe, unblock: set[int | signal.Signals]
    ) -> NoReturn:
        """Become the worker in ``slot``. Never returns into the master's code."""
        code = EXIT_FAILED
        try:
            start = self._become_worker(slot, ready, unblock)
            code = self._worker_main(start)
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else EXIT_FAILED
        except BaseException:
            log.write_exception(f"worker {slot.index} failed")
        finally:
            with contextlib.suppress(Exception):
                logging.shutdown()
                sys.stdout.flush()
                sys.stderr.flush()
            # Not sys.exit: the master's cleanup is on this stack as well.
            os._exit(code)

    def _become_worker(
        self, slot: _Slot, ready: _Pipe, unblock: set[int | signal.Signals]
    ) -> WorkerStart:
        self._signals.leave_to_parent()
        # A hang-up of the terminal reaches the whole group and must not kill a worker;
        # reload and pause come by the bus.
        for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(signum, signal.SIG_IGN)
        # Until the worker has handlers of its own, which takes a few imports.
        for signum in ENDS:
            signal.signal(signum, leave_at_once)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblock)
        os.close(self._life.write_fd)
        os.close(ready.read_fd)
        for other in self._slots:
            if other.worker is not None and other.worker.ready_fd is not None:
                os.close(other.worker.ready_fd)
        listeners = self.listeners
        listeners.close_other_slots(slot.index)
        board = self._board
        board.clear(slot.index)
        board.set(slot.index, "pid", os.getpid())
        board.set(slot.index, "started_us", time.monotonic_ns() // 1000)
        return WorkerStart(
            slot=slot.index,
            workers=self._workers,
            config=self._config,
            tcp_listeners=listeners.tcp[slot.index],
            unix_listener=listeners.unix_listener,
            ready_fd=ready.write_fd,
            master_fd=self._life.read_fd,
            bus=self._bus.claim(slot.index),
            board=board,
            mock_key=self._mock_key,
        )

    def _on_ready_fd(self, worker: _Worker) -> None:
        if worker.ready_fd is None:
            return
        with contextlib.suppress(BlockingIOError):
            worker.ready = os.read(worker.ready_fd, 1) == READY
            os.close(worker.ready_fd)
            worker.ready_fd = None
        if not self._was_up and all(
            slot.worker is not None and slot.worker.ready for slot in self._slots
        ):
            self._was_up = True
            log.write(
                log.LOG,
                f"process up: pooler {__version__}, workers {self._workers},"
                f" Python {platform.python_version()}",
            )
            self._on_up()

    def _reap(self) -> None:
        """Collect every dead child; as PID 1 there are others than ours."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for slot in self._slots:
                if slot.worker is not None and slot.worker.pid == pid:
                    self._on_death(slot, slot.worker, os.waitstatus_to_exitcode(status))

    def _on_death(self, slot: _Slot, worker: _Worker, code: int) -> None:
        # Its last byte may still be in the pipe when the death is seen first.
        self._on_ready_fd(worker)
        slot.worker = None
        self._board.clear(slot.index)
        level = log.WARNING
        if self._phase is not Phase.RUNNING:
            level = log.DEBUG if code == 0 or self._kill_at_s is not None else level
            log.write(level, _obituary(slot, worker, code))
            return
        if code == EXIT_BOOT_FAILURE and not self._was_up:
            log.write(
                log.FATAL,
                f"worker {slot.index} cannot work with this configuration, giving up",
            )
            self._exit_code = 1
            self._stop()
            return
        log.write(level, _obituary(slot, worker, code))
        lived_s = time.monotonic() - worker.started_s
        if worker.ready and lived_s >= self._timing.birth_s:
            slot.failures = 0
            self._fork(slot)
        else:
            self._schedule(slot)

    def _schedule(self, slot: _Slot, problem: str = "") -> None:
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
        log.write(log.LOG, f"worker {slot.index} starts again in {pause_s:.1f} s")

    def _alive(self) -> list[_Worker]:
        return [slot.worker for slot in self._slots if slot.worker is not None]

    # Signals

    def _on_sigterm(self) -> None:
        self._shut_down(
            signal.SIGTERM,
            "waiting for all clients disconnect",
            "client connections dropped, exiting",
        )

    def _on_sigint(self) -> None:
        self._shut_down(
            signal.SIGINT,
            "waiting for all servers connections to be released",
            "server connections dropped, exiting",
        )

    def _on_sigquit(self) -> None:
        log.write(log.LOG, "got SIGQUIT, fast exit")
        self._stop()

    def _on_sighup(self) -> None:
        log.write(log.LOG, "got SIGHUP, re-reading config")
        try:
            new = self._load(self._config.settings.conffile or self._config.path)
        except ConfigError as error:
            log.write(log.ERROR, f"{error}; the running configuration is kept")
            return
        for warning in new.warnings:
            log.write(log.WARNING, warning)
        for name in loading.diff(self._config, new).restart:
            log.write(log.WARNING, f"{name}: a change needs a restart, ignored")
        self._config = loading.reloaded(self._config, new)
        verbose = max(self._verbose, new.settings.verbose)
        log.reopen(new.settings.logfile)
        log.set_verbose(verbose)
        payload = {"logfile": new.settings.logfile, "verbose": verbose}
        for slot in self._slots:
            if not self._bus.send(slot.index, "reload", payload):
                log.write(
                    log.ERROR,
                    f"worker {slot.index} does not read its inbox: not reloaded",
                )

    def _on_sigusr1(self) -> None:
        log.write(log.WARNING, "got SIGUSR1, but PAUSE is not available, ignoring")

    def _on_sigusr2(self) -> None:
        log.write(log.WARNING, "got SIGUSR2, but RESUME is not available, ignoring")

    # The end

    def _shut_down(self, signum: signal.Signals, wait: str, farewell: str) -> None:
        if self._phase is not Phase.RUNNING:
            log.write(log.LOG, f"got {signum.name} while shutting down, fast exit")
            self._stop()
            return
        log.write(log.LOG, f"got {signum.name}, shutting down, {wait}")
        self._phase = Phase.DRAINING
        self._farewell = farewell
        self._no_more_births()
        self.listeners.close_tcp()
        for worker in self._alive():
            os.kill(worker.pid, signum)

    def _stop(self) -> None:
        """End at once: SIGQUIT to the workers now, SIGKILL when that does not help."""
        if self._phase is Phase.STOPPING:
            return
        self._phase = Phase.STOPPING
        self._farewell = ""
        self._no_more_births()
        self._kill_at_s = time.monotonic() + self._timing.kill_after_s
        for worker in self._alive():
            os.kill(worker.pid, signal.SIGQUIT)

    def _no_more_births(self) -> None:
        for slot in self._slots:
            slot.restart_at_s = None

    def _kill_all(self) -> None:
        """Leave no child behind when the loop itself has failed."""
        for worker in self._alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(worker.pid, 0)


def _obituary(slot: _Slot, worker: _Worker, code: int) -> str:
    if code == EXIT_BOOT_FAILURE:
        cause = "cannot work with this configuration"
    elif code < 0:
        try:
            cause = f"killed by {signal.Signals(-code).name}"
        except ValueError:
            cause = f"killed by signal {-code}"
    else:
        cause = f"exited with code {code}"
    return f"worker {slot.index} (pid {worker.pid}) {cause}"


def _nothing() -> None:
    """Tell nobody that the pooler is up."""
