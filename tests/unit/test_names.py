# SPDX-License-Identifier: MIT
"""Names: what is asked, when, and who waits. A DNS server of the test answers."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from pooler.config.settings import Settings
from pooler.errors import LoginError
from pooler.worker import names as names_module
from pooler.worker.names import Names, literal
from pooler.worker.resolver import read_resolv_conf
from tests.name_server import SERVFAIL, SOA, NameServer

DEADLINE_S = 10.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NameServer]:
    one = NameServer(tmp_path)
    yield one
    one.close()


class Clock:
    """Time that only the test moves."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def play(
    server: NameServer,
    clock: Callable[[], float],
    scene: Callable[[Names], Awaitable[None]],
    **settings: object,
) -> None:
    """Run a scene with fresh names."""

    async def run() -> None:
        async with asyncio.timeout(DEADLINE_S):
            chosen = Settings(resolv_conf=str(server.resolv_conf), **settings)  # type: ignore[arg-type]
            names = Names(chosen, clock)
            try:
                await scene(names)
            finally:
                names.end()
                rest = asyncio.all_tasks() - {asyncio.current_task()}
                await asyncio.gather(*rest, return_exceptions=True)

    asyncio.run(run())


async def texts(names: Names, host: str) -> list[str]:
    return [ip.text for ip in await names.find(host)]


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


@pytest.mark.parametrize(
    ("host", "family", "text"),
    [
        ("127.0.0.1", socket.AF_INET, "127.0.0.1"),
        ("127.1", socket.AF_INET, "127.0.0.1"),
        ("::1", socket.AF_INET6, "::1"),
        ("fe80::1%lo", socket.AF_INET6, "fe80::1"),
    ],
)
def test_an_address_asks_nobody(host: str, family: int, text: str) -> None:
    number = literal(host)
    assert number is not None
    assert (number.family, number.text.partition("%")[0]) == (family, text)
    if "%" in host:
        assert number.scope == socket.if_nametoindex("lo")


def test_a_scope_that_is_not_here_is_an_error() -> None:
    with pytest.raises(LoginError, match="fe80::1%nowhere"):
        literal("fe80::1%nowhere")


@pytest.mark.parametrize("host", ["db..x", "x" * 64, ".db", "a." * 127 + "b", "é" * 70])
def test_what_can_be_no_name_is_said_at_once(
    server: NameServer, clock: Clock, host: str
) -> None:
    async def scene(names: Names) -> None:
        with pytest.raises(LoginError, match=r"DNS lookup failed: .*no host name"):
            await names.find(host)
        assert not names.host_rows()

    play(server, clock, scene)


def test_a_silent_name_holds_up_neither_numbers_nor_other_names(
    server: NameServer, clock: Clock
) -> None:
    """A silent resolver for eight other entries held up 127.0.0.1 for 12 s."""
    silent = [f"silent{number}.example" for number in range(8)]
    for host in silent:
        server.silence(host)
    server.set("db.example", "127.0.0.2")

    async def scene(names: Names) -> None:
        waiting = [asyncio.ensure_future(names.find(host)) for host in silent]
        await until(lambda: all(server.asked(host) for host in silent))
        assert await texts(names, "127.0.0.1") == ["127.0.0.1"]
        assert await texts(names, "db.example") == ["127.0.0.2"]
        assert not any(one.done() for one in waiting)
        assert names.counts()["dns_queries"] == 8
        for host in silent:
            server.set(host, "127.0.0.3")
        assert [len(found) for found in await asyncio.gather(*waiting)] == [1] * 8

    play(server, clock, scene)


def test_one_question_for_all_who_wait_and_one_in_a_ttl(
    server: NameServer, clock: Clock
) -> None:
    server.silence("db.example")

    async def scene(names: Names) -> None:
        waiting = [asyncio.ensure_future(names.find("db.example")) for _ in range(20)]
        await until(lambda: server.asked("db.example"))
        waiting[0].cancel()  # who gives up does not end the question
        await asyncio.sleep(0)
        server.set("db.example", "127.0.0.2", "127.0.0.3")
        for one in waiting[1:]:
            assert [ip.text for ip in await one] == ["127.0.0.2", "127.0.0.3"]
        assert server.asked("db.example") == 1
        clock.now_s += 14.9
        assert names.host_rows() == [("db.example", 0, "127.0.0.2,127.0.0.3")]
        await names.find("db.example")
        assert server.asked("db.example") == 1
        clock.now_s += 0.1
        await names.find("db.example")
        assert server.asked("db.example") == 2

    play(server, clock, scene)


def test_the_ttl_is_ours_not_the_record_s(server: NameServer, clock: Clock) -> None:
    """c-ares would keep an answer for as long as its record says: an hour."""
    server.set("db.example", "127.0.0.2")

    async def scene(names: Names) -> None:
        assert await texts(names, "db.example") == ["127.0.0.2"]
        clock.now_s += 15.0
        server.set("db.example", "127.0.0.3")
        assert await texts(names, "db.example") == ["127.0.0.3"]

    play(server, clock, scene)


def test_that_there_is_no_such_name_is_kept_for_its_own_time(
    server: NameServer, clock: Clock
) -> None:
    async def scene(names: Names) -> None:
        for _ in range(3):
            with pytest.raises(
                LoginError, match=r"gone\.example: Domain name not found"
            ):
                await names.find("gone.example")
        assert server.asked("gone.example") == 1
        server.set("gone.example", "127.0.0.2")
        clock.now_s += 5.0
        assert await texts(names, "gone.example") == ["127.0.0.2"]

    play(server, clock, scene, dns_nxdomain_ttl=5.0)


def test_a_name_without_addresses_is_an_error(server: NameServer, clock: Clock) -> None:
    server.set("empty.example")

    async def scene(names: Names) -> None:
        with pytest.raises(LoginError, match=r"empty\.example: .*no data"):
            await names.find("empty.example")

    play(server, clock, scene)


def test_fifty_addresses_are_all_found(server: NameServer, clock: Clock) -> None:
    """Too much for one UDP packet of old; this one has no limit of 512 bytes."""
    many = [f"127.0.1.{number}" for number in range(50)]
    server.set("many.example", *many)

    async def scene(names: Names) -> None:
        assert sorted(await texts(names, "many.example")) == sorted(many)

    play(server, clock, scene)


def test_both_families_are_asked_for(server: NameServer, clock: Clock) -> None:
    server.set("db.example", "127.0.0.2", "::1")

    async def scene(names: Names) -> None:
        assert sorted(await texts(names, "db.example")) == ["127.0.0.2", "::1"]

    play(server, clock, scene)


def test_the_old_answer_serves_while_the_name_server_is_silent(
    server: NameServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names_module, "PATIENCE_S", 0.05)
    server.set("db.example", "127.0.0.2")

    async def scene(names: Names) -> None:
        await names.find("db.example")
        server.silence("db.example")
        clock.now_s += 15.0
        for _ in range(3):
            assert await texts(names, "db.example") == ["127.0.0.2"]
        assert names.counts()["dns_queries"] == 1
        server.set("db.example", "127.0.0.3")
        await until(lambda: not names.counts()["dns_queries"])
        assert await texts(names, "db.example") == ["127.0.0.3"]

    play(server, clock, scene)


def test_a_failing_name_server_takes_no_address_away(
    server: NameServer, clock: Clock
) -> None:
    server.set("db.example", "127.0.0.2")

    async def scene(names: Names) -> None:
        await names.find("db.example")
        server.fail("db.example", SERVFAIL)
        clock.now_s += 15.0
        assert await texts(names, "db.example") == ["127.0.0.2"]
        server.fail("db.example")  # but the word that there is no such name does
        clock.now_s += 15.0
        with pytest.raises(LoginError, match="not found"):
            await names.find("db.example")

    play(server, clock, scene)


def test_a_move_is_told_and_the_old_address_is_not_the_name_s_any_more(
    server: NameServer, clock: Clock
) -> None:
    server.set("db.example", "127.0.0.2", "127.0.0.3")

    async def scene(names: Names) -> None:
        moves: list[bool] = []
        names.moved = lambda: moves.append(names.has("db.example", "127.0.0.2"))
        assert names.has("db.example", "127.0.0.2")  # nobody has asked yet
        await names.find("db.example")
        assert moves == [True]
        server.set("db.example", "127.0.0.3", "127.0.0.2")  # the order is no change
        clock.now_s += 15.0
        await names.find("db.example")
        assert moves == [True]
        server.fail("db.example")
        clock.now_s += 15.0
        with pytest.raises(LoginError):
            await names.find("db.example")
        assert names.has("db.example", "127.0.0.2")  # a server that runs is no worse
        server.set("db.example", "127.0.0.3")
        clock.now_s += 15.0
        await names.find("db.example")
        assert moves == [True, False]
        assert names.has("db.example", "127.0.0.3")

    play(server, clock, scene)


def test_a_new_serial_of_the_zone_asks_for_all_its_names(
    server: NameServer, clock: Clock
) -> None:
    server.serial("example", 7)
    server.set("db.example", "127.0.0.2")
    server.set("db.other", "127.0.0.2")

    async def scene(names: Names) -> None:
        await names.find("db.example")
        await names.find("db.other")
        await until(lambda: server.asked("example", SOA) > 1)
        assert ("example", 7, 1) in names.zone_rows()
        assert server.asked("db.example") == 1
        server.set("db.example", "127.0.0.3")
        server.serial("example", 8)
        await until(lambda: names.has("db.example", "127.0.0.3"))
        assert not names.has("db.example", "127.0.0.2")
        assert names.zone_rows() == [("example", 8, 1), ("other", 0, 1)]
        assert server.asked("db.other") == 1

    play(server, clock, scene, dns_zone_check_period=0.02)


def test_a_reload_forgets_names_that_nobody_has_any_more(
    server: NameServer, clock: Clock
) -> None:
    server.set("db.example", "127.0.0.2")
    server.set("db.other", "127.0.0.2")

    async def scene(names: Names) -> None:
        await names.find("db.example")
        await names.find("db.other")
        settings = Settings(resolv_conf=str(server.resolv_conf), dns_max_ttl=1.0)
        names.use(settings, {"db.example"})
        assert [row[0] for row in names.host_rows()] == ["db.example"]
        assert [row[0] for row in names.zone_rows()] == ["example"]
        clock.now_s += 15.0
        await names.find("db.example")
        assert names.host_rows() == [("db.example", 1, "127.0.0.2")]

    play(server, clock, scene)


def test_resolv_conf_is_read(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# a comment\nnameserver 127.0.0.1:5353 ; another\nnameserver\n"
        "nameserver ::1\nsearch a.example b.example\nunknown thing\n"
        "options ndots:2 timeout:3 attempts:4 rotate edns0 ndots:x\n"
    )
    assert read_resolv_conf(str(path)) == {
        "servers": ["127.0.0.1:5353", "::1"],
        "domains": ["a.example", "b.example"],
        "ndots": 2,
        "timeout": 3,
        "tries": 4,
        "rotate": True,
    }


def test_the_search_list_is_used(server: NameServer, clock: Clock) -> None:
    with server.resolv_conf.open("a") as file:
        file.write("search deep.example\n")
    server.set("db.deep.example", "127.0.0.2")

    async def scene(names: Names) -> None:
        assert await texts(names, "db") == ["127.0.0.2"]

    play(server, clock, scene)


def test_a_resolv_conf_that_is_gone_is_an_error(
    server: NameServer, clock: Clock
) -> None:
    server.resolv_conf.unlink()

    async def scene(names: Names) -> None:
        with pytest.raises(LoginError, match=r"db\.example: .*No such file"):
            await names.find("db.example")

    play(server, clock, scene)


def test_etc_hosts_is_read(server: NameServer, clock: Clock) -> None:
    """As PgBouncer's c-ares does; the DNS server is not asked."""

    async def scene(names: Names) -> None:
        assert "127.0.0.1" in await texts(names, "localhost")
        assert server.asked("localhost") == 0

    play(server, clock, scene)


def test_settings_have_what_names_read() -> None:
    """The names of the settings above are no invention of this file."""
    known = {field.name for field in dataclasses.fields(Settings)}
    assert {"dns_max_ttl", "dns_nxdomain_ttl", "dns_zone_check_period"} <= known
