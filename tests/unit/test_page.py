# SPDX-License-Identifier: MIT
"""The accounts that all processes share: limits, wishes, and deaths in the middle."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pooler.board.page import Kind, Page, PageFull, Verdict

WORKERS = 3


@pytest.fixture
def page() -> Page:
    return Page(WORKERS, 64)


Accounts = tuple[int, int, int]


def accounts(page: Page, row: int, database: str = "d", user: str = "u") -> Accounts:
    return (
        page.open(row, Kind.POOL, database, user),
        page.open(row, Kind.DATABASE, database),
        page.open(row, Kind.USER, user),
    )


def take(
    page: Page,
    row: int,
    of: Accounts,
    *,
    pool: int = 0,
    database: int = 0,
    user: int = 0,
    now_us: int = 1,
) -> Verdict:
    return page.take_server(
        row, *of, now_us, pool_limit=pool, database_limit=database, user_limit=user
    )


@contextmanager
def child(work: Callable[[], None]) -> Iterator[int]:
    """A process that does ``work`` over and over until it is killed here."""
    pid = os.fork()
    if pid == 0:
        while True:
            work()
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_names_have_one_account_in_all_rows(page: Page) -> None:
    first = accounts(page, 0)
    assert accounts(page, 1) == first
    others = accounts(page, 1, "d", "v")
    assert others[1] == first[1]
    assert {others[0], others[2]}.isdisjoint(first)
    assert page.open(0, Kind.POOL, "du", "") != page.open(0, Kind.POOL, "d", "u")


def test_a_limit_is_the_sum_over_all_rows(page: Page) -> None:
    of = accounts(page, 0)
    taken = [take(page, row, of, pool=4) for row in (0, 1, 2, 0, 1, 2)]
    assert taken == [Verdict.TAKEN] * 4 + [Verdict.POOL_FULL] * 2
    assert page.total(of[0], "servers") == 4
    page.give_server(2, *of)
    assert take(page, 1, of, pool=4) is Verdict.TAKEN


def test_the_first_limit_in_the_way_is_told_and_nothing_is_taken(page: Page) -> None:
    of = accounts(page, 0)
    assert take(page, 0, of) is Verdict.TAKEN
    assert take(page, 0, of, database=1, user=1) is Verdict.DATABASE_FULL
    assert take(page, 0, of, database=2, user=1) is Verdict.USER_FULL
    assert [page.total(account, "servers") for account in of] == [1, 1, 1]


def test_who_was_refused_is_found_by_who_gives(page: Page) -> None:
    of = accounts(page, 0)
    take(page, 0, of, pool=1)
    assert page.wanting(of[0]) == []
    take(page, 2, of, pool=1, now_us=10)
    take(page, 1, of, pool=1, now_us=20)
    take(page, 2, of, pool=1, now_us=30)
    assert page.wanting(of[0]) == [2, 1]
    page.unwant(2, of[0])
    assert page.wanting(of[0]) == [1]
    assert page.wanting(of[1]) == []


def test_clients_are_counted_by_three_limits(page: Page) -> None:
    of = (
        page.open(0, Kind.EVERYBODY),
        page.open(0, Kind.DATABASE, "d"),
        page.open(0, Kind.USER, "u"),
    )

    def come(row: int, *limits: int) -> Verdict:
        everybody, database, user = limits
        return page.take_client(
            row, *of, limit=everybody, database_limit=database, user_limit=user
        )

    assert come(0, 2, 0, 0) is Verdict.TAKEN
    assert come(1, 2, 1, 0) is Verdict.DATABASE_FULL
    assert come(1, 2, 2, 1) is Verdict.USER_FULL
    assert come(1, 2, 2, 2) is Verdict.TAKEN
    assert come(2, 2, 3, 3) is Verdict.ALL_FULL
    page.give_client(0, *of)
    assert come(2, 2, 3, 3) is Verdict.TAKEN
    with pytest.raises(ValueError, match="no client"):
        page.give_client(0, *of)


def test_clients_are_told_by_kind_and_names(page: Page) -> None:
    everybody = page.open(0, Kind.EVERYBODY)
    database = page.open(0, Kind.DATABASE, "d")
    user = page.open(0, Kind.USER, "u")
    for row in (0, 1):
        page.take_client(
            row, everybody, database, user, limit=0, database_limit=0, user_limit=0
        )
    assert page.clients(Kind.EVERYBODY) == 2
    assert page.clients(Kind.DATABASE, "d") == page.clients(Kind.USER, "u") == 2
    in_use = page.accounts_in_use()
    assert page.clients(Kind.DATABASE, "u") == page.clients(Kind.POOL, "d", "u") == 0
    assert page.accounts_in_use() == in_use  # a question opens none


def test_a_server_that_moves_changes_no_sum(page: Page) -> None:
    of = accounts(page, 0)
    take(page, 0, of)
    page.move_server(0, 2, *of)
    assert [page.cell(of[0], row)["servers"] for row in range(WORKERS)] == [0, 0, 1]
    with pytest.raises(ValueError, match="no server"):
        page.move_server(0, 2, *of)
    with pytest.raises(ValueError, match="no server"):
        page.give_server(0, *of)


def test_what_a_dead_worker_has_left_counts_until_it_is_gone(page: Page) -> None:
    of = accounts(page, 1)
    for _ in range(3):
        take(page, 1, of)
    page.set(1, of[0], "waiting", 7)
    page.clear_row(1, [of, of])
    assert page.cell(of[0], 1) == dict.fromkeys(page.cell(of[0], 1), 0)
    assert page.total(of[0], "servers") == 2
    assert take(page, 0, of, pool=2) is Verdict.POOL_FULL
    page.give_server(page.left_row, *of)
    assert take(page, 0, of, pool=2) is Verdict.TAKEN


def test_accounts_that_nobody_has_are_used_again(page: Page) -> None:
    for i in range(3 * page.capacity):
        of = accounts(page, 0, f"d{i}", f"u{i}")
        take(page, 0, of)
        for account in of:
            page.close(0, account)  # it still counts a server
        assert page.accounts_in_use() == 3
        page.give_server(0, *of)
        assert page.accounts_in_use() == 0


@pytest.mark.parametrize("seed", range(20))
def test_what_was_used_once_is_no_part_of_a_search(seed: int) -> None:
    """Else each search would look at every place, once so many names have been here."""
    chance = random.Random(seed)
    page = Page(WORKERS, 64)
    held: dict[str, int] = {}
    for _ in range(400):
        name = f"u{chance.randrange(60)}"
        if name in held:
            page.close(0, held.pop(name))
        elif len(held) < 16:
            held[name] = page.open(0, Kind.USER, name)
        for other, account in held.items():  # everybody is still found
            assert page.open(1, Kind.USER, other) == account
            page.close(1, account)
    for account in held.values():
        page.close(0, account)
    assert page.accounts_gone() == 0


def test_a_full_page_says_so_and_goes_on(page: Page) -> None:
    names = [f"d{i}" for i in range(page.capacity)]
    held = [page.open(0, Kind.DATABASE, name) for name in names]
    assert len(set(held)) == page.capacity
    with pytest.raises(PageFull, match="64 pools"):
        page.open(0, Kind.DATABASE, "one more")
    assert [page.open(1, Kind.DATABASE, name) for name in names] == held
    page.clear_row(0)
    page.close(1, held[5])
    assert page.open(0, Kind.DATABASE, "one more") == held[5]


def test_no_row_and_no_account_out_of_bounds(page: Page) -> None:
    with pytest.raises(IndexError):
        page.open(WORKERS + 1, Kind.EVERYBODY)
    with pytest.raises(IndexError):
        page.close(0, page.capacity)
    with pytest.raises(IndexError):
        page.clear_row(WORKERS + 1)


# How long things took


def counted(page: Page, *names: str) -> list[int]:
    """How many were measured of each kind, by all rows."""
    told = page.times(Kind.POOL, *names)
    assert told is not None
    return [sum(counts.values()) for _, counts in told]


STEPS = [1 << bit for bit in range(37)]


@pytest.mark.parametrize("us", [0, *STEPS, *(5 * step - 1 for step in STEPS[:-3])])
def test_a_time_is_told_to_a_quarter(us: int) -> None:
    page = Page(1, 4)
    page.note_time(0, page.open(0, Kind.POOL, "d", "u"), 2, us)
    told = page.times(Kind.POOL, "d", "u")
    assert told is not None
    assert told[:2] == [(0, {}), (0, {})]
    most_us, counts = told[2]
    ((end_us, count),) = counts.items()
    assert (most_us, count) == (us, 1)
    assert us <= end_us <= us * 1.25


def test_times_beyond_all_are_in_the_last_bucket(page: Page) -> None:
    pool = page.open(0, Kind.POOL, "d", "u")
    for us in (1 << 37, 1 << 63, (1 << 64) - 1):
        page.note_time(0, pool, 0, us)
    ((most_us, counts), *_) = page.times(Kind.POOL, "d", "u") or []
    assert most_us == (1 << 64) - 1
    assert list(counts.values()) == [3]
    with pytest.raises(ValueError, match="nothing that is measured"):
        page.note_time(0, pool, 4, 1)


def test_times_are_sums_over_workers_and_outlive_them(page: Page) -> None:
    pool = page.open(0, Kind.POOL, "d", "u")
    assert page.open(1, Kind.POOL, "d", "u") == pool
    for row, us in ((0, 1), (0, 900), (1, 5)):
        page.note_time(row, pool, 1, us)
    assert counted(page, "d", "u") == [0, 3, 0]
    page.clear_row(0)
    page.clear_row(1)
    assert page.times(Kind.POOL, "d", "u") is None  # nobody has it
    assert page.open(0, Kind.POOL, "d", "u") == pool
    assert counted(page, "d", "u") == [0, 3, 0]


def test_a_query_that_is_a_transaction_counts_as_both(page: Page) -> None:
    pool = page.open(0, Kind.POOL, "d", "u")
    for timed, us in ((3, 9), (3, 9), (1, 3), (2, 20)):
        page.note_time(1, pool, timed, us)
    nothing: dict[int, int] = {}
    assert page.times(Kind.POOL, "d", "u") == [
        (0, nothing),
        (9, {3: 1, 9: 2}),
        (20, {9: 2, 23: 1}),
    ]


def test_times_are_of_no_other_name(page: Page) -> None:
    """Whoever gets the place of an account that is gone begins anew."""
    for i in range(3 * page.capacity):
        pool = page.open(0, Kind.POOL, "d", f"u{i}")
        assert counted(page, "d", f"u{i}") == [0, 0, 0]
        page.note_time(1, pool, 0, 7)
        page.close(0, pool)


def test_many_processes_never_take_more_than_the_limit(page: Page) -> None:
    """Three take and give for a while; a fourth looks at the sum meanwhile."""
    of = accounts(page, 0)
    pids = []
    for row in range(WORKERS):
        pid = os.fork()
        if pid == 0:
            held = 0
            rng = random.Random(row)
            for _ in range(30_000):
                if held and rng.random() < 0.5:
                    page.give_server(row, *of)
                    held -= 1
                elif take(page, row, of, pool=5) is Verdict.TAKEN:
                    held += 1
            for _ in range(held):
                page.give_server(row, *of)
            os._exit(0)
        pids.append(pid)
    most = 0
    while pids:
        gone, status = os.waitpid(-1, os.WNOHANG)
        if gone:
            assert status == 0
            pids.remove(gone)
        # cells are read one after the other, so a sum may be one of no moment
        most = max(most, *(page.cell(of[0], row)["servers"] for row in range(WORKERS)))
    assert most <= 5
    assert page.total(of[0], "servers") == 0


def test_a_death_at_any_instant_leaves_the_page_correctable(page: Page) -> None:
    """A worker is killed between any two of its instructions, 150 times."""
    of = accounts(page, 0)
    take(page, 0, of)
    rng = random.Random(1)

    def work() -> None:
        mine = accounts(page, 1)
        take(page, 1, mine)
        take(page, 1, mine)
        page.give_server(1, *mine)
        for account in mine:
            page.close(1, account)

    for _ in range(150):
        with child(work):
            end = time.monotonic() + rng.random() * 0.004
            while time.monotonic() < end:
                pass
        # What is read has the mutex that the dead one may have had.
        page.clear_row(1)
        counts = [page.cell(account, 1) for account in of]
        assert all(not any(cells.values()) for cells in counts)
        assert [page.cell(account, 0)["servers"] for account in of] == [1, 1, 1]


def test_the_oldest_idle_is_found_by_pool_database_and_user(page: Page) -> None:
    here = accounts(page, 0)
    there = accounts(page, 0, "d", "v")
    elsewhere = accounts(page, 0, "e", "u")
    for row, of, since_us in ((0, here, 30), (1, there, 20), (2, elsewhere, 10)):
        assert take(page, row, of) is Verdict.TAKEN
        page.set(row, of[0], "idle", 1)
        page.set(row, of[0], "idle_since_us", since_us)
    assert page.oldest_idle(here[0]) == (0, here[0])
    assert page.oldest_idle(here[1]) == (1, there[0])
    assert page.oldest_idle(here[2]) == (2, elsewhere[0])
    page.set(2, elsewhere[0], "waiting", 1)  # it has somebody to serve
    assert page.oldest_idle(here[2]) == (0, here[0])
    page.set(0, here[0], "idle", 0)
    page.set(1, there[0], "idle", 0)
    assert page.oldest_idle(here[1]) is None


def test_an_account_that_is_used_again_belongs_to_nobody_of_before(page: Page) -> None:
    of = accounts(page, 0)
    assert take(page, 0, of) is Verdict.TAKEN
    page.give_server(0, *of)
    for account in of:
        page.close(0, account)
    assert page.accounts_in_use() == 0
    for name in range(64):  # all of them
        page.open(0, Kind.POOL, "d", str(name))
        page.set(0, name, "idle", 1)
        page.set(0, name, "idle_since_us", 1)
    assert page.oldest_idle(of[0]) == (0, of[0])  # as itself only
