# SPDX-License-Identifier: MIT
"""pgbench as load generator: command line, output, log."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lib.cases import SCALE, Case
from benchmarks.lib.clients import Address
from benchmarks.lib.configs import PASSWORD
from benchmarks.lib.percentiles import Latency, Sample, parse_log

# Beyond the run itself: connecting, and a target that answers no more.
GRACE_S = 30.0
ERROR_TAIL_CHARACTERS = 1_000

TPS = re.compile(r"^tps = ([\d.]+) ", re.MULTILINE)
TRANSACTIONS = re.compile(
    r"^number of transactions actually processed: (\d+)", re.MULTILINE
)
FAILED = re.compile(r"^number of failed transactions: (\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What pgbench said; ``errors`` is empty when all went well."""

    tps: float
    transactions: int
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of pgbench."""

    outcome: Outcome
    latency: Latency | None
    elapsed_s: float
    cpu_s: float
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True, slots=True)
class Pgbench:
    """The program, its threads, and a folder for scripts and logs."""

    program: str
    threads: int
    folder: Path

    def command(self, case: Case, address: Address, *limit: str) -> list[str]:
        """Return the command line; ``limit`` says how long (-T or -t)."""
        workload = ["-S"]
        if case.script is not None:
            workload = ["-f", str(self.script_path(case))]
        return [
            self.program,
            "-n",
            *workload,
            *case.options,
            *("-c", str(case.clients), "-j", str(self.threads)),
            *limit,
            *("-h", address.host, "-p", str(address.port), "-U", address.user),
            address.database,
        ]

    def script_path(self, case: Case) -> Path:
        """Return where the script of a case is."""
        return self.folder / f"{case.name}.sql"

    def write_script(self, case: Case) -> None:
        """Write the script of a case, if it has one."""
        if case.script is not None:
            self.script_path(case).write_text(case.script)

    def fill(self, address: Address) -> None:
        """Make pgbench's own tables."""
        command = [self.program, "-i", "-q", "-s", str(SCALE), "-h", address.host]
        command += ["-p", str(address.port), "-U", address.user, address.database]
        subprocess.run(command, check=True, capture_output=True)

    def warm_up(self, case: Case, address: Address) -> Outcome:
        """Run a few transactions, so that pools are full and caches warm."""
        command = self.command(case, address, "-t", str(case.warmup))
        return self._execute(case, command, 0)

    def measured_command(self, case: Case, address: Address, seconds: int) -> list[str]:
        """Return the command line of a measurement."""
        rate = ["--sampling-rate", f"{case.sample_rate:g}"]
        log = ["--log", "--log-prefix", str(self.folder / "log")]
        return self.command(case, address, "-T", str(seconds), *log, *rate)

    def measure(self, case: Case, address: Address, seconds: int) -> Run:
        """Run for some seconds and read the log."""
        for left in self.folder.glob("log.*"):
            left.unlink()
        cpu_before = _children_cpu_s()
        begin = time.monotonic()
        command = self.measured_command(case, address, seconds)
        outcome = self._execute(case, command, seconds)
        elapsed = time.monotonic() - begin
        cpu = _children_cpu_s() - cpu_before
        samples: list[Sample] = []
        failed = 0
        for path in self.folder.glob("log.*"):
            with path.open() as lines:
                some, some_failed = parse_log(lines)
            samples += some
            failed += some_failed
            path.unlink()
        if failed and not outcome.errors:
            outcome = Outcome(
                outcome.tps, outcome.transactions, (f"{failed} failed in the log",)
            )
        latency = Latency.of(sample.time_us for sample in samples)
        return Run(outcome, latency, elapsed, cpu, tuple(samples))

    def _execute(self, case: Case, command: list[str], seconds: int) -> Outcome:
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds + GRACE_S,
                env={**os.environ, **environment(case)},
            )
        except subprocess.TimeoutExpired:
            return Outcome(0.0, 0, (f"pgbench did not end within {GRACE_S:g} s",))
        return parse_output(done.returncode, done.stdout, done.stderr)


def environment(case: Case) -> dict[str, str]:
    """Return what tells libpq how to connect."""
    return {
        "PGSSLMODE": "require" if case.login.is_secured else "disable",
        "PGPASSWORD": PASSWORD,
    }


def parse_output(returncode: int, stdout: str, stderr: str) -> Outcome:
    """Read pgbench's report. pgbench goes on when a client is aborted: look for it."""
    errors = []
    tps, transactions = TPS.search(stdout), TRANSACTIONS.search(stdout)
    failed = FAILED.search(stdout)
    if returncode != 0:
        errors.append(f"pgbench ended with {returncode}")
    if tps is None or transactions is None:
        errors.append("pgbench reported no result")
    if failed is not None and int(failed[1]):
        errors.append(f"{failed[1]} failed transactions")
    complaints = [line for line in stderr.splitlines() if "error:" in line]
    if complaints or errors:
        errors.append((stderr.strip() or stdout.strip())[-ERROR_TAIL_CHARACTERS:])
    return Outcome(
        tps=float(tps[1]) if tps else 0.0,
        transactions=int(transactions[1]) if transactions else 0,
        errors=tuple(error for error in errors if error),
    )


def _children_cpu_s() -> float:
    """Return the CPU of ended children; pgbench is the only one that ends meanwhile."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
