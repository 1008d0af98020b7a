# SPDX-License-Identifier: MIT
"""A user whom a reload takes out of auth_file loses clients and servers."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import (
    DATABASE,
    USER,
    MakePooler,
    Pooler,
    backends,
    wait_until,
)
from tests.wire_client import WireClient, query, startup

WORKERS = (1, 2)
BOTH = f'"{USER}" ""\n"other" ""\n"chief" ""\n'
LEFT = '"other" ""\n"chief" ""\n'


def take_out(pooler: Pooler, userlist: str) -> None:
    pooler.userlist = userlist
    pooler.write()
    with pooler.connect("pgbouncer", "chief", autocommit=True) as operator:
        operator.execute("reload")


def is_logging_in(operator: psycopg.Connection[Any]) -> bool:
    return ("login_clients", 1) in operator.execute("show lists").fetchall()


def is_sent_away(client: WireClient) -> bool:
    told = client.read_fatal()
    return (told["C"], told["M"]) == ("57P01", "user removed")


@pytest.mark.parametrize("workers", WORKERS)
def test_clients_and_servers_go(
    make_pooler: MakePooler, postgres: Postgres, workers: int
) -> None:
    """Whatever they do; also those that share a pool with users who stay."""
    pooler = make_pooler(
        {DATABASE: "", "shared": f"dbname={DATABASE} user=postgres"},
        userlist=BOTH,
        workers=workers,
        auth_type="trust",
        admin_users="chief",
    )
    with (
        pooler.client() as idle,
        pooler.client() as works,
        pooler.client("shared") as shares,
        pooler.wire().login("other", "shared") as stays,
    ):
        assert idle.value("SELECT 1") == shares.value("SELECT 1") == "1"
        works.ask(query("BEGIN"))
        take_out(pooler, LEFT)
        assert is_sent_away(idle)
        assert is_sent_away(works)
        assert is_sent_away(shares)
        assert stays.value("SELECT 2") == "2"
        wait_until(lambda: not backends(postgres), "servers go")
        assert f"clients of user '{USER}', who was taken out" in pooler.log()
        with pytest.raises(psycopg.OperationalError):
            pooler.connect()
        take_out(pooler, BOTH)
        with pooler.client() as back:
            assert back.value("SELECT 3") == "3"


def test_a_login_that_waits_ends(make_pooler: MakePooler) -> None:
    pooler = make_pooler(
        {DATABASE: ""}, userlist=BOTH, auth_type="trust", admin_users="chief"
    )
    with pooler.connect("pgbouncer", "chief", autocommit=True) as operator:
        operator.execute("pause")
        with pooler.wire() as waits:
            waits.send(startup(USER, DATABASE))
            wait_until(lambda: is_logging_in(operator), "it logs in")
            take_out(pooler, LEFT)
            assert is_sent_away(waits)
            operator.execute("resume")


def test_who_is_asked_for_elsewhere_stays(make_pooler: MakePooler) -> None:
    """auth_query may know the user still; with ``any``, names mean nothing."""
    for settings in ({"auth_user": "postgres"}, {"auth_type": "any"}):
        pooler = make_pooler(
            {DATABASE: ""},
            userlist=BOTH,
            admin_users="chief",
            **{"auth_type": "trust", **settings},
        )
        with pooler.client() as client:
            take_out(pooler, LEFT)
            assert client.value("SELECT 1") == "1"
