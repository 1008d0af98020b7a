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


class Capability(StrEnum):
    """What a case needs that not every target has."""

    PREPARED = "prepared"  # protocol-level prepared statements in transaction mode
    MANY_CLIENTS = "many_clients"  # thousands of clients at once


class Kind(StrEnum):
    """How a case is measured."""

    LOAD = "load"  # pgbench
    IDLE = "idle"  # memory of clients that do nothing


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
