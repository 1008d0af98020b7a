# SPDX-License-Identifier: MIT
"""The protocol scripts of the simple protocol, and of what comes unasked."""

from __future__ import annotations

from tests.conformance.script import (
    END,
    Script,
    batch,
    call,
    simple,
)
from tests.wire_client import (
    SYNC,
    extended,
    message,
    query,
)


def _simple_scripts() -> list[Script]:
    return [
        Script("query", (simple("SELECT 1, 'two', NULL"),)),
        Script("queries one after the other", (simple("SELECT 1"),) * 3),
        Script(
            "multi-statement", (simple("SELECT 1; SELECT 2, 3; SET LOCAL work_mem=64"),)
        ),
        Script(
            "multi-statement, error in the middle",
            (simple("SELECT 1; SELECT 1/0; SELECT 3"), simple("SELECT 4")),
        ),
        Script(
            "multi-statement with transaction blocks",
            (
                simple("BEGIN; SELECT 1; COMMIT; SELECT 2; BEGIN; SELECT 3"),
                simple("COMMIT; SELECT 4"),
            ),
        ),
        Script("empty query", (simple(""), simple(";"), simple(" -- nothing"))),
        Script("queries pipelined", ((query("SELECT 1") * 20, "Z" * 20),)),
        Script(
            "queries pipelined, transaction blocks between",
            (
                (
                    b"".join(
                        query(sql)
                        for sql in ("BEGIN", "SELECT 1", "COMMIT", "BEGIN", "SELEC")
                    )
                    + query("SELECT 1")
                    + query("ROLLBACK")
                    + query("SELECT 2"),
                    "Z" * 8,
                ),
            ),
        ),
        Script("syntax error", (simple("SELEC 1"), simple("SELECT 1"))),
        Script("query without its final zero", ((message("Q", b"SELECT 1"), "Z"),)),
        Script("query with trailing bytes", ((message("Q", b"SELECT 1\0x\0"), "Z"),)),
        Script(
            "transaction status",
            (
                simple("BEGIN"),
                simple("SELECT 1"),
                simple("SAVEPOINT a"),
                simple("SELECT 1/0"),
                simple("SELECT 1"),
                simple("ROLLBACK TO a"),
                simple("SELECT 2"),
                simple("SELECT 1/0"),
                simple("COMMIT"),
            ),
        ),
        Script("cancelled", (simple("SELECT pg_cancel_backend(pg_backend_pid())"),)),
        Script(
            "terminated by the administrator",
            ((query("SELECT pg_terminate_backend(pg_backend_pid())"), END),),
        ),
    ]


def _call_scripts() -> list[Script]:
    int4pl, int4div, nothing = 177, 154, 1
    return [
        Script("FunctionCall", ((call(int4pl, b"40", b"2"), "Z"),)),
        Script("FunctionCall, error", ((call(int4div, b"1", b"0"), "Z"),)),
        Script("FunctionCall, no such function", ((call(nothing), "Z"),)),
        Script("FunctionCalls pipelined with queries", ((
            call(int4pl, b"1", b"2") + query("SELECT 1") + call(int4div, b"1", b"0")
            + extended("SELECT 2") + SYNC + call(int4pl, b"3", b"4"), "Z" * 5,
        ),)),
        Script("FunctionCall in a transaction block", (
            simple("BEGIN"), (call(int4pl, b"1", b"2"), "Z"),
            (call(int4div, b"1", b"0"), "Z"), (call(int4pl, b"1", b"2"), "Z"),
            simple("ROLLBACK"),
        )),
        Script("FunctionCall in an unsynced batch", (
            (extended("SELECT 1") + call(int4pl, b"1", b"2"), "Z"), (SYNC, "Z"),
        )),
        Script("FunctionCall in a failed unsynced batch is skipped", (
            (extended("SELECT 1/0") + call(int4pl, b"1", b"2"), "E"), (SYNC, "Z"),
            (call(int4pl, b"1", b"2"), "Z"),
        )),
    ]  # fmt: skip


def _notice_scripts() -> list[Script]:
    raise_notices = (
        "DO $$BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two %', repeat('x', 9000);"
        " RAISE NOTICE 'three'; END$$"
    )
    return [
        Script("NOTICE", (simple(raise_notices), batch(extended(raise_notices)))),
        Script("NOTICE between rows", (simple(
            "BEGIN; CREATE FUNCTION conf_say(int) RETURNS int LANGUAGE plpgsql AS"
            " 'BEGIN RAISE NOTICE ''row %'', $1; RETURN $1; END';"
            " SELECT conf_say(g) FROM generate_series(1, 4) g; ROLLBACK"
        ),)),
        Script("NOTICE, then an error", (
            simple("DO $$BEGIN RAISE NOTICE 'a'; RAISE 'b'; END$$"), simple("SELECT 1"),
        )),
        Script("WARNING outside a transaction", (simple("ROLLBACK"), simple("COMMIT"))),
    ]  # fmt: skip


def _notify_scripts() -> list[Script]:
    return [
        Script("NOTIFY to oneself", (
            simple("LISTEN conf"), simple("NOTIFY conf, 'payload'"),
            batch(extended("NOTIFY conf")), simple("BEGIN; NOTIFY conf, 'late'"),
            simple("SELECT 1"), simple("COMMIT"), simple("UNLISTEN *"),
        ), session_only="LISTEN belongs to a session"),
        Script("NOTIFY in one query", (
            simple("LISTEN conf; NOTIFY conf, 'a'; NOTIFY conf, 'b'"),
            simple("UNLISTEN *"),
        )),
        Script("NOTIFY from elsewhere", (
            simple("LISTEN conf"), (b"", "A"),
        ), session_only="LISTEN belongs to a session", elsewhere="NOTIFY conf, 'hi'"),
    ]  # fmt: skip


def _set_scripts() -> list[Script]:
    return [
        Script("SET tells a ParameterStatus", (
            simple("SET DateStyle = 'German'"), simple("SELECT DATE '2020-02-01'"),
            simple("SET application_name = 'x'; SET TimeZone = 'Asia/Tokyo'"),
            simple("SHOW application_name"), simple("SELECT 1/0"),
            simple("SHOW TimeZone"), simple("SET application_name = ''"),
            simple("SHOW application_name"), batch(extended("SHOW DateStyle")),
        )),
        Script("SET of a value that the server writes otherwise", (
            simple("SET DateStyle = 'ISO'"), simple("SHOW DateStyle"),
            simple("SET client_encoding = 'latin1'"), simple("SELECT U&'\\00e9'"),
            simple("SHOW client_encoding"),
        )),
        Script("SET refused", (
            simple("SET DateStyle = 'nonsense'"), simple("SHOW DateStyle"),
        )),
        Script("SET LOCAL ends with COMMIT", (
            simple("BEGIN; SET LOCAL DateStyle = 'SQL'"), simple("SHOW DateStyle"),
            simple("COMMIT"), simple("SHOW DateStyle"),
        )),
        Script("SET LOCAL ends with ROLLBACK", (
            simple("BEGIN; SET LOCAL IntervalStyle = 'iso_8601'"),
            simple("SELECT 1/0"), simple("ROLLBACK"), simple("SHOW IntervalStyle"),
        )),
        Script("SET is rolled back", (
            simple("BEGIN"), simple("SET TimeZone = 'Asia/Tokyo'"),
            simple("SAVEPOINT a"), simple("SET TimeZone = 'Asia/Seoul'"),
            simple("ROLLBACK TO a"), simple("SHOW TimeZone"), simple("ROLLBACK"),
            simple("SHOW TimeZone"),
        )),
        Script("SET in a pipeline that fails", (
            batch(
                extended("SET DateStyle = 'SQL'"), extended("SELECT 1/0"),
                extended("SHOW DateStyle"),
            ),
            simple("SHOW DateStyle"),
        )),
        Script("SET in a pipeline, each batch sees the one before", ((
            b"".join(extended(sql) + SYNC for sql in (
                "SET DateStyle = 'SQL'", "SHOW DateStyle", "SET DateStyle = 'German'",
                "SHOW DateStyle", "RESET DateStyle", "SHOW DateStyle",
            )), "Z" * 6,
        ),)),
        Script("a reported setting that no pooler follows", (
            simple("BEGIN; SET default_transaction_read_only = on"), simple("ROLLBACK"),
        )),
        Script("SET from a function in the middle of rows", (simple(
            "BEGIN; SELECT 1; SELECT set_config('application_name', 'y', true);"
            " SELECT 2; ROLLBACK"
        ),)),
    ]  # fmt: skip


def simple_scripts() -> list[Script]:
    """Simple queries, function calls, notices, notifications, parameters."""
    return [
        *_simple_scripts(),
        *_call_scripts(),
        *_notice_scripts(),
        *_notify_scripts(),
        *_set_scripts(),
    ]
