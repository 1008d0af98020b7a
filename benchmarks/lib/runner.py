# SPDX-License-Identifier: MIT
"""Run the cases: interleaved rounds, one fresh target for each measurement."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from benchmarks.lib import cpu
from benchmarks.lib.cases import STORM_CLIENTS, Case, Kind, Login
from benchmarks.lib.clients import (
    Address,
    ClientError,
    idle_clients,
    raise_descriptor_limit,
)
from benchmarks.lib.configs import PASSWORD, Layout
from benchmarks.lib.peers import DIRECT, PeerError, Target, running, write_files
from benchmarks.lib.percentiles import Latency
from benchmarks.lib.pgbench import Pgbench
from benchmarks.lib.results import Measurement
from benchmarks.lib.storm import logged_in

# Freed buffers and the last log-in work have settled by then.
SETTLE_S = 1.0
MICROSECONDS = 1_000_000


class Server(Protocol):
    """What is needed of ``pooler.demo.postgres.Postgres``."""

    @property
    def host(self) -> str:
        """Address it listens on."""

    @property
    def port(self) -> int:
        """Port it listens on."""

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""


@dataclass(frozen=True, slots=True)
class Step:
    """One measurement to be made."""

    case: Case
    round: int
    target: Target


@dataclass(frozen=True, slots=True)
class Placed:
    """A target with its port, its folder and its files."""

    target: Target
    address: Address
    directory: Path
    files: Mapping[str, str] = field(default_factory=dict)


def plan(
    cases: Sequence[Case], targets: Sequence[Target], rounds: int
) -> Iterator[Step]:
    """Yield A B C A B C …: what the machine does meanwhile hits all targets alike."""
    for case in cases:
        able = [target for target in targets if target.can(case)]
        for number in range(1, rounds + 1):
            for target in able:
                yield Step(case, number, target)


def place(
    target: Target, server: Server, user: str, database: str, directory: Path, port: int
) -> Placed:
    """Give a target its port and write its configuration, once for all rounds."""
    if target.brand == DIRECT:
        return Placed(
            target, Address(server.host, server.port, user, database), directory
        )
    address = Address(server.host, port, user, database)
    layout = Layout(
        address=address,
        server_host=server.host,
        server_port=server.port,
        workers=target.workers,
        version=target.version_key,
        cache_unnamed=target.cache_unnamed,
    )
    files = write_files(target, layout, directory)
    return Placed(target, address, directory, files)


@dataclass(frozen=True, slots=True)
class Runner:
    """Makes measurements with one PostgreSQL and one pgbench."""

    server: Server
    pgbench: Pgbench
    cores: int
    seconds: int

    def check(self, placed: Placed) -> None:
        """Start and stop the target; raise ``PeerError`` when it does not answer."""
        with _started(placed, Login.TRUST):
            return

    def measure(self, step: Step, placed: Placed) -> Measurement:
        """Make one measurement; what goes wrong is in its ``errors``."""
        kinds = {
            Kind.LOAD: self._load,
            Kind.IDLE: self._idle,
            Kind.STORM: self._storm,
        }
        measure = kinds[step.case.kind]
        base = Measurement(step.case.name, step.target.name, step.round)
        try:
            with _started(placed, step.case.login) as pid:
                return measure(step.case, placed, pid, base)
        except (PeerError, ClientError, ProcessLookupError, OSError) as error:
            return replace(base, errors=(str(error),))

    def _load(
        self, case: Case, placed: Placed, pid: int | None, base: Measurement
    ) -> Measurement:
        with _beside(case, placed):
            warm = self.pgbench.warm_up(case, placed.address)
            if warm.errors:
                return replace(base, errors=warm.errors)
            before = self._clocks(pid)
            run = self.pgbench.measure(case, placed.address, self.seconds)
            after = self._clocks(pid)
        outcome = run.outcome
        machine_s = run.elapsed_s * self.cores
        peer, postgres = after.peer - before.peer, after.postgres - before.postgres
        busy, stolen = after.busy - before.busy, after.stolen - before.stolen
        foreign = max(0.0, busy - peer - postgres - run.cpu_s)

        def each(cpu_s: float) -> float | None:
            """Return microseconds per transaction."""
            if not outcome.transactions:
                return None
            return cpu_s * MICROSECONDS / outcome.transactions

        return replace(
            base,
            command=tuple(
                self.pgbench.measured_command(case, placed.address, self.seconds)
            ),
            elapsed_s=run.elapsed_s,
            transactions=outcome.transactions,
            tps=outcome.tps,
            latency=run.latency,
            peer_cpu_us=None if pid is None else each(peer),
            postgres_cpu_us=each(postgres),
            generator_cpu_us=each(run.cpu_s),
            generator_busy=run.cpu_s / (run.elapsed_s * self.pgbench.threads),
            foreign_busy=foreign / machine_s,
            stolen=stolen / machine_s,
            errors=outcome.errors,
        )

    def _idle(
        self, case: Case, placed: Placed, pid: int | None, base: Measurement
    ) -> Measurement:
        if pid is None:
            raise PeerError(f"{placed.target.name} has no process of its own")
        want_descriptors(case.clients)
        # The first log-in has happened, so the pool has its first server already.
        before = cpu.tree_memory(pid)
        begin = time.monotonic()
        with idle_clients(placed.address, case.clients, case.login.is_secured):
            time.sleep(SETTLE_S)
            after = cpu.tree_memory(pid)
        return replace(
            base,
            elapsed_s=time.monotonic() - begin,
            client_pss_bytes=(after.pss_bytes - before.pss_bytes) / case.clients,
            client_rss_bytes=(after.rss_bytes - before.rss_bytes) / case.clients,
            processes=after.processes,
        )

    def _storm(
        self, case: Case, placed: Placed, pid: int | None, base: Measurement
    ) -> Measurement:
        """Run pgbench; when half of the time is over, many others log in at once."""
        want_descriptors(STORM_CLIENTS)
        warm = self.pgbench.warm_up(case, placed.address)
        if warm.errors:
            return replace(base, errors=warm.errors)
        storm = _Storm(placed.address, self.seconds / 2)
        storm.start()
        run = self.pgbench.measure(case, placed.address, self.seconds)
        storm.join()
        before = [it.time_us for it in run.samples if it.end_s < storm.begin_s]
        meanwhile = [
            it.time_us for it in run.samples if storm.begin_s <= it.end_s <= storm.end_s
        ]
        errors = run.outcome.errors + storm.errors
        if not errors and not (before and meanwhile):
            errors = ("no transaction before or during the logins",)
        return replace(
            base,
            command=tuple(
                self.pgbench.measured_command(case, placed.address, self.seconds)
            ),
            elapsed_s=run.elapsed_s,
            transactions=run.outcome.transactions,
            latency=Latency.of(meanwhile),
            storm_s=None if errors else storm.end_s - storm.begin_s,
            slowdown=None
            if errors
            else statistics.fmean(meanwhile) / statistics.fmean(before),
            errors=errors,
        )

    def _clocks(self, pid: int | None) -> _Clocks:
        busy, stolen = cpu.machine_seconds()
        return _Clocks(
            peer=0.0 if pid is None else cpu.tree_cpu_seconds(pid),
            postgres=cpu.tree_cpu_seconds(self.server.pid),
            busy=busy,
            stolen=stolen,
        )


@dataclass(frozen=True, slots=True)
class _Clocks:
    """CPU seconds so far."""

    peer: float
    postgres: float
    busy: float
    stolen: float


class _Storm(threading.Thread):
    """Logs many clients in after a while; ``begin_s`` and ``end_s`` by the clock."""

    def __init__(self, address: Address, after_s: float) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._after_s = after_s
        self.begin_s = self.end_s = 0.0
        self.errors: tuple[str, ...] = ()

    def run(self) -> None:
        time.sleep(self._after_s)
        self.begin_s = time.time()
        try:
            with logged_in(self._address, PASSWORD, STORM_CLIENTS):
                self.end_s = time.time()
        except (OSError, ClientError) as error:
            self.errors = (f"a login has failed: {error}",)


def want_descriptors(count: int) -> None:
    """Raise ``PeerError`` when so many sockets cannot be had."""
    if raise_descriptor_limit(count) < count:
        raise PeerError("RLIMIT_NOFILE is too low for this case")


def _beside(case: Case, placed: Placed) -> contextlib.AbstractContextManager[object]:
    """The clients that do nothing for the length of the block."""
    want_descriptors(case.beside)
    return idle_clients(placed.address, case.beside, case.login.is_secured)


@contextlib.contextmanager
def _started(placed: Placed, login: Login) -> Iterator[int | None]:
    """Run the target and yield its process id; its early end is an error."""
    target = placed.target
    with running(
        target, placed.files, placed.directory, placed.address, login
    ) as process:
        yield None if process is None else process.pid
        if process is not None and process.poll() is not None:
            raise PeerError(f"{target.name} ended with {process.returncode}")
