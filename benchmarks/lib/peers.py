# SPDX-License-Identifier: MIT
"""Targets: what a load is sent to, and how its processes start and stop.

A target is started anew for each measurement. So no target is idle beside another
one, none profits from an earlier case, and memory is measured from the start.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import trustme

from benchmarks.lib.cases import Capability, Case, Login
from benchmarks.lib.clients import Address, ClientError, wait_until_ready
from benchmarks.lib.configs import (
    CERTIFICATE,
    KEY,
    PREPARED_SINCE,
    Layout,
    config_name,
    odyssey_files,
    pgbouncer_files,
    pooler_files,
)

ROOT: Final = Path(__file__).resolve().parents[2]
ACCOUNT: Final = "postgres"
START_TIMEOUT_S = 20.0
LOG_TAIL_BYTES = 4_000
# PgBouncer 1.23 made SIGTERM a polite stop that waits for clients.
STOP_STEPS = ((signal.SIGTERM, 3.0), (signal.SIGQUIT, 2.0), (signal.SIGKILL, 5.0))


class PeerError(Exception):
    """A target that cannot be used; says which and why."""


@dataclass(frozen=True, slots=True)
class Brand:
    """One row: how a program is configured and what it can do."""

    files: Callable[[Layout], dict[str, str]]
    version_pattern: str
    can_prepared: Callable[[tuple[int, ...]], bool]
    secure: bool = False  # its files know SCRAM and TLS


BRANDS: Final[Mapping[str, Brand]] = MappingProxyType(
    {
        "pooler": Brand(pooler_files, r"pooler (\d[\w.]*)", lambda version: True, True),
        "pgbouncer": Brand(
            pgbouncer_files,
            r"PgBouncer (\d[\w.]*)",
            lambda version: version >= PREPARED_SINCE,
            secure=True,
        ),
        "odyssey": Brand(
            odyssey_files, r"(\d+\.\d[\w.]*)", lambda version: version >= (1, 3)
        ),
    }
)
DIRECT: Final = "direct"


@dataclass(frozen=True, slots=True)
class Target:
    """Something to measure. ``brand`` is a key of BRANDS, or ``direct``."""

    name: str
    brand: str
    program: tuple[str, ...] = ()
    version: str = ""
    version_output: str = ""
    workers: int = 1
    cache_unnamed: bool = False  # of ours: keeps unnamed statements on the server
    account: str | None = None
    capabilities: frozenset[Capability] = frozenset()

    def can(self, case: Case) -> bool:
        """Say whether the case makes sense here."""
        if self.cache_unnamed and not case.unnamed:
            return False
        return case.needs is None or case.needs in self.capabilities

    @property
    def version_key(self) -> tuple[int, ...]:
        """Return the version as numbers, to compare."""
        return parse_version(self.version)


def parse_version(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: (1, 24, 1) for 1.24.1 and 1.24.1rc2."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def direct_target(version: str) -> Target:
    """Return PostgreSQL without a pooler."""
    return Target(
        name=DIRECT,
        brand=DIRECT,
        version=version,
        capabilities=frozenset({Capability.PREPARED}),
    )


def probe_target(brand: str, program: tuple[str, ...]) -> Target:
    """Ask a program for its version and return it as a target."""
    account = ACCOUNT if os.geteuid() == 0 else None
    command = [*program, "--version"]
    try:
        answer = _ask_version(command, account)
    except PermissionError:
        # An interpreter below /root, say: the pooler then runs as root.
        account = None
        answer = _ask_version(command, account)
    except OSError as error:
        raise PeerError(f"{' '.join(program)}: {error}") from error
    output = (answer.stdout + answer.stderr).strip()
    row = BRANDS[brand]
    match = re.search(row.version_pattern, output)
    if answer.returncode != 0 or match is None:
        raise PeerError(f"{' '.join(command)} does not tell a version:\n{output}")
    capabilities = {Capability.MANY_CLIENTS}
    if row.can_prepared(parse_version(match[1])):
        capabilities.add(Capability.PREPARED)
    if row.secure:
        capabilities.add(Capability.SECURE)
    return Target(
        name=f"{brand}-{match[1]}",
        brand=brand,
        program=program,
        version=match[1],
        version_output=output,
        account=account,
        capabilities=frozenset(capabilities),
    )


def pooler_targets(cores: int, before: str | None = None) -> list[Target]:
    """Return our pooler with one worker and, on several cores, with one for each.

    With one worker also where it keeps unnamed statements, for cases that have them.
    ``before`` is the program of another build, which is measured with one worker.
    """
    probed = probe_target("pooler", (sys.executable, "-m", "pooler"))
    targets = [replace(probed, name="pooler")]
    if cores > 1:
        targets.append(replace(probed, name="pooler-all", workers=cores))
    targets.append(replace(probed, name="pooler-cached", cache_unnamed=True))
    if before is not None:
        other = probe_target("pooler", (os.path.abspath(before),))
        targets.append(replace(other, name="pooler-before"))
    return targets


def find_pgbouncer() -> str | None:
    """Return the installed PgBouncer; sbin is not on everybody's PATH."""
    # Not ours, which goes by this name as well.
    own = os.path.dirname(sys.executable)
    listed = os.environ.get("PATH", os.defpath).split(os.pathsep)
    path = os.pathsep.join([*(one for one in listed if one != own), "/usr/sbin"])
    return shutil.which("pgbouncer", path=path)


def unique_names(targets: list[Target]) -> list[Target]:
    """Number targets that would share a name: two builds of one version."""
    seen: dict[str, int] = {}
    named = []
    for target in targets:
        count = seen[target.name] = seen.get(target.name, 0) + 1
        suffix = f"-{count}" if count > 1 else ""
        named.append(replace(target, name=target.name + suffix))
    return named


def write_files(target: Target, layout: Layout, directory: Path) -> dict[str, str]:
    """Write the target's files where its account can read them; return the texts."""
    if target.brand == DIRECT:
        return {}
    directory.mkdir(parents=True, exist_ok=True)
    files = BRANDS[target.brand].files(layout)
    for name, text in files.items():
        (directory / name).write_text(text)
    if BRANDS[target.brand].secure:
        _write_certificate(directory)
    if target.account is not None:
        owner = pwd.getpwnam(target.account)
        for path in (directory, *directory.iterdir()):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    return files


def _write_certificate(directory: Path) -> None:
    """What a target shows to clients by TLS; nobody checks it. ECDSA, P-256."""
    made = trustme.CA().issue_cert("localhost", key_type=trustme.KeyType.ECDSA)
    made.cert_chain_pems[0].write_to_path(directory / CERTIFICATE)
    made.private_key_pem.write_to_path(directory / KEY)
    (directory / KEY).chmod(0o600)


def command_of(
    target: Target, files: Mapping[str, str], login: Login = Login.TRUST
) -> list[str]:
    """Return the command line; the main configuration for trust is the first file."""
    config = config_name(next(iter(files)), login)
    # Without being told to, it does not run as root.
    as_root = target.brand == "pooler" and not target.account and os.geteuid() == 0
    return [*target.program, *(("-u", "root") if as_root else ()), config]


@contextlib.contextmanager
def running(
    target: Target,
    files: Mapping[str, str],
    directory: Path,
    address: Address,
    login: Login = Login.TRUST,
) -> Iterator[subprocess.Popen[bytes] | None]:
    """Run the target for the length of the block; ``None`` for direct."""
    if target.brand == DIRECT:
        yield None
        return
    log_path = directory / "output.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command_of(target, files, login),
            cwd=directory,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # A group of its own, so that no worker can outlive its master.
            start_new_session=True,
            **_identity(target.account),
        )
    try:
        try:
            wait_until_ready(address, START_TIMEOUT_S, process.poll, login)
        except ClientError as error:
            raise PeerError(f"{target.name}: {error}\n{log_tail(log_path)}") from error
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process, gently first, and whatever is left of its group."""
    for step, seconds in STOP_STEPS:
        if process.poll() is not None:
            break
        process.send_signal(step)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def log_tail(path: Path) -> str:
    """Return the end of what a target printed."""
    return path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()


def _ask_version(
    command: list[str], account: str | None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
        **_identity(account),
    )


def _environment() -> dict[str, str]:
    """Return an environment in which ``-m pooler`` is this tree's."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _identity(account: str | None) -> dict[str, Any]:
    if account is None:
        return {}
    return {"user": account, "group": pwd.getpwnam(account).pw_gid, "extra_groups": []}
