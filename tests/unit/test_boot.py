# SPDX-License-Identifier: MIT
"""What the configuration accepts, a worker can work with: at its start and by reload.

A worker is made without running it, for the extreme values of every setting and
for any text. A text is either refused when the file is read, or it works.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.board.page import Page
from pooler.config import changes, loading, travel
from pooler.config.kinds import MAX_SECONDS, MAX_WORKERS, Kind, Row, format_value
from pooler.config.model import Config
from pooler.config.settings import Database, Peer, Settings, User, rows
from pooler.errors import ConfigError, LoginError
from pooler.io.engine import Engine
from pooler.io.selector import EngineSelector
from pooler.ipc.board import Board
from pooler.ipc.bus import MASTER, Bus, BusMessage
from pooler.ipc.worker_start import WorkerStart
from pooler.parameters import (
    MAX_NAME_BYTES,
    MAX_TRACKED_PARAMETERS,
    TRACKED_PARAMETERS,
)
from pooler.worker import process
from pooler.worker.cancel import SLOT_BITS
from pooler.worker.names import Names
from pooler.worker.process import Worker

LONG = 65_536
# Of every kind: the smallest, the biggest, and what lies just outside.
WORDS = ("", "x", "'", "é", "x;y", "x..y", "x" * 63, "x" * 64, "x" * LONG)
ROWS = [
    (section, row)
    for section, table in (
        ("pgbouncer", Settings),
        ("databases", Database),
        ("users", User),
        ("peers", Peer),
    )
    for row in rows(table)
]
# They name files, which a test must not open.
FILES = {"conffile", "auth_file"}


def extremes(row: Row) -> list[str]:
    """The texts that a value can be driven to, in both directions and beyond."""
    match row.kind:
        case Kind.INT | Kind.DECIMAL | Kind.WORKERS:
            numbers = [row.low - 1, row.low, row.high, row.high + 1, 2**64]
            return [str(number) for number in numbers]
        case Kind.OCTAL:
            return ["00", f"0{row.high:o}", f"0{row.high + 1:o}"]
        case Kind.TIME:
            return ["0", "1e-9", str(MAX_SECONDS), str(10 * MAX_SECONDS), "1e308"]
        case Kind.BOOL:
            return ["0", "1", "2"]
        case Kind.ENUM:
            assert row.choices is not None
            return list(row.choices)
        case _:
            lists = [",".join(f"{word}{n}" for n in range(20)) for word in WORDS[:6]]
            many = ",".join("x" * n for n in range(1, 66))
            known = RIGHT.get(row.name, format_value(row, row.default))
            return [known, *WORDS, *lists, many]


# Where neither the default nor a word will do.
RIGHT = {
    "server_tls_protocols": "tlsv1.2",
    "server_tls_ciphers": "HIGH",
    "server_tls13_ciphers": "TLS_AES_128_GCM_SHA256",
}


def ini(section: str, name: str, text: str) -> str:
    """A file in which one setting says this."""
    quoted = "'" + text.replace("'", "''") + "'"
    entries = {
        "databases": "host=127.0.0.1",
        "users": "pool_size=1",
        "peers": "host=127.0.0.1",
    }
    if section in entries:
        entries[section] += f" {name}={quoted}"
    own = f"{name} = {text}" if section == "pgbouncer" else ""
    return (
        f"[databases]\nshop = {entries['databases']}\n"
        f"[users]\njoe = {entries['users']}\n"
        f"[peers]\n7 = {entries['peers']}\n"
        f"[pgbouncer]\nauth_type = any\n{own}\n"
    )


def start_of(config: Config) -> WorkerStart:
    """What the master would give to the last of its workers."""
    workers = config.worker_count
    return WorkerStart(
        slot=workers - 1,
        workers=workers,
        config=config,
        tcp_listeners=(),
        unix_listener=None,
        ready_fd=-1,
        master_fd=-1,
        bus=Bus.for_slots(1),
        board=Board.for_slots(workers),
        page=Page(workers, 64),
        mock_key=bytes(32),
    )


@dataclass
class Bench:
    """Makes workers; ``path`` is the file that they read at a reload."""

    path: Path

    def refusal(self, text: str) -> ConfigError | None:
        """Why the file cannot be used."""
        self.path.write_text(text)
        try:
            loading.load(self.path)
        except ConfigError as error:
            return error
        return None

    @contextlib.contextmanager
    def worker(self, text: str) -> Iterator[Worker]:
        self.path.write_text(text)
        start = start_of(loading.load(self.path))
        engine = process.make_engine(start)
        loop = asyncio.SelectorEventLoop(EngineSelector(engine))
        try:
            yield Worker(start, engine, loop)
        finally:
            # It is the limit of all engines of this process.
            engine.limit_messages(0x7FFF_FFFF)
            engine.close()
            loop.close()
            start.bus.close()
            start.board.close()

    def boots(self, text: str) -> None:
        """A worker starts with it, and takes it over from another and back."""
        with self.worker(text) as worker:
            exercise(worker)
            self.reload(worker, ini("pgbouncer", "verbose", "0"))
        with self.worker(ini("pgbouncer", "verbose", "0")) as worker:
            exercise(worker)
            self.reload(worker, text)

    def reload(self, worker: Worker, text: str) -> None:
        self.path.write_text(text)
        new = changes.reloaded(worker._pools.config, loading.load(self.path))
        fd = travel.pack(new)
        worker._on_reload(BusMessage("reload", {"verbose": 0}, (fd,), MASTER))
        os.close(fd)
        exercise(worker)


def exercise(worker: Worker) -> None:
    """Use what the configuration is given to."""
    pools = worker._pools
    database = pools.database("shop")
    assert database is not None
    for user in ("joe", "ann"):
        pools.get(database, user)
    worker._beat()
    for minor in (0, 2):
        worker._cancels.new_key(minor)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("boot")
    before = Path.cwd()
    os.chdir(directory)
    yield Bench(directory / "pooler.ini")
    os.chdir(before)


def test_limits_are_those_of_the_engine(bench: Bench) -> None:
    room = MAX_TRACKED_PARAMETERS - len(TRACKED_PARAMETERS)
    longest = [f"{n:x}".rjust(MAX_NAME_BYTES, "x") for n in range(room)]
    with bench.worker(ini("pgbouncer", "track_extra_parameters", ",".join(longest))):
        tracked = [*TRACKED_PARAMETERS.values(), *longest]
    for names in ([*tracked, "one_more"], ["x" * (MAX_NAME_BYTES + 1)]):
        with pytest.raises(ValueError, match="parameter"):
            Engine(names)
    assert MAX_WORKERS == SLOT_BITS + 1


@pytest.mark.parametrize("host", ["db..example", ".example", "x" * 64, "\x80"])
def test_host_that_can_be_no_name(host: str) -> None:
    """It is the trouble of one pool, as if nobody knew the name."""
    with pytest.raises(LoginError, match="server DNS lookup failed"):
        asyncio.run(Names(Settings()).find(host))


@pytest.mark.parametrize(
    ("section", "row"), ROWS, ids=[f"{one[0]}.{one[1].name}" for one in ROWS]
)
def test_extreme_values_are_refused_or_work(
    bench: Bench, section: str, row: Row
) -> None:
    worked = 0
    for text in extremes(row):
        said = ini(section, row.name, text)
        refused = bench.refusal(said)
        if refused is not None:
            assert refused.file == str(bench.path)
            assert row.name in str(refused)
            continue
        if row.name not in FILES:
            bench.boots(said)
        worked += 1
    # A database that names a file has to have it.
    assert worked or (section == "databases" and row.kind is Kind.PATH)


@given(
    st.sampled_from(
        [
            one
            for one in ROWS
            if one[1].kind in (Kind.STRING, Kind.PARAMETERS, Kind.LIST)
        ]
    ),
    st.text(),
)
def test_any_text_is_refused_or_works(
    bench: Bench, built: tuple[str, Row], text: str
) -> None:
    said = ini(built[0], built[1].name, text)
    if bench.refusal(said) is None:
        bench.boots(said)
