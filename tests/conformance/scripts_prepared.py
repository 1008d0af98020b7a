# SPDX-License-Identifier: MIT
"""The protocol scripts of prepared statements: over transactions, and over servers.

Every batch may be served by another server; ``WAYS`` has a way where each one is.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from tests.conformance.script import (
    INSERT,
    TRUNCATE,
    Script,
    Step,
    batch,
    close,
    simple,
)
from tests.wire_client import (
    FLUSH,
    SYNC,
    bind,
    describe,
    execute,
    parse,
    query,
)

LONG_NAME = "conf_" + "n" * 200
ADD = "SELECT $1::int + 1"
FAIL = "SELECT 1 / ($1::int - 1)"
TEXTS = "SELECT $1::text, $2::int"


def _run(name: str, *values: bytes, portal: str = "") -> bytes:
    return bind(*values, statement=name, portal=portal) + execute(portal)


def _close_all(*names: str) -> Step:
    return batch(*(close(name, "S") for name in names))


def _named_scripts() -> list[Script]:
    return [
        Script("prepared once, run in many transactions", (
            batch(parse(ADD, "s"), describe("s", "S")),
            batch(_run("s", b"1")),
            batch(bind(b"2", statement="s"), describe(), execute()),
            simple("SELECT 1"),
            batch(_run("s", b"3") + _run("s", b"4")),
            _close_all("s"),
            batch(_run("s", b"5")),
        )),
        Script("prepared, run and closed in one batch, twice", (
            batch(parse(ADD, "s"), _run("s", b"1"), close("s", "S")),
            batch(parse(TEXTS, "s"), _run("s", b"a", b"1"), close("s", "S")),
        )),
        Script("one text under two names", (
            batch(parse(ADD, "s1"), parse(ADD, "s2")),
            batch(_run("s1", b"1"), _run("s2", b"2")),
            batch(close("s1", "S"), _run("s2", b"2"), describe("s2", "S")),
            batch(_run("s1", b"1")),
            _close_all("s2"),
        )),
        Script("prepared by Flush", (
            (parse(ADD, "s") + describe("s", "S") + FLUSH, "1T"),
            (bind(b"1", statement="s") + FLUSH, "2"),
            (execute() + FLUSH, "C"),
            (close("s", "S") + FLUSH, "3"),
            (parse(ADD, "s") + FLUSH, "1"),
            (SYNC, "Z"),
            batch(_run("s", b"2")),
            _close_all("s"),
        )),
        Script("more statements than a server keeps", (
            *(batch(parse(f"SELECT {i}, $1::int", f"s{i}")) for i in range(12)),
            *(batch(_run(f"s{i}", b"1")) for i in range(12)),
            batch(*(_run(f"s{i}", b"2") for i in reversed(range(12)))),
            _close_all(*(f"s{i}" for i in range(12))),
        )),
    ]  # fmt: skip


def _name_scripts() -> list[Script]:
    """Names that are taken, unknown, long."""
    return [
        Script("name that is taken", (
            batch(parse(ADD, "s")),
            batch(parse(TEXTS, "s"), _run("s", b"1")),
            batch(parse("SELECT oops", "s")),
            batch(parse("syntax error", "s")),
            batch(_run("s", b"1")),
            batch(close("s", "S"), parse(TEXTS, "s"), _run("s", b"b", b"2")),
            _close_all("s"),
        )),
        Script("name that is taken, in a transaction block", (
            batch(parse(ADD, "s")),
            simple("BEGIN"),
            batch(parse(TEXTS, "s")),
            batch(_run("s", b"1")),
            simple("ROLLBACK"),
            batch(_run("s", b"1")),
            _close_all("s"),
        )),
        Script("unknown names", (
            batch(_run("nobody", b"1")),
            batch(describe("nobody", "S")),
            batch(close("nobody", "S"), close("nobody", "S")),
            batch(_run("pooler_0_1", b"1")),
            batch(describe("pooler_0_2", "S")),
            simple("EXECUTE pooler_0_1"),
        )),
        Script("long name", (
            batch(parse(ADD, LONG_NAME), describe(LONG_NAME, "S")),
            batch(_run(LONG_NAME, b"1")),
            batch(parse(ADD, LONG_NAME)),
            batch(_run(LONG_NAME[:63], b"1")),
            batch(_run(LONG_NAME[:62], b"1")),
            _close_all(LONG_NAME),
        )),
    ]  # fmt: skip


def _transaction_scripts() -> list[Script]:
    return [
        Script("closed in a transaction that is rolled back", (
            batch(parse(ADD, "s")),
            simple("BEGIN"),
            _close_all("s"),
            simple("ROLLBACK"),
            batch(_run("s", b"1")),
        )),
        Script("prepared in a transaction that is rolled back", (
            simple("BEGIN"),
            batch(parse(ADD, "s")),
            simple("ROLLBACK"),
            batch(_run("s", b"1")),
            _close_all("s"),
        )),
        Script("statement of a table that comes and goes", (
            simple("CREATE TABLE gone (a int)"),
            batch(parse("SELECT a FROM gone", "s")),
            batch(_run("s")),
            simple("DROP TABLE gone"),
            batch(_run("s")),
            simple("CREATE TABLE gone (a int); INSERT INTO gone VALUES (7)"),
            batch(_run("s")),
            simple("DROP TABLE gone"),
            _close_all("s"),
        )),
        Script("BEGIN and COMMIT are prepared, too", (
            TRUNCATE,
            batch(parse("BEGIN", "b"), parse("COMMIT", "c"), parse(INSERT, "i")),
            batch(_run("b")), batch(_run("i")), batch(_run("c")),
            batch(_run("b") + _run("i") + _run("c")),
            simple("SELECT count(*) FROM conf"),
            _close_all("b", "c", "i"),
            TRUNCATE,
        )),
    ]  # fmt: skip


def _unnamed_scripts() -> list[Script]:
    return [
        Script("unnamed statement, parsed again and again", tuple(
            batch(parse(ADD), bind(str(i).encode()), describe(), execute())
            for i in range(5)
        )),
        Script("unnamed statement over Syncs", (
            batch(parse(ADD), describe(kind="S")),
            batch(bind(b"1"), execute()),
            batch(bind(b"2"), execute()),
            batch(parse(TEXTS)),
            batch(bind(b"a", b"1"), execute()),
            batch(close("", "S")),
            batch(bind(b"1"), execute()),
        )),
        Script("unnamed statement ends with a Query", (
            batch(parse(ADD), _run("", b"1")),
            simple("SELECT 1"),
            batch(_run("", b"1")),
            batch(describe(kind="S")),
        )),
        Script("unnamed statement after a failed Parse", (
            batch(parse(ADD), _run("", b"1")),
            batch(parse("SELECT oops")),
            batch(_run("", b"1")),
        )),
        Script("unnamed statement that was skipped", (
            batch(parse(ADD), _run("", b"1")),
            batch(_run("nobody"), parse(TEXTS)),
            batch(_run("", b"2")),
        )),
    ]  # fmt: skip


def _sql_scripts() -> list[Script]:
    return [
        Script("SQL PREPARE over transactions", (
            simple("PREPARE conf_q (int) AS SELECT $1 + 1"),
            simple("EXECUTE conf_q(1)"),
            simple("EXECUTE conf_q(2)"),
            simple("explain (costs off) execute conf_q(2)"),
            batch(bind(b"3", statement="conf_q"), describe(), execute()),
            batch(describe("conf_q", "S")),
            simple("PREPARE conf_q AS SELECT 2"),
            simple("DEALLOCATE conf_q"),
            simple("EXECUTE conf_q(1)"),
            simple("DEALLOCATE conf_q"),
        )),
        Script("SQL PREPARE that fails", (
            simple("PREPARE conf_q AS SELECT oops"),
            simple("EXECUTE conf_q"),
            simple("PREPARE conf_q AS SELECT 1"),
            simple("EXECUTE conf_q"),
            simple("EXECUTE conf_q(1)"),
            simple("DEALLOCATE conf_q"),
        )),
        Script("SQL names are identifiers", (
            simple('PREPARE "Conf Q" AS SELECT 1'),
            simple("/* hi */ execute \"Conf Q\" -- bye"),
            simple('EXECUTE "conf q"'),
            simple("PREPARE CONF_U AS SELECT 2"),
            simple("EXECUTE conf_u"),
            simple('DEALLOCATE "Conf Q"; DEALLOCATE conf_u'),
            simple('PREPARE"conf_t"as SELECT 3'),
            simple('EXECUTE"conf_t"'),
            batch(parse('EXECUTE"conf_t"'), bind(), execute()),
            simple('DEALLOCATE"conf_t"'),
        )),
        Script("PREPARE before what fails", (
            simple("PREPARE conf_q AS SELECT 1; SELECT 1 / 0"),
            simple("EXECUTE conf_q"),
            simple("DEALLOCATE conf_q"),
        )),
        Script("many commands in one Query", (
            simple("PREPARE q1 AS SELECT 1; EXECUTE q1; PREPARE q2 AS SELECT 2"),
            simple("EXECUTE q2; SELECT 3; EXECUTE q1"),
            simple("DEALLOCATE q1; EXECUTE q2; DEALLOCATE q2"),
            simple("EXECUTE q1"),
        )),
        Script("commands in a transaction block", (
            simple("BEGIN"),
            simple("PREPARE conf_q AS SELECT 1"),
            simple("ROLLBACK"),
            simple("EXECUTE conf_q"),
            simple("BEGIN"), simple("SELECT oops"), simple("EXECUTE conf_q"),
            simple("DEALLOCATE conf_q"), simple("ROLLBACK"),
            simple("EXECUTE conf_q"),
            simple("DEALLOCATE conf_q"),
        )),
    ]  # fmt: skip


def _sql_and_protocol_scripts() -> list[Script]:
    """Names by SQL are names of the protocol too."""
    return [
        Script("SQL executes what the protocol has prepared", (
            batch(parse(ADD, "conf_p")),
            simple("EXECUTE conf_p(1)"),
            simple('DEALLOCATE PREPARE "conf_p"'),
            batch(_run("conf_p", b"1")),
        )),
        Script("SQL commands by the extended protocol", (
            batch(parse("PREPARE conf_q AS SELECT 1"), bind(), execute()),
            batch(parse("EXECUTE conf_q"), bind(), describe(), execute()),
            simple("EXECUTE conf_q"),
            batch(parse("DEALLOCATE conf_q"), bind(), execute()),
            batch(parse("EXECUTE conf_q"), bind(), execute()),
            simple("DEALLOCATE ALL"),
        )),
        Script("DEALLOCATE ALL", (
            batch(parse(ADD, "s1"), parse(TEXTS, "s2")),
            simple("PREPARE conf_q AS SELECT 1"),
            simple("DEALLOCATE ALL"),
            batch(_run("s1", b"1")),
            simple("EXECUTE conf_q"),
            batch(parse(ADD, "s1"), _run("s1", b"1"), close("s1", "S")),
        )),
        Script("DISCARD ALL", (
            batch(parse(ADD, "s1")),
            simple("DISCARD ALL"),
            batch(_run("s1", b"1")),
            batch(parse(ADD, "s1"), _run("s1", b"1"), close("s1", "S")),
        )),
        Script("DEALLOCATE ALL in a transaction block that fails", (
            batch(parse(ADD, "s1")),
            simple("BEGIN; SELECT oops"),
            simple("DEALLOCATE ALL"),
            simple("ROLLBACK"),
            batch(_run("s1", b"1")),
            _close_all("s1"),
        )),
    ]  # fmt: skip


# What a batch that prepares and runs is made of.
PARTS = (
    parse(ADD, "s"),
    describe("s", "S"),
    bind(b"1", statement="s"),
    describe(),
    execute(),
    close("s", "S"),
)
FAILURES = {
    "Parse": parse("SELECT oops", "t"),
    "Bind": bind(b"x", b"y", statement="u"),
    "Describe": describe("nobody", "S"),
    "Execute": _run("u", b"1"),
}


def _failure_scripts() -> list[Script]:
    """An error at every place of a batch, alone and before another batch."""
    scripts = []
    after = (_run("s", b"2") + SYNC, "Z")
    for (kind, failure), at in itertools.product(FAILURES.items(), range(len(PARTS))):
        raw = b"".join((*PARTS[:at], failure, *PARTS[at:])) + SYNC
        prepared = batch(parse(FAIL, "u"))
        scripts += [
            Script(f"error of {kind} at {at}", (
                prepared, (raw, "Z"), after, _close_all("s", "t", "u"),
            )),
            Script(f"error of {kind} at {at}, pipelined", (
                prepared,
                (raw + parse(ADD, "s") + _run("s", b"2") + SYNC + query("SELECT 1"),
                 "ZZZ"),
                after, _close_all("s", "t", "u"),
            )),
        ]  # fmt: skip
    return scripts


def prepared_scripts() -> list[Script]:
    """Every script of prepared statements."""
    scripts = [
        *_named_scripts(),
        *_name_scripts(),
        *_transaction_scripts(),
        *_unnamed_scripts(),
        *_sql_scripts(),
        *_sql_and_protocol_scripts(),
        *_failure_scripts(),
    ]
    return [replace(script, any_server=True) for script in scripts]
