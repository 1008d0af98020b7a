# SPDX-License-Identifier: MIT
"""THE table of cases: what is asked of a target, and with which pgbench options."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SCALE: Final = 10
ROWS_COUNT: Final = 5_000
ROW_BYTES: Final = 100
VALUE_BYTES: Final = 1_000_000
IDLE_CLIENTS: Final = 5_000
IDLE_TLS_CLIENTS: Final = 2_000
STORM_CLIENTS: Final = 2_000
BUSY_CLIENTS: Final = 100
SILENT_CLIENTS: Final = 9_900
OVERLOAD_CLIENTS: Final = 40  # twice the pool


class Capability(StrEnum):
    """What a case needs that not every target has."""

    PREPARED = "prepared"  # protocol-level prepared statements in transaction mode
    MANY_CLIENTS = "many_clients"  # thousands of clients at once
    SECURE = "secure"  # configured here for SCRAM and TLS


class Kind(StrEnum):
    """How a case is measured."""

    LOAD = "load"  # pgbench
    IDLE = "idle"  # memory of clients that do nothing
    STORM = "storm"  # pgbench, while many log in at once


class Login(StrEnum):
    """How clients log in; a target has a configuration for each."""

    TRUST = "trust"
    SCRAM = "scram"
    TLS = "tls"  # and trust
    SCRAM_TLS = "scram-tls"

    @property
    def is_secured(self) -> bool:
        """Whether TLS is spoken."""
        return self in (Login.TLS, Login.SCRAM_TLS)

    @property
    def is_proven(self) -> bool:
        """Whether a password is asked for."""
        return self in (Login.SCRAM, Login.SCRAM_TLS)


@dataclass(frozen=True, slots=True)
class Case:
    """One row: ``script`` is a pgbench script, ``None`` the built-in select-only.

    ``sample_rate`` keeps a few thousand log lines per measurement, so that logging
    costs the load generator nothing one can measure. ``warmup`` is in transactions
    per client and not measured.
    """

    name: str
    about: str
    options: tuple[str, ...] = ()
    script: str | None = None
    clients: int = 16
    sample_rate: float = 0.05
    warmup: int = 200
    needs: Capability | None = None
    kind: Kind = Kind.LOAD
    unnamed: bool = False  # its statements have no names
    login: Login = Login.TRUST
    beside: int = 0  # clients that ran one query before and wait all the time


PIPELINE_LENGTH: Final = 8
PIPELINE: Final = "\n".join(
    [
        rf"\set aid random(1, {SCALE * 100_000})",
        r"\startpipeline",
        *["SELECT abalance FROM pgbench_accounts WHERE aid = :aid;"] * PIPELINE_LENGTH,
        r"\endpipeline",
        "",
    ]
)

CASES: Final = (
    Case("simple", "one indexed SELECT, simple protocol"),
    Case(
        "prepared",
        "the same SELECT, prepared once per client and then bound",
        options=("-M", "prepared"),
        needs=Capability.PREPARED,
    ),
    Case(
        "extended",
        "the same SELECT, unnamed Parse/Bind/Execute each time",
        options=("-M", "extended"),
        unnamed=True,
    ),
    Case(
        "pipeline8",
        "8 SELECTs in one pipeline, extended protocol; one transaction is all 8",
        options=("-M", "extended"),
        script=PIPELINE,
        unnamed=True,
    ),
    Case(
        "many_rows",
        f"a result of {ROWS_COUNT:,} rows of {ROW_BYTES} bytes",
        script="SELECT payload FROM bench_rows;\n",
        clients=8,
        sample_rate=1.0,
        warmup=20,
    ),
    Case(
        "big_value",
        f"a result of one value of {VALUE_BYTES:,} bytes",
        script="SELECT payload FROM bench_value;\n",
        clients=8,
        sample_rate=1.0,
        warmup=20,
    ),
    Case(
        "connect",
        "a new connection for each SELECT, trust",
        options=("-C",),
        sample_rate=1.0,
        warmup=20,
    ),
    Case(
        "connect_scram",
        "a new connection for each SELECT, SCRAM from a stored verifier",
        options=("-C",),
        sample_rate=1.0,
        warmup=20,
        needs=Capability.SECURE,
        login=Login.SCRAM,
    ),
    Case(
        "connect_scram_tls",
        "a new connection for each SELECT, SCRAM from a stored verifier, TLS 1.3",
        options=("-C",),
        sample_rate=1.0,
        warmup=20,
        needs=Capability.SECURE,
        login=Login.SCRAM_TLS,
    ),
    Case(
        "simple_tls",
        "one indexed SELECT, simple protocol, clients by TLS 1.3",
        needs=Capability.SECURE,
        login=Login.TLS,
    ),
    Case(
        "many_rows_tls",
        f"a result of {ROWS_COUNT:,} rows of {ROW_BYTES} bytes, clients by TLS 1.3",
        script="SELECT payload FROM bench_rows;\n",
        clients=8,
        sample_rate=1.0,
        warmup=20,
        needs=Capability.SECURE,
        login=Login.TLS,
    ),
    Case(
        "busy100",
        f"one indexed SELECT, simple protocol, {BUSY_CLIENTS} clients",
        clients=BUSY_CLIENTS,
        warmup=20,
        needs=Capability.MANY_CLIENTS,
    ),
    Case(
        "busy100_idle9900",
        f"the same, beside {SILENT_CLIENTS:,} clients that do nothing",
        clients=BUSY_CLIENTS,
        warmup=20,
        needs=Capability.MANY_CLIENTS,
        beside=SILENT_CLIENTS,
    ),
    Case(
        "overload",
        f"2 ms of sleep in PostgreSQL, {OVERLOAD_CLIENTS} clients for 20 servers",
        script="SELECT pg_sleep(0.002);\n",
        clients=OVERLOAD_CLIENTS,
        sample_rate=1.0,
        warmup=20,
        needs=Capability.MANY_CLIENTS,
    ),
    Case(
        "logins2000",
        f"one indexed SELECT of 8 clients, while {STORM_CLIENTS:,} others log in at"
        " once by SCRAM",
        clients=8,
        sample_rate=1.0,
        needs=Capability.SECURE,
        kind=Kind.STORM,
        login=Login.SCRAM,
    ),
    Case(
        "idle_tls2000",
        f"memory of {IDLE_TLS_CLIENTS:,} clients by TLS 1.3 that ran one query and"
        " then wait",
        clients=IDLE_TLS_CLIENTS,
        needs=Capability.SECURE,
        kind=Kind.IDLE,
        login=Login.TLS,
    ),
    Case(
        "idle5000",
        f"memory of {IDLE_CLIENTS:,} clients that ran one query and then wait",
        clients=IDLE_CLIENTS,
        needs=Capability.MANY_CLIENTS,
        kind=Kind.IDLE,
    ),
)
CASES_BY_NAME: Final = {case.name: case for case in CASES}

# STORAGE EXTERNAL: a compressed value would measure PostgreSQL's decompressor.
TABLES_SQL: Final = (
    "CREATE TABLE bench_rows (payload text)",
    "INSERT INTO bench_rows"
    f" SELECT rpad(n::text, {ROW_BYTES}, 'x') FROM generate_series(1, {ROWS_COUNT}) n",
    "CREATE TABLE bench_value (payload text)",
    "ALTER TABLE bench_value ALTER payload SET STORAGE EXTERNAL",
    f"INSERT INTO bench_value VALUES (repeat('x', {VALUE_BYTES}))",
    "VACUUM ANALYZE bench_rows",
    "VACUUM ANALYZE bench_value",
    "VACUUM ANALYZE pgbench_accounts",
    "CHECKPOINT",
)
