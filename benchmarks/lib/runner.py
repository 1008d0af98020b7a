# SPDX-License-Identifier: MIT
"""Run the cases: interleaved rounds, one fresh target for each measurement."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from benchmarks.lib import cpu
from benchmarks.lib.cases import IDLE_CLIENTS, Case, Kind
from benchmarks.lib.clients import (
    Address,
    ClientError,
    idle_clients,
    raise_descriptor_limit,
)
from benchmarks.lib.configs import Layout
from benchmarks.lib.peers import DIRECT, PeerError, Target, running, write_files
from benchmarks.lib.pgbench import Pgbench
from benchmarks.lib.results import Measurement

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
        with _started(placed):
            return

    def measure(self, step: Step, placed: Placed) -> Measurement:
        """Make one measurement; what goes wrong is in its ``errors``."""
        measure = {Kind.LOAD: self._load, Kind.IDLE: self._idle}[step.case.kind]
        base = Measurement(step.case.name, step.target.name, step.round)
        try:
            with _started(placed) as pid:
                return measure(step.case, placed, pid, base)
        except (PeerError, ClientError, ProcessLookupError, OSError) as error:
            return replace(base, errors=(str(error),))

    def _load(
        self, case: Case, placed: Placed, pid: int | None, base: Measurement
    ) -> Measurement:
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
        if raise_descriptor_limit(IDLE_CLIENTS) < IDLE_CLIENTS:
            raise PeerError("RLIMIT_NOFILE is too low for this case")
        # The first log-in has happened, so the pool has its first server already.
        before = cpu.tree_memory(pid)
        begin = time.monotonic()
        with idle_clients(placed.address, case.clients):
            time.sleep(SETTLE_S)
            after = cpu.tree_memory(pid)
        return replace(
            base,
            elapsed_s=time.monotonic() - begin,
            client_pss_bytes=(after.pss_bytes - before.pss_bytes) / case.clients,
            client_rss_bytes=(after.rss_bytes - before.rss_bytes) / case.clients,
            processes=after.processes,
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


@contextlib.contextmanager
def _started(placed: Placed) -> Iterator[int | None]:
    """Run the target and yield its process id; its early end is an error."""
    target = placed.target
    with running(target, placed.files, placed.directory, placed.address) as process:
        yield None if process is None else process.pid
        if process is not None and process.poll() is not None:
            raise PeerError(f"{target.name} ended with {process.returncode}")
