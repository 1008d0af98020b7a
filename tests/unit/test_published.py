# SPDX-License-Identifier: MIT
"""``pgbouncer.ini`` files as people have them: each that PgBouncer takes is taken.

``tests/published`` has them. PgBouncer 1.24.1 starts with each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pooler.config.kinds import AuthType, PoolMode
from pooler.config.loading import load
from pooler.config.model import Config

FILES = Path(__file__).resolve().parents[1] / "published"
# What each is to be read as, by a look at its lines.
READ: dict[str, Callable[[Config], tuple[object, object]]] = {
    "quickstart": lambda c: (
        (c.settings.auth_type, c.settings.admin_users, sorted(c.userlist)),
        (AuthType.MD5, ("someuser",), ["app", "pgbouncer", "postgres", "someuser"]),
    ),
    "managed": lambda c: (
        (c.settings.pool_mode, sorted(c.databases), c.settings.stats_users),
        (PoolMode.TRANSACTION, ["reports"], ("stats", "datadog")),
    ),
    "bitnami": lambda c: (
        (c.databases["appdb"].connect_query, c.settings.max_prepared_statements),
        ("SET search_path TO app, public", 200),
    ),
    "k8s": lambda c: (
        (c.databases["app"].password, c.settings.query_wait_timeout),
        ("it's secret", 120.5),
    ),
    "spacing": lambda c: (
        (
            c.databases["shop"].user,
            c.databases["shop"].dbname,
            c.settings.pool_mode,
            c.settings.stats_users,
            c.settings.server_reset_query,
        ),
        ("o'brien", "my shop", PoolMode.TRANSACTION, ("a", "b", "c"), ""),
    ),
    "debian": lambda c: (
        (c.settings.auth_type, sorted(c.databases), c.settings.peer_id),
        (AuthType.HBA, [], 1),
    ),
}


def test_each_file_has_a_row() -> None:
    assert set(READ) == {one.stem for one in FILES.glob("*.ini")} - {"common"}


@pytest.mark.parametrize("name", READ)
def test_what_pgbouncer_takes_is_taken(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FILES)
    read, wanted = READ[name](load(Path(f"{name}.ini")))
    assert read == wanted
