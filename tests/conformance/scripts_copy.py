# SPDX-License-Identifier: MIT
"""The protocol scripts of COPY; see ``script``.

Source: PostgreSQL documentation, "COPY Operations".
"""

from __future__ import annotations

from tests.conformance.script import (
    BIG,
    COPY,
    COPY_DONE,
    COUNT,
    END,
    FAILS_AT_THIRD,
    TRUNCATE,
    Script,
    batch,
    copy_fail,
    data,
    simple,
)
from tests.wire_client import FLUSH, SYNC, bind, describe, execute, parse, query

TWO_ROWS = data("1\tone\n") + data("2\ttwo\n")
BAD_ROW = data("not a number\tx\n")
MUCH = data("3\t" + "m" * 60_000 + "\n") * 20
COPY_BATCH = parse(COPY) + bind() + describe() + execute()
AFTER = (COUNT, "Z")


def _in_scripts() -> list[Script]:
    return [
        Script("COPY IN", (
            TRUNCATE, (query(COPY), "G"), (TWO_ROWS, ""), (COPY_DONE, "Z"), AFTER,
        )),
        Script("COPY IN, nothing", (
            TRUNCATE, (query(COPY), "G"), (COPY_DONE, "Z"), AFTER,
        )),
        Script("COPY IN, rows cut anywhere", (
            TRUNCATE, (query(COPY), "G"),
            (data("1\to") + data("") + data("ne\n2\ttwo") + data("\n"), ""),
            (COPY_DONE, "Z"), AFTER,
        )),
        Script("COPY IN in one send with its data", (
            TRUNCATE, (query(COPY) + TWO_ROWS + COPY_DONE, "Z"), AFTER,
        )),
        Script("COPY IN pipelined between queries", (
            TRUNCATE,
            (query("SELECT 1") + query(COPY) + TWO_ROWS + COPY_DONE + COUNT, "ZZZ"),
        )),
        Script("two COPY IN pipelined", (
            TRUNCATE,
            ((query(COPY) + TWO_ROWS + COPY_DONE) * 2 + COUNT, "ZZZ"),
        )),
        Script("two COPY IN in one query", (
            TRUNCATE, (query(f"SELECT 0; {COPY}; {COPY}; SELECT 9"), "G"),
            (TWO_ROWS + COPY_DONE, "G"), (TWO_ROWS + COPY_DONE, "Z"), AFTER,
        )),
        Script("COPY IN, Flush and Sync are ignored", (
            TRUNCATE, (query(COPY), "G"),
            (data("1\tx\n") + FLUSH + SYNC + data("2\ty\n") + SYNC + COPY_DONE, "Z"),
            AFTER,
        )),
        Script("COPY IN, large", (
            TRUNCATE, (query(COPY), "G"),
            (data("7\t" + "b" * BIG + "\n") + MUCH + COPY_DONE, "Z"), AFTER,
        )),
        Script("COPY IN, binary", (
            TRUNCATE, (query("COPY conf FROM STDIN (FORMAT binary)"), "G"),
            (data(b"PGCOPY\n\xff\r\n\0" + bytes(8)), ""), (data(b"\xff\xff"), ""),
            (COPY_DONE, "Z"), AFTER,
        )),
    ]  # fmt: skip


def _failing_in_scripts() -> list[Script]:
    return [
        Script("COPY IN, CopyFail", (
            TRUNCATE, (query(COPY), "G"), (TWO_ROWS + copy_fail(), "Z"), AFTER,
        )),
        Script("COPY IN, CopyFail in one send", (
            TRUNCATE, (query(COPY) + TWO_ROWS + copy_fail() + COUNT, "ZZ"),
        )),
        Script("COPY IN in a transaction, CopyFail", (
            TRUNCATE, simple("BEGIN"), (query(COPY), "G"), (copy_fail(), "Z"),
            simple("SELECT 1"), simple("ROLLBACK"), AFTER,
        )),
        Script("COPY IN, the server fails, data still coming", (
            TRUNCATE, (query(COPY), "G"), (BAD_ROW + MUCH + COPY_DONE, "Z"), AFTER,
        )),
        Script("COPY IN, the server fails, data comes after the answer", (
            TRUNCATE, (query(COPY), "G"), (BAD_ROW, ""), (COPY_DONE, "Z"),
            (MUCH, ""), (TWO_ROWS + COPY_DONE, ""), AFTER,
        )),
        Script("COPY IN, the server fails, then CopyFail", (
            TRUNCATE, (query(COPY), "G"), (BAD_ROW + MUCH + copy_fail(), "Z"), AFTER,
        )),
        Script("COPY IN, the server fails, all of it pipelined with a query", (
            TRUNCATE, (query(COPY) + BAD_ROW + TWO_ROWS + COPY_DONE + COUNT, "ZZ"),
        )),
        Script("COPY IN is refused, its data still comes", (
            TRUNCATE, (query("COPY nope FROM STDIN") + TWO_ROWS + COPY_DONE, "Z"),
            AFTER, simple("BEGIN"), (query("COPY nope FROM STDIN"), "Z"),
            (TWO_ROWS + copy_fail(), ""), simple("ROLLBACK"),
        )),
        Script("COPY data without a COPY", (
            TRUNCATE, (TWO_ROWS + COPY_DONE, ""), AFTER, (copy_fail(), ""), (SYNC, "Z"),
            simple("BEGIN"), (TWO_ROWS + COPY_DONE + query("SELECT 1"), "Z"),
            simple("COMMIT"), AFTER,
        )),
        Script("Query during COPY IN", (
            TRUNCATE, (query(COPY), "G"), (data("1\tx\n") + query("SELECT 1"), END),
        )),
    ]  # fmt: skip


def _extended_in_scripts() -> list[Script]:
    return [
        Script("extended COPY IN", (
            TRUNCATE, (COPY_BATCH + FLUSH, "G"), (TWO_ROWS + COPY_DONE + SYNC, "Z"),
            AFTER,
        )),
        Script("extended COPY IN in one send", (
            TRUNCATE, (COPY_BATCH + TWO_ROWS + COPY_DONE + SYNC + COUNT, "ZZ"),
        )),
        Script("extended COPY IN, early Sync", (
            TRUNCATE, (COPY_BATCH + SYNC, "G"), (TWO_ROWS + COPY_DONE + SYNC, "Z"),
            AFTER,
        )),
        Script("extended COPY IN, early Sync, all in one send", (
            TRUNCATE, (COPY_BATCH + SYNC + TWO_ROWS + COPY_DONE + SYNC, "Z"), AFTER,
        )),
        Script("extended COPY IN, Syncs between the data", (
            TRUNCATE, (COPY_BATCH + SYNC, "G"),
            (TWO_ROWS + SYNC + FLUSH + TWO_ROWS + SYNC, ""), (COPY_DONE + FLUSH, "C"),
            (SYNC, "Z"), AFTER,
        )),
        Script("extended COPY IN, more of the batch behind it", (
            TRUNCATE,
            (COPY_BATCH + FLUSH, "G"),
            (TWO_ROWS + COPY_DONE + parse("SELECT 5") + bind() + execute() + SYNC, "Z"),
            AFTER,
        )),
        Script("extended COPY IN in a transaction block", (
            TRUNCATE, simple("BEGIN"), (COPY_BATCH + SYNC, "G"),
            (TWO_ROWS + COPY_DONE + SYNC, "Z"), simple("ROLLBACK"), AFTER,
        )),
    ]  # fmt: skip


def _failing_extended_in_scripts() -> list[Script]:
    return [
        Script("extended COPY IN, CopyFail", (
            TRUNCATE, (COPY_BATCH + FLUSH, "G"), (TWO_ROWS + copy_fail(), "E"),
            (SYNC, "Z"), AFTER,
        )),
        Script("extended COPY IN, CopyFail and Sync in one send", (
            TRUNCATE, (COPY_BATCH + TWO_ROWS + copy_fail() + SYNC + COUNT, "ZZ"),
        )),
        Script("extended COPY IN, early Sync, CopyFail", (
            TRUNCATE, (COPY_BATCH + SYNC, "G"), (copy_fail() + SYNC, "Z"), AFTER,
        )),
        Script("extended COPY IN, the server fails, data still coming", (
            TRUNCATE, (COPY_BATCH + FLUSH, "G"),
            (BAD_ROW + MUCH + COPY_DONE + SYNC, "Z"), AFTER,
        )),
        Script("extended COPY IN, the server fails, data comes after the error", (
            TRUNCATE, (COPY_BATCH + FLUSH, "G"), (BAD_ROW + COPY_DONE, "E"),
            (TWO_ROWS + COPY_DONE, ""), (SYNC, "Z"), AFTER,
        )),
        Script("extended COPY IN, early Sync, the server fails", (
            TRUNCATE, (COPY_BATCH + SYNC, "G"),
            (BAD_ROW + MUCH + COPY_DONE + SYNC, "Z"), AFTER,
        )),
        Script("extended COPY IN is refused, its data still comes", (
            TRUNCATE,
            (parse("COPY nope FROM STDIN") + bind() + execute() + TWO_ROWS + COPY_DONE
             + SYNC + COUNT, "ZZ"),
        )),
        Script("extended COPY IN fails at Bind, its data still comes", (
            TRUNCATE,
            (parse(COPY) + bind(b"1") + execute() + TWO_ROWS + COPY_DONE + SYNC + COUNT,
             "ZZ"),
        )),
    ]  # fmt: skip


def _out_scripts() -> list[Script]:
    rows = "COPY (SELECT g, repeat('o', 50) FROM generate_series(1, {}) g) TO STDOUT"
    fails = f"COPY ({FAILS_AT_THIRD}) TO STDOUT"
    out = parse(rows.format(3)) + bind() + describe() + execute()
    return [
        Script("COPY OUT", (simple(rows.format(3)), simple("SELECT 1"))),
        Script("COPY OUT, no rows", (simple(rows.format(0)),)),
        Script("COPY OUT, binary", (
            simple("COPY (SELECT 1, 'x'::text) TO STDOUT (FORMAT binary)"),
        )),
        Script("COPY OUT, many rows", (simple(rows.format(20_000)),)),
        Script("COPY OUT, large rows", (
            simple(f"COPY (SELECT repeat('o', {BIG})) TO STDOUT"),
        )),
        Script("COPY OUT, the server fails", (simple(fails), simple("SELECT 1"))),
        Script("two COPY OUT in one query", (
            simple(f"{rows.format(2)}; SELECT 5; {rows.format(1)}"),
        )),
        Script("COPY OUT pipelined", ((
            query(rows.format(2)) + query("SELECT 1") + query(fails)
            + query("SELECT 2"), "ZZZZ",
        ),)),
        Script("extended COPY OUT", (batch(out),)),
        Script("extended COPY OUT in a pipeline", ((
            (out + SYNC) * 2 + parse(fails) + bind() + execute() + out + SYNC + out
            + SYNC, "ZZZZ",
        ),)),
        Script("COPY OUT, then COPY IN in one query", (
            TRUNCATE, (query(f"{rows.format(2)}; {COPY}"), "G"),
            (TWO_ROWS + COPY_DONE, "Z"), AFTER,
        )),
        Script("stray COPY messages during COPY OUT", ((
            query(rows.format(2)) + TWO_ROWS + COPY_DONE + query("SELECT 1"), "ZZ",
        ), simple("SELECT 2"))),
    ]  # fmt: skip


def copy_scripts() -> list[Script]:
    """Every script with a COPY."""
    return [
        *_in_scripts(),
        *_failing_in_scripts(),
        *_extended_in_scripts(),
        *_failing_extended_in_scripts(),
        *_out_scripts(),
    ]
