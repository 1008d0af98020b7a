# SPDX-License-Identifier: MIT
"""The protocol scripts of the extended protocol."""

from __future__ import annotations

from tests.conformance.script import (
    COUNT,
    FAILS_AT_THIRD,
    INSERT,
    ROWS_OF_FIVE,
    TRUNCATE,
    Script,
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
    extended,
    message,
    parse,
    query,
)


def _statement_scripts() -> list[Script]:
    return [
        Script("extended", (batch(extended("SELECT $1::int + 1", b"41")),)),
        Script("extended without a result", (
            batch(extended("SET LOCAL work_mem=64")),
        )),
        Script("extended empty query", (batch(extended("")),)),
        Script("describe a statement", (batch(
            parse("SELECT $1::int, $2::text"), describe(kind="S"),
            parse("SET LOCAL work_mem = 64"), describe(kind="S"),
        ),)),
        Script("named statement, portal and their close", (batch(
            parse("SELECT $1::text", "conf_s"), describe("conf_s", "S"),
            bind(b"one", statement="conf_s", portal="p1"),
            bind(None, statement="conf_s", portal="p2"),
            describe("p1"), execute("p2"), execute("p1"),
            close("p1"), close("p2"), close("conf_s", "S"),
        ),)),
        Script("named statement over the Syncs of one transaction", (
            simple("BEGIN"),
            batch(parse("SELECT $1::int", "conf_s")),
            batch(bind(b"1", statement="conf_s"), execute()),
            batch(bind(b"2", statement="conf_s", portal="p"), describe("p")),
            batch(execute("p"), close("p")),
            batch(close("conf_s", "S")),
            simple("COMMIT"),
        )),
        Script("SQL PREPARE in one transaction", (
            simple("BEGIN; PREPARE conf_q AS SELECT $1::int"),
            simple("EXECUTE conf_q(7)"),
            batch(bind(b"8", statement="conf_q"), execute()),
            simple("DEALLOCATE conf_q; COMMIT"),
        )),
        Script("close of what is not there", (batch(
            close("nope"), close("nope", "S"), close(), close("", "S"),
        ),)),
    ]  # fmt: skip


def _row_limit_scripts() -> list[Script]:
    return [
        Script("row limits", (batch(
            parse(ROWS_OF_FIVE), bind(), execute(most_rows=2), execute(most_rows=2),
            execute(most_rows=2), execute(),
        ),)),
        Script("row limit, portal kept over Syncs", (
            simple("BEGIN"),
            batch(parse(ROWS_OF_FIVE), bind(portal="c"), execute("c", 2)),
            batch(execute("c", 2)),
            batch(execute("c"), close("c")),
            simple("END"),
        )),
        Script("row limit, portal lost at the end of the transaction", (
            batch(parse(ROWS_OF_FIVE), bind(portal="c"), execute("c", 2)),
            batch(execute("c", 2)),
            simple("SELECT 1"),
        )),
        Script("row limit, then only a Sync", (
            batch(parse(ROWS_OF_FIVE), bind(), execute(most_rows=1)), (SYNC, "Z"),
        )),
    ]  # fmt: skip


def _pipeline_scripts() -> list[Script]:
    return [
        Script("pipeline over several Syncs", (
            ((extended("SELECT 1") + SYNC) * 12, "Z" * 12),
        )),
        Script("pipeline, the third of five fails", ((
            b"".join(
                extended(sql) + SYNC
                for sql in ("SELECT 1", "SELECT 2", "SELECT 1/0", "SELECT 4", "SELECT")
            ), "Z" * 5,
        ),)),
        Script("pipeline in a transaction block, aborted", ((
            b"".join(
                extended(sql) + SYNC
                for sql in ("BEGIN", "SELECT 1", "SELECT 1/0", "SELECT 2", "ROLLBACK")
            ), "Z" * 5,
        ), simple("SELECT 1"))),
        Script("an implicit transaction is rolled back as one", (
            TRUNCATE,
            batch(extended(INSERT), extended(INSERT), extended("SELECT 1/0")),
            (COUNT, "Z"),
            batch(extended(INSERT), extended(INSERT)),
            (COUNT, "Z"),
        )),
        Script("simple and extended pipelined", ((
            query("SELECT 1") + extended("SELECT 2") + SYNC + query("SELECT 3")
            + query("SELEC") + extended("SELEC") + SYNC + query("SELECT 4"),
            "Z" * 6,
        ),)),
    ]  # fmt: skip


def _sync_scripts() -> list[Script]:
    """Where Sync and Flush stand, and a Query where a Sync should."""
    return [
        Script("Sync alone", ((SYNC, "Z"), (SYNC * 3, "ZZZ"), simple("SELECT 1"))),
        Script("Flush alone", (
            (FLUSH, ""), simple("SELECT 1"), (FLUSH * 2 + SYNC, "Z"),
        )),
        Script("driven by Flush", (
            (parse("SELECT $1::text") + FLUSH, "1"),
            (describe(kind="S") + FLUSH, "T"),
            (bind(b"v") + FLUSH, "2"),
            (describe() + FLUSH, "T"),
            (execute() + FLUSH, "C"),
            (close() + FLUSH, "3"),
            (SYNC, "Z"),
        )),
        Script("driven by Flush, with an error", (
            (parse("SELECT $1::int") + FLUSH, "1"),
            (bind(b"x") + FLUSH, "E"),
            (execute() + FLUSH + describe() + FLUSH, ""),
            (SYNC, "Z"),
            simple("SELECT 1"),
        )),
        Script("two batches by Flush before one Sync", (
            (extended("SELECT 1") + FLUSH, "C"), (extended("SELECT 2") + FLUSH, "C"),
            (SYNC, "Z"),
        )),
        Script("Query in an unsynced batch", (
            (extended("SELECT 1") + query("SELECT 2"), "Z"), (SYNC, "Z"),
        )),
        Script("Query in an unsynced batch that writes", (
            TRUNCATE,
            (extended(INSERT) + query("SELECT 2"), "Z"), (COUNT, "Z"),
            (extended(INSERT) + query("SELECT 1/0"), "Z"), (SYNC, "Z"), (COUNT, "Z"),
        )),
        Script("Query in a failed unsynced batch is skipped", (
            (extended("SELECT 1/0") + query("SELECT 2"), "E"), (SYNC, "Z"),
            simple("SELECT 3"),
        )),
        Script("Parse only, then Query", (
            (parse("SELECT 1") + query("SELECT 2"), "Z"),
        )),
    ]  # fmt: skip


def _failing_scripts() -> list[Script]:
    """Every message of the extended protocol fails, alone and inside a pipeline."""
    wrong = {
        "Parse, syntax": parse("SELEC"),
        "Parse, no such table": parse("SELECT * FROM nope"),
        "Parse, name taken": parse("SELECT 1", "conf_s") * 2 + close("conf_s", "S"),
        "Parse, malformed": message("P", b"x\0SELECT 1\0\0\7"),
        "Bind, no such statement": bind(statement="nope"),
        "Bind, too few values": parse("SELECT $1::int") + bind(),
        "Bind, bad value": parse("SELECT $1::int") + bind(b"x"),
        "Bind, portal taken": parse("SELECT 1") + bind(portal="p") * 2,
        "Bind, malformed": message("B", b"\0\0\0\0\0\7\0\0\0\0"),
        "Describe, no such statement": describe("nope", "S"),
        "Describe, no such portal": describe("nope"),
        "Describe, bad kind": describe(kind="x"),
        "Execute, no such portal": execute("nope"),
        "Execute, at once": parse("SELECT 1/0") + bind() + execute(),
        "Execute, after two rows": parse(FAILS_AT_THIRD) + bind() + execute(),
        "Execute, after PortalSuspended": parse(FAILS_AT_THIRD)
        + bind()
        + execute(most_rows=1) * 5,
        "Close, bad kind": close(kind="x"),
    }
    good = extended("SELECT 1")
    scripts = []
    for what, raw in wrong.items():
        inside = good + SYNC + good + raw + good + SYNC + good + SYNC
        cleanup = (
            [batch(close("conf_s", "S"))] if "name taken" in what else []
        )  # the Close of the batch was skipped
        scripts += [
            Script(f"error at {what}", (batch(raw), *cleanup, batch(good))),
            Script(f"error at {what}, in a pipeline", ((inside, "ZZZ"), *cleanup)),
            Script(
                f"error at {what}, in a transaction block",
                (
                    simple("BEGIN"),
                    batch(raw),
                    batch(good),
                    simple("ROLLBACK"),
                    *cleanup,
                ),
            ),
        ]
    return scripts


def extended_scripts() -> list[Script]:
    """The extended protocol, and every way in which it can fail."""
    return [
        *_statement_scripts(),
        *_row_limit_scripts(),
        *_pipeline_scripts(),
        *_sync_scripts(),
        *_failing_scripts(),
    ]
