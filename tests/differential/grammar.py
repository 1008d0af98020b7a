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
# Bytes of other encodings stand as surrogates: "\udc83\\" is one letter of SJIS, whose
# second byte is a backslash.
ENCODED = (
    Text("select '\u00e9', length('\u00e9')"),
    Text("select '\u30bd', 'x'"),
    Text("select '\udc83\\', 2"),
    Text("select '\udc83\\'' ; execute p1; --'"),
    Text("select E'\udc83\\n', 3"),
    Text("select '\udce9'"),
    Text('select 4 as "\udc83\\"'),
    Text('select 5 as "\u00e9"'),
    Text(
        "select $1::text, length($1::text)",
        ((b"\x83\x5c", "\u00e9".encode(), b"\xff", b"\xe9", b"a"),),
    ),
    Text("select \u00e9"),
    Text('select 1 / 0 as "\u30bd"'),
    Text("show client_encoding"),
    Text("select chr(233), chr(12477)"),
)
ENCODINGS = ("UTF8", "LATIN1", "SJIS", "SQL_ASCII", "GBK", "WIN1252", "unicode", "no")
ENCODED_NAMES = ("\u00e9", '"\u00e9"', '"\udc83\\"', '"\u30bd x"')
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
# What a session has beside its settings. {who} keeps clients from waiting for others.
SESSION = (
    Text("listen c{who}"),
    Text("listen c{who}"),
    Text("unlisten c{who}"),
    Text("unlisten *"),
    Text("do $$ begin execute 'listen c{who}'; end $$"),
    Text("select pg_advisory_lock({who}1)"),
    Text("select pg_advisory_lock_shared({who}, 2)"),
    Text("select pg_try_advisory_lock($1::int + 100 * ({who} + 1))", (NUMBER,)),
    Text("select pg_advisory_xact_lock({who}3)"),
    Text("do $$ begin perform pg_advisory_lock({who}1); end $$"),
    Text("select pg_advisory_unlock_all()"),
    Text("select setseed(0.5)"),
    Text("set seed to 0.25"),
    Text("create function pg_temp.f() returns int language sql as 'select 41'"),
    Text("create temp sequence tsq"),
    Text("create temp table tt (x int) on commit delete rows"),
    Text("create temp table tt on commit preserve rows as select 8 as x"),
    Text("create temp table tt (x text default 'on commit drop')"),
    Text('declare "for" cursor with hold for select 1 as hc'),
    Text("set session characteristics as transaction isolation level repeatable read"),
    Text("set session characteristics as transaction deferrable"),
    Text("do $$ begin perform set_config('my.var', 'd', false); end $$"),
    Text("do $$ begin perform set_config('my.var', 'd', true); end $$"),
    Text("discard all"),
)
SESSION_READS = (
    Text("select pg_listening_channels()"),
    Text("notify c{who}, 'said'"),
    Text("select pg_notify('c{who}', $1)", ((b"a", b""),)),
    Text("notify nobody"),
    Text(
        "select count(*) from pg_locks where locktype = 'advisory'"
        " and pid = pg_backend_pid()"
    ),
    Text("select pg_advisory_unlock({who}1)"),
    Text("select random()"),
    Text("select pg_temp.f()"),
    Text("select nextval('tsq')"),
    Text("select x from tt order by 1"),
    Text("select count(*) from pg_cursors where name <> 'hc'"),
    Text("show my.var"),
    Text("select current_setting('my.var', true)"),
    Text("select current_setting('my.var', true) is null"),
    Text("show statement_timeout"),
    Text("show client_min_messages"),
    Text("show transaction_isolation"),
    Text("show transaction_read_only"),
    Text("do $$ begin raise notice 'hi'; raise warning 'ho'; raise log 'm'; end $$"),
)
SESSION_SETTINGS = {
    "my.var": ("a", "b", ""),
    "statement_timeout": ("1h", "0"),
    "client_min_messages": ("warning", "log", "notice"),
    "default_transaction_isolation": ("repeatable read", "read committed"),
}
# They live as long as their transaction. Portals of Bind have the same names.
CURSORS = (
    Text("declare tc cursor for select g from generate_series(1, 5) g"),
    Text("declare tc scroll cursor for select id, v from public.t order by id"),
    Text("declare p1 cursor for select 10 / (3 - g) from generate_series(1, 5) g"),
    Text("fetch 2 from tc"),
    Text("fetch all from tc"),
    Text("fetch backward 1 from tc"),
    Text("fetch 1 from p1"),
    Text("move 1 in tc"),
    Text("close tc"),
    Text("close p1"),
    Text("close all"),
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
# Types of the user's own, made and dropped under prepared statements.
TYPES = (
    Text("create type public.e1 as enum ('a', 'b')"),
    Text("create type public.e1 as (x int, y text)"),
    Text("create domain public.e1 as int check (value < 3)"),
    Text("drop type if exists public.e1 cascade"),
    Text("drop domain if exists public.e1 cascade"),
    Text("drop table if exists public.d4"),
    Text("create table if not exists public.d4 (x public.e1)"),
    Text("select $1::public.e1", (TEXT,)),
    Text("select $1::public.e1", (NUMBER,)),
    Text("select 'a'::public.e1"),
    Text("select '1'::public.e1"),
    Text("select x from public.d4"),
    Text("insert into public.d4 values ($1)", (TEXT,)),
    Text("select null::public.e1"),  # an array in binary would tell the type's number
    Text("alter type public.e1 add value if not exists 'c'"),
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
    ("", "select '1/2/2024'::date, 'a\\b'", ()),
    (" (date)", "select $1, $1 + 1", ("('1/2/2024')", "('2024-02-01')")),
    ("", "select '@PAD@'", ()),
    (" (text)", "select length($1)", ("('@PAD@')", "('x')")),
    ("", "table public.t", ()),
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
INSIDE = (
    "savepoint s1",
    "rollback to s1",
    "release s1",
    "savepoint s2",
    "rollback to savepoint s2",
    "begin",
    "set transaction read only",
    "set transaction isolation level repeatable read",
    "set transaction snapshot '00000003-1B-1'",
    "set constraints all deferred",
    "lock public.t in access share mode",
    "prepare transaction 'x{who}'",
)
PADS = (20_000, 70_000, 1_200_000)
NAMES_PAD = 70_000  # a Query above 1 MiB is read for a name in its first command only
NAMES = ("s1", "s2", "s3", "s4", "S 5")
SQL_NAMES = ("p1", "p2", "s1")
PORTALS = ("", "", "p1", "p2")
