# SPDX-License-Identifier: MIT
"""A cable that somebody pulls out: packets are lost, and nobody is told.

The pooler runs in a network namespace of its own, which a pair of virtual interfaces
connects with ours. Its Unix socket is reached without that cable. Needs root.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import DATABASE, USER, Pooler, wait_until
from tests.integration.meddler import Meddler
from tests.wire_client import WireClient, query

pytestmark = [pytest.mark.full, pytest.mark.timeout(120)]

SLEEP = "SELECT pg_sleep(60)"
NOBODY = "02:00:00:00:00:99"
NUMBERS = itertools.count(step=7)
SOON_S = 10.0  # what a dead peer is noticed in, with the settings below
NOTICED = {
    "tcp_keepalive": 1, "tcp_keepidle": 1, "tcp_keepintvl": 1, "tcp_keepcnt": 2,
    "tcp_user_timeout": 2000,
}  # fmt: skip


@dataclass
class Cable:
    """Between us and a namespace; ``ours`` and ``theirs`` are its ends' addresses."""

    namespace: str
    link: str
    ours: str
    theirs: str

    def within(self, *command: str) -> tuple[str, ...]:
        """The command, to be run in the namespace."""
        return ("ip", "netns", "exec", self.namespace, *command)

    def lay(self) -> None:
        """Make the namespace, and connect it; CalledProcessError if that is refused."""
        far = f"{self.link}p"
        ip("netns", "add", self.namespace)
        ip("link", "add", self.link, "type", "veth",
           "peer", far, "netns", self.namespace)  # fmt: skip
        ip("address", "add", f"{self.ours}/30", "dev", self.link)
        ip("link", "set", self.link, "up")
        for words in (
            f"address add {self.theirs}/30 dev {far}",
            f"link set {far} up",
            "link set lo up",
        ):
            ip("-n", self.namespace, *words.split())

    def pull(self) -> None:
        """Whatever is sent from now on is lost, in both directions.

        An interface that is down would be told to who sends; a wrong address is not.
        """
        for words in self._neighbours():
            ip(*words, "lladdr", NOBODY, "nud", "permanent")

    def plug_in(self) -> None:
        """It is whole again."""
        for words in self._neighbours():
            ip(*(word.replace("replace", "delete") for word in words))

    def _neighbours(self) -> Iterator[tuple[str, ...]]:
        yield ("neighbour", "replace", self.theirs, "dev", self.link)
        yield ("-n", self.namespace, "neighbour", "replace", self.ours,
               "dev", f"{self.link}p")  # fmt: skip

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "delete", self.namespace], check=False)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def cable() -> Iterator[Cable]:
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2")
    number = (os.getpid() + next(NUMBERS)) % 16_000  # the last one may still be there
    third, fourth = divmod(number * 4, 256)
    made = Cable(
        f"pooler-{number}",
        f"pooler{number}",
        f"198.18.{third}.{fourth + 1}",
        f"198.18.{third}.{fourth + 2}",
    )
    try:
        made.lay()
    except subprocess.CalledProcessError as error:
        made.remove()
        if b"not permitted" not in error.stderr:
            raise
        pytest.skip(f"no network namespaces here: {error.stderr.decode()}")
    yield made
    made.remove()


@pytest.fixture
def far_postgres(cable: Cable, postgres: Postgres) -> Iterator[Meddler]:
    """PostgreSQL at our end of the cable."""
    meddler = Meddler(postgres.port, 1, cable.ours, postgres.port)
    meddler.heal()
    yield meddler
    meddler.close()


MakeFar = Callable[..., Pooler]


@pytest.fixture
def far_pooler(cable: Cable, postgres: Postgres, tmp_path: Path) -> Iterator[MakeFar]:
    """A pooler at the far end; reached by its Unix socket, too."""
    made: list[Pooler] = []

    def make(database: str, **settings: object) -> Pooler:
        pooler = Pooler(
            tmp_path,
            postgres.port,
            {DATABASE: f"dbname={DATABASE} {database}"},
            {
                "listen_addr": cable.theirs,
                "unix_socket_dir": tmp_path,
                "workers": 2,
                **NOTICED,
                **settings,
            },
            program=cable.within(sys.executable, "-m", "pooler"),
        )
        made.append(pooler)
        return pooler.start()

    yield make
    for pooler in made:
        pooler.finish()


def near(pooler: Pooler) -> WireClient:
    """A client that needs no cable."""
    return WireClient(pooler.port, path=pooler.unix_path).login(USER, DATABASE)


def backends(postgres: Postgres, what: str) -> int:
    (row,) = postgres.psql(
        f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{USER}' AND {what}"
    )
    return int(row[0])


def test_a_server_falls_silent(
    cable: Cable, far_postgres: Meddler, far_pooler: MakeFar, postgres: Postgres
) -> None:
    """Who waits for its answer hears so; the next one has a new server."""
    pooler = far_pooler(
        f"host={cable.ours} port={far_postgres.port}",
        server_connect_timeout=1,
        server_login_retry=0.5,
        query_wait_timeout=60,
    )
    with near(pooler) as client, near(pooler) as other:
        assert other.value("SELECT 1") == "1"
        client.send(query(SLEEP))
        at_work = "query LIKE '%pg_sleep%' AND state = 'active'"
        wait_until(lambda: backends(postgres, at_work) == 1, "the query is at work")
        cable.pull()
        begun_s = time.monotonic()
        assert client.read_fatal()["C"] == "08006"
        assert time.monotonic() - begun_s < SOON_S
        other.send(query("SELECT 2"))  # waits
        cable.plug_in()
        assert [one.body[-1:] for one in other.read_until("Z") if one.code == "D"] == [
            b"2"
        ]


def test_a_dead_host_stops_no_pool(
    cable: Cable, far_postgres: Meddler, far_pooler: MakeFar, postgres: Postgres
) -> None:
    """The other one serves; the dead one is asked again when it may live."""
    pooler = far_pooler(
        f"host={cable.ours},{postgres.socket_dir} port={far_postgres.port}",
        server_connect_timeout=1,
        server_idle_timeout=1,
    )
    cable.pull()
    with near(pooler) as client:
        begun_s = time.monotonic()
        assert client.value("SELECT 1") == "1"
        assert time.monotonic() - begun_s < SOON_S


def test_clients_fall_silent(
    cable: Cable, far_pooler: MakeFar, postgres: Postgres
) -> None:
    """Their places and servers are free again, and what they had begun is undone."""
    pooler = far_pooler(f"host={postgres.socket_dir} port={postgres.port}")
    clients = [WireClient(pooler.port, host=cable.theirs) for _ in range(6)]
    for client in clients[:3]:
        client.login(USER, DATABASE).ask(query("BEGIN"))
    for client in clients[3:]:
        client.login(USER, DATABASE).value("SELECT 1")
    assert backends(postgres, "state = 'idle in transaction'") == 3
    cable.pull()
    wait_until(
        lambda: backends(postgres, "state = 'idle in transaction'") == 0,
        "transactions end",
        SOON_S,
    )
    wait_until(lambda: pooler.sockets_of_workers() == 0, "places are free", SOON_S)
    cable.plug_in()
    with WireClient(pooler.port, host=cable.theirs).login(USER, DATABASE) as client:
        assert client.value("SELECT 1") == "1"
    for client in clients:
        client.close()
