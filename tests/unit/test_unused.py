# SPDX-License-Identifier: MIT
"""Pools of the engine that go; what they have counted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pooler.console.stats import COUNTERS
from pooler.io.engine import Engine
from pooler.worker.past import TOTALS, Past


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine(["application_name"])
    yield made
    made.close()


def test_a_pool_that_is_gone_is_no_pool(engine: Engine) -> None:
    first, second = engine.pool_create(5), engine.pool_create(5)
    assert engine.pools_empty() == {first: 0, second: 0}
    assert engine.pool_drop(first)
    assert engine.pools_empty() == {second: 0}
    for use in (engine.pool_stats, engine.pool_drop, engine.pool_learned):
        with pytest.raises(LookupError):
            use(first)


def test_ids_come_again(engine: Engine) -> None:
    """So a table of pools is never longer than there were at once."""
    made = [engine.pool_create(5) for _ in range(50)]
    for pool_id in made[10:40]:
        assert engine.pool_drop(pool_id)
    again = [engine.pool_create(7) for _ in range(30)]
    assert sorted(again) == made[10:40]
    assert engine.pool_stats(again[0])["max_servers"] == 7
    assert engine.pool_create(5) == 50


def test_a_pool_that_waits_for_a_server_does_not_go(engine: Engine) -> None:
    pool_id = engine.pool_create(5)
    assert engine.pool_prelaunch(pool_id)
    assert engine.pools_empty() == {}
    assert not engine.pool_drop(pool_id)
    engine.pool_launch_failed(pool_id)
    assert engine.pool_drop(pool_id)


def test_all_that_is_shown_is_kept(engine: Engine) -> None:
    """Each counter of SHOW STATS, and each that adds up is one of a pool."""
    stats = engine.pool_stats(engine.pool_create(5))
    assert set(COUNTERS) <= set(TOTALS) <= set(stats)


def test_totals_add_up_by_database() -> None:
    past = Past()
    past.add("shop", dict.fromkeys(TOTALS, 2))
    past.add("shop", dict.fromkeys(TOTALS, 3))
    past.add("other", dict.fromkeys(TOTALS, 1))
    rows = {row["database"]: row for row in past.rows()}
    assert rows["shop"]["queries"] == 5
    past.forget("shop")
    past.forget("unknown")
    assert [row["database"] for row in past.rows()] == ["other"]
