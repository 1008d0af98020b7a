# SPDX-License-Identifier: MIT
"""PostgreSQL, a database for each way, and the poolers; made new for each scenario."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Self

from pooler.demo.postgres import Postgres
from tests.conformance.script import close
from tests.differential.messages import Scenario
from tests.differential.peer import Peer
from tests.integration.harness import Pooler, wait_until
from tests.wire_client import SYNC, WireClient, bind, execute, parse, query

USER = "app"
ROLE = "other"
STRAIGHT, POOLED, PACER = "straight", "pooled", "postgres"
POOL_SIZES = {1: "one", 2: "two"}
DEADLINE_S = 10.0

# No autovacuum: it makes plans invalid when it likes.
POSTGRES_SETTINGS = {"autovacuum": "off", "max_connections": "60"}
SETUP = f"""
DROP SCHEMA IF EXISTS public, a, b CASCADE;
CREATE SCHEMA public; CREATE SCHEMA a; CREATE SCHEMA b;
CREATE TABLE public.t (id int, v text);
CREATE TABLE a.t (id int, v text);
CREATE TABLE b.t (id int, v text);
INSERT INTO public.t VALUES (1, 'public'), (2, 'public');
INSERT INTO a.t VALUES (1, 'a');
INSERT INTO b.t VALUES (1, 'b'), (2, 'b'), (3, 'b');
CREATE TABLE public.w (who int, n int, txt text, UNIQUE (who, n));
CREATE TABLE public.d1 (x int, y text);
INSERT INTO public.d1 VALUES (1, 'one');
CREATE SEQUENCE public.sq;
CREATE FUNCTION public.run(sql text) RETURNS int LANGUAGE plpgsql
    AS 'BEGIN EXECUTE sql; RETURN 1; END';
CREATE PROCEDURE public.run_it(sql text) LANGUAGE plpgsql
    AS 'BEGIN EXECUTE sql; COMMIT; END';
CREATE FUNCTION public.set_path(path text) RETURNS text LANGUAGE plpgsql
    AS 'BEGIN RETURN set_config(''search_path'', path, false); END';
CREATE FUNCTION public.find_t() RETURNS text LANGUAGE plpgsql
    AS 'BEGIN RETURN (SELECT min(v) FROM t); END';
CREATE FUNCTION public.make_temp() RETURNS int LANGUAGE plpgsql
    AS 'BEGIN CREATE TEMP TABLE t AS SELECT 7 AS id, ''tmp''::text AS v; RETURN 7; END';
CREATE FUNCTION public.whoami() RETURNS name LANGUAGE sql AS 'SELECT current_user';
GRANT ALL ON SCHEMA public, a, b TO {ROLE};
GRANT ALL ON ALL TABLES IN SCHEMA public, a, b TO {ROLE};
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {ROLE};
"""
# Enough where no DDL was run.
ROWS = """
TRUNCATE public.w, public.d1;
INSERT INTO public.d1 VALUES (1, 'one');
ALTER SEQUENCE public.sq RESTART;
"""
# What DISCARD ALL does, but for what follows a client: its prepared statements and the
# tracked parameters.
CLEANING = (
    "close all",
    "reset session authorization",
    "reset role",
    "reset search_path",
    "reset extra_float_digits",
    "reset bytea_output",
    "reset work_mem",
    "reset default_transaction_deferrable",
    "reset default_transaction_isolation",
    "reset default_transaction_read_only",
    "reset client_min_messages",
    "reset statement_timeout",
    "unlisten *",
    "discard temp",
    "discard sequences",
    "select pg_advisory_unlock_all()",
)
_CLEANER = "differential_cleaner"


class Bed:
    """A context manager; gives the connections of a scenario."""

    def __init__(self, server: Postgres, directory: Path) -> None:
        self.server = server
        self._directory = directory
        self.ddl_was_run = True  # since the last ``renew``
        self._poolers: dict[int, Pooler] = {}
        self._pacers: dict[int, WireClient] = {}
        self._admin = WireClient(server.port).login("postgres", "postgres")
        self._admin.rows(f"CREATE ROLE {USER} LOGIN")
        self._admin.rows(f"CREATE ROLE {ROLE}")
        self._admin.rows(f"GRANT {ROLE} TO {USER}")
        self._owners = []
        for name in (STRAIGHT, POOLED):
            self._admin.rows(f"CREATE DATABASE {name} OWNER {USER}")
            with WireClient(server.port) as client:
                client.login("postgres", name)
                client.rows(f"ALTER SCHEMA public OWNER TO {USER}")
            self._owners.append(WireClient(server.port).login(USER, name))
        self.detour = 0  # a port to take instead of the pooler's
        self._owner_pids = {
            int(one.value("SELECT pg_backend_pid()")) for one in self._owners
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._admin, *self._owners, *self._pacers.values()):
            one.close()
        problems = []
        for pooler in self._poolers.values():
            try:
                pooler.finish()
            except AssertionError as problem:
                problems.append(problem)
        assert not problems, problems

    def pooler(self, most_statements: int) -> Pooler:
        """The pooler with this max_prepared_statements, started when first wanted."""
        if most_statements not in self._poolers:
            directory = self._directory / f"pooler{most_statements}"
            directory.mkdir()
            databases = {
                alias: f"dbname={POOLED} pool_size={size}"
                for size, alias in POOL_SIZES.items()
            }
            databases[PACER] = ""
            settings: dict[str, object] = {"max_prepared_statements": most_statements}
            made = Pooler(directory, self.server.port, databases, settings)
            self._poolers[most_statements] = made
            made.start()
            pacer = WireClient(made.port).login("postgres", PACER)
            self._pacers[most_statements] = pacer
        return self._poolers[most_statements]

    def pace(self, most_statements: int) -> None:
        """Return when the pooler's worker has read what was sent to it before."""
        self._pacers[most_statements].ask(query(""))

    def renew(self) -> None:
        """New tables on both ways, and no server of the pool is left from before."""
        keep = ", ".join(map(str, self._owner_pids))
        where = f"datname IN ('{STRAIGHT}', '{POOLED}') AND pid NOT IN ({keep})"
        # More than once, because the pooler may open one for whom it has lost.
        end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {where}"
        wait_until(lambda: not self._admin.rows(end), "servers end")
        sql = SETUP if self.ddl_was_run else ROWS
        for owner in self._owners:
            owner.rows(sql)
        self.ddl_was_run = False

    def straight(self, scenario: Scenario, client: int) -> Peer:
        """A client's connection to PostgreSQL."""
        return Peer(self.server.port, USER, STRAIGHT, scenario.logins[client])

    def pooled(self, scenario: Scenario, client: int) -> Peer:
        """The same client's connection to the pooler."""
        port = self.detour or self.pooler(scenario.max_prepared_statements).port
        database = POOL_SIZES[scenario.pool_size]
        return Peer(port, USER, database, scenario.logins[client])


def clean(peer: Peer) -> None:
    """Clear a straight session as the pooler clears a server; see ``CLEANING``."""
    parts = [
        parse(sql, _CLEANER)
        + bind(statement=_CLEANER, portal=_CLEANER)
        + execute(_CLEANER)
        + close(_CLEANER, "P")
        + close(_CLEANER, "S")
        for sql in CLEANING
    ]
    peer.send(b"".join(parts) + SYNC)
    deadline = time.monotonic() + DEADLINE_S
    while (one := peer.read(deadline)).code != "Z":
        assert one.code != "E", one.fields
