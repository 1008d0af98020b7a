# SPDX-License-Identifier: MIT
"""Trips over the hosts of a database: who is tried, in which order, for how long."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Hashable
from typing import cast

import pytest

from pooler.config.kinds import LoadBalance
from pooler.config.settings import Settings
from pooler.errors import SQLCLIENT_UNABLE_TO_CONNECT, LocalResourceError, LoginError
from pooler.io.links import Links
from pooler.login.server import ServerLoginError
from pooler.worker.health import LONGEST_PAUSE_S, Health
from pooler.worker.hosts import Address, Hosts, Target, Trip, blames_host
from pooler.worker.names import Names
from pooler.worker.resolver import Ip

A, B, C = "127.0.0.1", "127.0.0.2", "127.0.0.3"
REFUSED = LoginError("connect failed", SQLCLIENT_UNABLE_TO_CONNECT)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class KnownNames(Names):
    """Names with answers that the test gives; None: nobody answers."""

    def __init__(self, known: dict[str, tuple[str, ...] | None] | None = None) -> None:
        super().__init__(Settings())
        self.known = known or {}
        self.asked: list[str] = []

    async def find(self, host: str) -> tuple[Ip, ...]:
        if host not in self.known:
            return await super().find(host)
        self.asked.append(host)
        found = self.known[host]
        if found is None:
            await asyncio.Event().wait()
            raise AssertionError
        if not found:
            raise LoginError(f"no {host}", SQLCLIENT_UNABLE_TO_CONNECT)
        return tuple(Ip(socket.AF_INET, text) for text in found)

    def answers_at_once(self, host: str) -> bool:
        return self.known.get(host, ()) is not None


class Town:
    """Hosts without sockets."""

    def __init__(self, names: KnownNames | None = None, first_turn: int = 0) -> None:
        self.clock = Clock()
        self.health = Health(self.clock, lambda: 1.0)
        self.names = names or KnownNames()
        self.hosts = Hosts(
            cast("Links", None), self.names, self.health, first_turn=first_turn
        )
        self.probes: list[str] = []
        self.hosts.probe_if_due = self._probe  # type: ignore[method-assign]

    def _probe(self, address: Address, *, direct: bool) -> None:
        if self.health.begin_probe(address):
            self.probes.append(address.sockaddr[0])

    def probed(self, text: str, *, answered: bool) -> None:
        self.health.probed(Address(socket.AF_INET, (text, 5432)), answered=answered)

    def trip(self, *listed: str, sticky: bool = False, limit_s: float = 0.0) -> Trip:
        balance = LoadBalance.DISABLE if sticky else LoadBalance.ROUND_ROBIN
        return Trip(self.hosts, listed, 5432, balance=balance, limit_s=limit_s)


def text(target: Target) -> str:
    found: str = target.address.sockaddr[0]
    return found


async def way(trip: Trip, works: str = "") -> list[str]:
    """Who is tried until one works."""
    tried = []
    while (target := await trip.next()) is not None:
        tried.append(text(target))
        if text(target) == works:
            trip.worked(target)
            break
        trip.failed(target, REFUSED)
    return tried


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(10):
            await scene()

    asyncio.run(run())


def test_hosts_take_turns_in_each_database() -> None:
    async def scene() -> None:
        town = Town()
        mixed = []
        for _ in range(3):  # two databases that open servers in turn
            mixed.append(text_of(await town.trip(A, B, C).next()))
            mixed.append(text_of(await town.trip(A, B).next()))
        assert mixed == [A, A, B, B, C, A]

    play(scene)


def test_workers_begin_at_different_hosts() -> None:
    async def scene() -> None:
        first = [await Town(first_turn=slot).trip(A, B, C).next() for slot in range(4)]
        assert [text(one) for one in first if one] == [A, B, C, A]

    play(scene)


def test_addresses_of_a_name_take_turns() -> None:
    async def scene() -> None:
        town = Town(KnownNames({"db": (A, B)}))
        assert await way(town.trip("db"), works=A) == [A]
        assert await way(town.trip("db"), works=B) == [B]
        assert await way(town.trip("db"), works=A) == [A]

    play(scene)


def test_without_balance_one_is_kept_until_it_fails() -> None:
    async def scene() -> None:
        town = Town()
        for _ in range(3):
            assert await way(town.trip(A, B, C, sticky=True), works=A) == [A]
        assert await way(town.trip(A, B, C, sticky=True), works=B) == [A, B]
        town.clock.now_s += 1000
        for _ in range(3):  # also when the first one is back
            assert await way(town.trip(A, B, C, sticky=True), works=B) == [B]

    play(scene)


def test_who_has_failed_comes_last_and_is_knocked_at_once() -> None:
    async def scene() -> None:
        town = Town()
        assert await way(town.trip(A, B), works=B) == [A, B]
        for _ in range(4):
            assert await way(town.trip(A, B), works=B) == [B]
        assert town.probes == []
        town.clock.now_s += 1.0
        for _ in range(4):
            assert await way(town.trip(A, B), works=B) == [B]
        assert town.probes == [A]  # by one of them
        town.probed(A, answered=False)
        for _ in range(4):
            assert await way(town.trip(A, B), works=B) == [B]
        assert town.probes == [A]
        town.clock.now_s += 2.0  # twice the first pause
        for _ in range(4):
            assert await way(town.trip(A, B), works=B) == [B]
        assert town.probes == [A, A]
        town.probed(A, answered=True)
        tried = [await way(town.trip(A, B), works=A) for _ in range(2)]
        assert sorted(tried) == [[A], [B, A]]

    play(scene)


def test_one_that_answers_and_lets_nobody_in_waits_longer_each_time() -> None:
    town = Town()
    address = Address(socket.AF_INET, (A, 5432))
    pauses = []
    for _ in range(9):
        town.health.failed(address)
        town.health.failed(address)  # logins that fail at once are one failure
        pauses.append(town.health.due_s(address) - town.clock.now_s)
        town.clock.now_s = town.health.due_s(address)
        assert town.health.begin_probe(address)
        town.health.probed(address, answered=True)
        assert town.health.is_well(address)
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == LONGEST_PAUSE_S
    town.health.worked(address)
    town.health.failed(address)
    assert town.health.due_s(address) == town.clock.now_s + 1.0


def test_when_all_have_failed_all_are_tried_nevertheless() -> None:
    """With one host all is as if nobody counted: server_login_retry decides."""

    async def scene() -> None:
        town = Town()
        for _ in range(3):
            assert await way(town.trip(A)) == [A]
        assert await way(town.trip(A, B, C)) == [B, C, A]
        town.clock.now_s += 1000
        assert sorted(await way(town.trip(A, B, C))) == [A, B, C]
        assert town.probes == []

    play(scene)


def test_time_is_shared_by_those_who_may_still_be_tried() -> None:
    async def scene() -> None:
        town = Town(KnownNames({"db": (B, C)}))
        now_s = asyncio.get_running_loop().time
        trip = town.trip(A, "db", limit_s=12.0)
        shares = []
        while (target := await trip.next()) is not None:
            until_s = trip.until_s()
            assert until_s is not None
            shares.append(round(until_s - now_s()))
            trip.failed(target, REFUSED)
        assert shares == [6, 6, 12]  # nobody took any of it
        assert text_of(await town.trip(A, limit_s=0.0).next()) == A
        lone = town.trip(A)
        await lone.next()
        assert lone.until_s() is None

    play(scene)


def text_of(target: Target | None) -> str:
    assert target is not None
    return text(target)


def test_fifty_addresses_get_a_second_each_and_the_rest_comes_next_time() -> None:
    many = tuple(f"127.0.1.{number}" for number in range(50))

    async def scene() -> None:
        town = Town(KnownNames({"db": many}))
        trip = town.trip("db", limit_s=15.0)
        assert await trip.next()
        until_s = trip.until_s()
        assert until_s is not None
        assert round(until_s - asyncio.get_running_loop().time(), 1) == 1.0
        assert len(await way(town.trip("db"))) == 50

    play(scene)


def test_no_time_is_left() -> None:
    async def scene() -> None:
        trip = Town().trip(A, B, limit_s=1e-9)
        assert await trip.next() is None

    play(scene)


def test_a_name_that_nobody_answers_for_holds_up_one_login(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pooler.worker.hosts.SHORTEST_TRY_S", 0.01)

    async def scene() -> None:
        names = KnownNames({"silent": None})
        town = Town(names)
        assert await way(town.trip("silent", A, limit_s=0.1), works=A) == [A]
        assert names.asked == ["silent"]
        for _ in range(4):
            assert await way(town.trip("silent", A, limit_s=0.1), works=A) == [A]
        assert names.asked == ["silent"]
        # where nothing else is left it is waited for
        alone = town.trip("silent", limit_s=0.05)
        assert await alone.next() is None
        assert "silent: no answer in time" in alone.error.message
        names.known["silent"] = (B,)
        tried = [await way(town.trip("silent", A), works=B) for _ in range(2)]
        assert sorted(tried) == [[A, B], [B]]

    play(scene)


@pytest.mark.parametrize(
    ("listed", "problem"),
    [
        (("silent", "here"), None),
        (("gone", "here"), None),
        (("gone",), "no gone"),
        (("gone", "silent"), "silent: no answer in time"),
    ],
)
def test_one_known_host_is_enough(listed: tuple[str, ...], problem: str | None) -> None:
    async def scene() -> None:
        hosts = Town(KnownNames({"silent": None, "gone": (), "here": (A,)})).hosts
        if problem is None:
            await hosts.find_one(listed, 5.0)
            return
        with pytest.raises(LoginError, match=problem):
            await hosts.find_one(listed, 0.05)

    play(scene)


def test_a_name_without_an_address_is_passed_over() -> None:
    async def scene() -> None:
        town = Town(KnownNames({"gone": ()}))
        assert await way(town.trip("gone", A), works=A) == [A]
        lone = town.trip("gone")
        assert await lone.next() is None
        assert lone.error.message == "no gone"

    play(scene)


def test_unix_sockets_stand_in_lists() -> None:
    async def scene() -> None:
        trip = Town().trip("/run/pg", "@pg", "::1")
        found = []
        while (target := await trip.next()) is not None:
            found.append((target.address.sockaddr, str(target)))
            trip.failed(target, REFUSED)
        assert found == [
            ("/run/pg/.s.PGSQL.5432", "unix:/run/pg/.s.PGSQL.5432"),
            ("\0pg/.s.PGSQL.5432", "unix:@pg/.s.PGSQL.5432"),
            (("::1", 5432, 0, 0), "[::1]:5432"),
        ]

    play(scene)


def test_a_name_is_told_with_its_address() -> None:
    assert str(Target("db", Address(socket.AF_INET, (A, 5432)))) == f"db, {A}:5432"


def server_error(sqlstate: str, said: str | None = "no") -> ServerLoginError:
    return ServerLoginError("no", sqlstate, server_message=said)


@pytest.mark.parametrize(
    ("error", "another"),
    [
        (REFUSED, True),
        (server_error("57P03"), True),
        (server_error("53300"), True),
        (server_error("57P01"), True),
        (server_error("28P01"), False),
        (server_error("3D000"), False),
        (server_error("28P01", None), False),
        (LocalResourceError("no descriptor", SQLCLIENT_UNABLE_TO_CONNECT), False),
        (LoginError("connect_query has left a transaction open"), False),
    ],
)
def test_who_is_to_blame(error: LoginError, another: bool) -> None:
    assert blames_host(error) is another


def test_what_one_worker_has_found_out_is_known_to_others() -> None:
    """Each failure once, however many hear of it; nobody tells what it was told."""

    async def scene() -> None:
        here, there = Town(), Town()
        told: list[tuple[str, str]] = []

        def tell(place: Hashable, what: str) -> None:
            assert isinstance(place, Address)
            told.append((place.sockaddr[0], what))
            there.health.heard(place, what)

        here.health.tell = tell
        there.health.tell = lambda *_: told.append(("there", "told on"))
        assert await way(here.trip(A, B), works=B) == [A, B]
        assert await way(here.trip(A, B), works=B) == [B]
        assert told == [(A, "failed")]
        assert await way(there.trip(A, B), works=B) == [B]
        place = Address(socket.AF_INET, (A, 5432))
        assert not there.health.is_well(place)
        here.health.probed(place, answered=True)
        assert there.health.is_well(place)
        there.health.worked(place)
        assert told == [(A, "failed"), (A, "answered"), ("there", "told on")]

    play(scene)
