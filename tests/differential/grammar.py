# SPDX-License-Identifier: MIT
"""The texts that clients send, by kind. ``{who}`` is the client's number.

Rows of ``public.w`` belong to the client in ``who``; nobody writes another's. Tables
are named with their schema unless search_path is the point. A new text needs a look at
``tags.py``: whatever it reads or changes of its session must be seen there.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.differential.messages import PAD

INT, BIG, TEXT = (
    (b"1", b"2", b"3", b"-7", None),
    (b"70000",),
    (b"a", b"b\\n", b"", None),
)
NUMBER = (b"1", b"2", b"3")
WRONG = (b"x", b"1.5", b"99999999999")


@dataclass(frozen=True, slots=True)
class Text:
    """One command that can be prepared; ``values``: each parameter's choices."""

    sql: str
    values: tuple[tuple[bytes | None, ...], ...] = ()
    types: tuple[int, ...] = ()  # to give with Parse; empty for none


INT4, TEXTOID = 23, 25

PLAIN = (
    Text("select 1"),
    Text("select $1::int + $2::int", (INT, INT)),
    Text("select $1::text", (TEXT,)),
    Text("select $1", (TEXT,)),
    Text("select $1", (INT,), (INT4,)),
    Text("select $1 || $2", (TEXT, TEXT), (TEXTOID, 0)),
    Text("select g from generate_series(1, $1::int) g", (NUMBER,)),
    Text("select g, 'row ' || g from generate_series(1, 5) g"),
    Text("select repeat('x', $1::int)", (BIG,)),
    Text("select id, v from public.t order by id"),
    Text("select * from public.t where id = $1 order by id", (NUMBER,)),
    Text("select v from a.t union all select v from b.t order by 1"),
    Text("values (1, 'x'), (2, null)"),
    Text("select n, txt from public.w where who = {who} order by n"),
    Text("select count(*) from public.w"),
    Text("select /* " + PAD + " */ 1"),
    Text("select length('" + PAD + "')"),
    Text("select length($1::text)", ((PAD.encode(),),)),
    Text(""),
    Text("-- nothing"),
)
WRITES = (
    Text("insert into public.w values ({who}, $1, $2)", (NUMBER, TEXT)),
    Text(
        "insert into public.w values ({who}, $1, $2)"
        " on conflict do nothing returning n",
        (NUMBER, TEXT),
    ),
    Text("update public.w set txt = $1 where who = {who}", (TEXT,)),
    Text("delete from public.w where who = {who} and n = $1", (NUMBER,)),
    Text("delete from public.w where who = {who}"),
    Text("insert into public.w select {who}, g, 'many' from generate_series(4, 6) g"),
)
ERRORS = (
    Text("selec 1"),
    Text("select nope"),
    Text("select * from public.nope"),
    Text("select nope($1)", (INT,)),
    Text("select 1 /  0"),
    Text("select 1 / ($1::int - 1)", (NUMBER,)),
    Text("select 10 / (3 - g) from generate_series(1, 5) g"),
    Text("select 'x'::int"),
    Text("select $1::int", (WRONG,)),
    Text("select $1"),
    Text("select $2", (INT,)),
    Text("insert into public.w values ({who}, 1, 'twice'), ({who}, 1, 'twice')"),
    Text("select 'open"),
    Text("select\n\n   nope"),
    Text("select 1; select 2"),
)
CONTEXT = (
    Text("select '2024-01-01 00:00'::timestamptz"),
    Text("select '2024-07-01 00:00+00'::timestamptz, '{who}'"),
    Text("select extract(epoch from '2024-03-03 03:00'::timestamptz)"),
    Text("select '1/2/2024'::date"),
    Text("select '3/4/2024 12:00'::timestamp"),
    Text("select '1 day 2 hours -3 minutes'::interval"),
    Text("select '-1 2:03'::interval"),
    Text("select $1::timestamptz", ((b"2024-01-01 00:00", b"1/2/2024"),)),
    Text("select $1::date", ((b"1/2/2024", b"2024-02-01"),)),
    Text("select 'a\\nb', 'c\\\\'"),
    Text("select E'a\\tb', length('a\\b')"),
    Text("select 'it''s \\'"),
    Text("show timezone"),
    Text("show datestyle"),
    Text("show intervalstyle"),
    Text("show standard_conforming_strings"),
    Text("show application_name"),
    Text("select current_setting('TimeZone'), current_setting('DateStyle')"),
)
PARAMETERS = {
    "TimeZone": ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"),
    "DateStyle": ("ISO, MDY", "ISO, DMY", "SQL, DMY", "SQL, MDY", "German"),
    "IntervalStyle": ("postgres", "iso_8601", "sql_standard", "postgres_verbose"),
    "standard_conforming_strings": ("on", "off"),
    "application_name": ("one", "two", ""),
}
PARAMETER_ERRORS = (
    "set timezone to 'nowhere'",
    "set datestyle to 'never'",
    "set nonsense to 1",
    "set intervalstyle = 7",
)
UNTRACKED_READS = (
    Text("select id, v from t order by id"),
    Text("select count(*) from t"),
    Text("select v from t where id = $1", (NUMBER,)),
    Text("show search_path"),
    Text("select current_setting('search_path'), current_schemas(false)"),
    Text("select public.find_t()"),
    Text("select current_user"),
    Text("select public.whoami()"),
    Text("show role"),
    Text("select 1::float8 / 3, 1e-7::float8"),
    Text("show extra_float_digits"),
    Text("select '\\x4142'::bytea, 'a'::bytea"),
    Text("show work_mem"),
    Text("show default_transaction_deferrable"),
    Text("fetch 1 from hc"),
    Text("close hc"),
    Text("select count(*) from pg_cursors where name = 'hc'"),
)
UNTRACKED = {
    "search_path": ("a", "b", "b, public", "public", "nowhere"),
    "role": ("other", "none"),
    "extra_float_digits": ("0", "-5", "3"),
    "bytea_output": ("escape", "hex"),
    "work_mem": ("1MB", "2MB"),
    "default_transaction_deferrable": ("on", "off"),
}
UNTRACKED_OTHERS = (
    Text("declare hc cursor with hold for select g from generate_series(1, 3) g"),
    Text("declare hc cursor for select g from generate_series(1, 3) g"),
    Text("reset all"),
    Text("discard all"),
    Text("discard temp"),
    Text("discard plans"),
    Text("close all"),
    Text("reset role"),
    Text("set session authorization default"),
    Text("do $$ begin perform set_config('search_path', 'a', false); end $$"),
    Text("do $$ begin execute 'set role other'; end $$"),
    Text("call public.run_it('set bytea_output to escape')"),
)
# Functions of the user's own.
HIDDEN = (
    Text("select public.set_path($1)", ((b"a", b"b"),)),
    Text("select public.set_path('b')"),
    Text("select public.make_temp()"),
    Text("select public.run('create temp table tt (x int)')"),
    Text("select public.run('set role other')"),
    Text("select public.run('alter table public.d1 add column z int')"),
    Text("select public.run('alter table public.d1 drop column z')"),
    Text("select public.run('drop table if exists public.d2')"),
    Text("select public.run('prepare s1 as select 7')"),
    Text("select nextval('public.sq')"),
    Text("select currval('public.sq')"),
    Text("select lastval()"),
)
DDL = (
    "create table public.d2 (x int)",
    "drop table public.d2",
    "create table if not exists public.d2 (z text)",
    "drop table if exists public.d2",
    "alter table public.d1 add column z int",
    "alter table public.d1 drop column z",
    "alter table public.d1 rename to d3",
    "alter table public.d3 rename to d1",
    "drop table public.d1",
    "create table public.d1 (x int, y text)",
    "create or replace view public.v1 as select x from public.d1",
    "drop view if exists public.v1",
    "create index on public.d1 (x)",
    "truncate public.d1",
    "create or replace function public.fn() returns int language sql as 'select 1'",
    "create or replace function public.fn() returns int language sql as 'select 2'",
    "drop function public.fn()",
)
DDL_READS = (
    Text("select x from public.d1 order by 1"),
    Text("select x, y from public.d1 where x = $1 order by 1", (NUMBER,)),
    Text("select count(*) from public.d2"),
    Text("select x from public.d3 order by 1"),
    Text("select x from public.v1 order by 1"),
    Text("select public.fn()"),
    Text("insert into public.d1 values ($1, 'more')", (NUMBER,)),
)
# Their rows may come to have other columns: prepared, they go stale.
STALE_READS = (
    Text("select * from public.d1 order by 1"),
    Text("select * from public.d2"),
    Text("select d1 from public.d1 order by 1"),
)
TEMP = (
    "create temp table tt (x int)",
    "create temp table tt as select 5 as x",
    "create temp table t as select 9 as id, 'temp' as v",
    "select 4 as id, 'temp' as v into temp t",
    "do $$ begin perform public.make_temp(); end $$",
    "drop table tt",
    "create temp table tt (x int) on commit drop",
    "insert into tt values (6)",
    "create temp view t as select 3 as id, 'view' as v",
)
TEMP_READS = (
    Text("select x from tt order by 1"),
    Text("select id, v from t order by id"),
    Text("select public.find_t()"),
    Text("select to_regclass('tt') is null, to_regclass('pg_temp.t') is null"),
)
# {name} is a statement's name.
PREPARE_TEXTS = (
    ("", "select 1", ()),
    (" (int)", "select $1 + 1", ("(1)", "(2)", "(null)")),
    (" (text, int)", "select $1, $2", ("('a', 1)", "(null, 2)")),
    ("", "select v from public.t where id = $1", ("(1)", "(2)")),
    ("", "insert into public.w values ({who}, 8, 'prepared')", ()),
    ("", "select '2024-01-01 00:00'::timestamptz", ()),
    ("", "select 1 / 0", ()),
    ("", "select nope", ()),
    ("", "values ('a;b', 'execute p1')", ()),
)
COPY_IN = (
    "copy public.w from stdin",
    "copy public.w (who, n, txt) from stdin with (format csv)",
    "copy public.nope from stdin",
    "copy public.w from stdin (null 'x')",
)
COPY_OUT = (
    "copy (select g, 'x' from generate_series(1, 5) g) to stdout",
    "copy public.t to stdout",
    "copy (select 10 / (3 - g) from generate_series(1, 5) g) to stdout",
    "copy (select repeat('y', 70000)) to stdout with (format csv)",
    "copy (select n from public.w where who = {who} order by n) to stdout",
)
BEGINS = (
    "begin",
    "begin",
    "start transaction",
    "begin isolation level repeatable read",
    "begin read only",
    "/* x */ BEGIN",
)
ENDS = ("commit", "commit", "end", "rollback", "abort", "COMMIT; ", "commit and chain")
INSIDE = ("savepoint s1", "rollback to s1", "release s1", "savepoint s2", "begin")
PADS = (20_000, 70_000, 1_200_000)
NAMES = ("s1", "s2", "s3", "s4", "S 5")
SQL_NAMES = ("p1", "p2", "s1")
PORTALS = ("", "", "p1", "p2")
