# SPDX-License-Identifier: MIT
"""The circumstances of a run: without them a number cannot be compared."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.lib.cases import SCALE, Case
from benchmarks.lib.peers import DIRECT, ROOT, Target, command_of

GOVERNOR: Final = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")

# A results file without one of these is not published. A value may be null where the
# machine does not tell (the governor in a virtual machine), the key may not be absent.
REQUIRED_KEYS: Final = (
    "date",
    "commit",
    "dirty",
    "cpu_model",
    "cores",
    "memory_bytes",
    "kernel",
    "governor",
    "python",
    "cython",
    "compiler",
    "postgres",
    "pgbench",
    "pgbench_threads",
    "scale",
    "targets",
    "cases",
    "rounds",
    "seconds",
    "quick",
    "load_average",
    "command_line",
)


def machine() -> dict[str, Any]:
    """Return what all benchmarks have to say: when, of what, where."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": output(["git", "rev-parse", "--verify", "HEAD"]),
        "dirty": output(["git", "status", "--porcelain"]) != "",
        "cpu_model": cpu_model(Path("/proc/cpuinfo").read_text()),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "governor": _read(GOVERNOR),
        "python": platform.python_version(),
        "cython": _distribution("Cython"),
        "compiler": (output(["cc", "--version"]) or "").partition("\n")[0] or None,
    }


def collect(
    *,
    postgres: str,
    pgbench: str,
    pgbench_threads: int,
    cores: int,
    rounds: int,
    seconds: int,
    quick: bool,
    cases: Sequence[Case],
    load_average: Sequence[float],
) -> dict[str, Any]:
    """Return everything but the targets, whose files are not written yet."""
    return {
        **machine(),
        "cores": cores,
        "postgres": postgres,
        "pgbench": output([pgbench, "--version"]),
        "pgbench_threads": pgbench_threads,
        "scale": SCALE,
        "cases": [case.name for case in cases],
        "rounds": rounds,
        "seconds": seconds,
        "quick": quick,
        "load_average": list(load_average),
        "command_line": sys.argv,
    }


def describe(target: Target, files: Mapping[str, str]) -> dict[str, Any]:
    """Return what the document says about a target."""
    return {
        "name": target.name,
        "brand": target.brand,
        "version": target.version,
        "version_key": target.version_key,
        "version_output": target.version_output,
        "workers": target.workers,
        "account": target.account,
        "capabilities": sorted(target.capabilities),
        "command": [] if target.brand == DIRECT else command_of(target, files),
        "files": dict(files),
    }


def cpu_model(cpuinfo: str) -> str | None:
    """Return the model of the first processor in /proc/cpuinfo."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "Model"}:
            return value.strip()
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _distribution(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def output(command: Sequence[str]) -> str | None:
    """Return what a command prints; ``None`` when it fails or is not there."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
