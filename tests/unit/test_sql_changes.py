# SPDX-License-Identifier: MIT
"""What a text may change, told by its words."""

from __future__ import annotations

from random import Random
from types import ModuleType

import pytest

MEANING = {"meaning"}
DATABASES = {"meaning", "databases"}
LEFT = {"meaning", "setting"}
TEMPORARY = {"meaning", "temporary"}
ANYTHING = {"meaning", "hidden", "forgets"}

# The server of these reports TimeZone and application_name, but not search_path.
TEXTS: dict[str, set[str]] = {
    "": set(),
    ";": set(),
    "select 1": set(),
    "select 'set x = 1; do'": set(),
    "select $a$; set x = 1; $a$": set(),
    "select 1 -- ; set x = 1": set(),
    "begin; select 1; commit": {"back"},
    "rollback to a": {"back"},
    "set": LEFT,
    "set x = 1": LEFT,
    "SeT\n/* ; */ Session x to 1": LEFT,
    'set "X" = 1': LEFT,
    "set my.own = 1": LEFT,
    "set search_path = a": LEFT,
    "set local search_path = a": MEANING,
    "set timezone = 'UTC'": {"tracked"},
    "set local TimeZone = 'UTC'": {"tracked", "local"},
    'set "TimeZone" to 1': {"tracked"},
    "set time zone 1": {"tracked"},
    "set names 'x'": LEFT,  # not reported here
    "set application_name = 'x'": set(),
    "set statement_timeout = 1": {"setting"},
    "set local statement_timeout = 1": set(),
    "set transaction isolation level serializable": set(),
    "set constraints all deferred": set(),
    "set session characteristics as transaction read only": {"setting"},
    "set session authorization x": LEFT,
    "set role x": LEFT,
    "set local role x": MEANING,
    "set seed to 0.1": {"for good"},
    "set my.own to 'a'": LEFT,
    'set session "my.own" = 1': LEFT,
    'set my."own" to default': LEFT | {"for good"},
    "set local my.own to 'a'": MEANING,
    "reset my.own": LEFT,
    "select set_config('my.own', 'y', false)": LEFT,
    'set local "my"."own" = 1': MEANING | {"for good"},
    "set my . own = 1": LEFT | {"for good"},
    'set local my."own" = 1': MEANING | {"for good"},
    "set local my.1 = 1": MEANING | {"for good"},
    'set U&"my.own" = 1': LEFT | {"for good"},
    "select set_config('my.own', 'y', true)": MEANING,
    "reset all": {"tracked", "meaning"},
    "reset timezone": {"tracked"},
    "reset search_path": MEANING,
    "reset session authorization": MEANING,
    "discard all": {"forgets", "meaning", "tracked"},
    "discard plans": MEANING,
    "deallocate all": {"forgets"},
    "deallocate prepare all": {"forgets"},
    "deallocate a": set(),
    "create table t (a int)": MEANING,
    "create temp table t (a int)": TEMPORARY,
    "create or replace temporary view t as select 1": TEMPORARY,
    "create global temp sequence s": TEMPORARY,
    "create temp table t (a int) on commit drop": MEANING,
    "create temp table t (a int) on commit delete rows": TEMPORARY,
    "create temp table t on commit drop as select 1": MEANING,
    "create temp table t (a text default 'on commit drop')": TEMPORARY,
    "create temp table t (commit drop)": TEMPORARY,
    "create temp table t as select $a$on commit drop$a$": TEMPORARY,
    'create temp table "on commit drop" (a int)': TEMPORARY,
    "create temp table t /* on commit drop */ (a int)": TEMPORARY,
    "create temp table t as select commit drop from u": TEMPORARY,
    "create table pg_temp.t (a int)": TEMPORARY,
    "create function pg_temp.f() returns int language sql as 'select 1'": TEMPORARY,
    "select 1 into temp t": TEMPORARY,
    "select 1 into local temporary table t": TEMPORARY,
    "select temp from weather": set(),
    "explain analyze create temp table t as select 1": TEMPORARY,
    "alter table t add b int": MEANING,
    "drop table t": MEANING,
    "drop table database": MEANING,
    "drop databases": MEANING,
    "drop database x": DATABASES,
    "/* - */ DROP\n--\nDATABASE IF EXISTS x": DATABASES,
    "create database x template y": DATABASES,
    "create or replace database x": MEANING,
    "alter database x rename to y": DATABASES,
    "alter database x set my.own = 1": DATABASES,
    "begin; drop database x": DATABASES,
    "select 'drop database x'": set(),
    "explain drop database x": DATABASES,
    "do $$ begin end $$": ANYTHING,
    "call p()": ANYTHING,
    "listen a": {"listen"},
    "unlisten a": set(),
    "load 'x'": {"for good", "meaning"},
    "declare c cursor for select 1": set(),
    "declare c no scroll cursor without hold for select 1": set(),
    "declare c cursor with hold for select 1": {"cursor"},
    "declare c cursor for select 1 with hold": set(),
    'declare "for" cursor with hold for select 1': {"cursor"},
    'declare "with hold" cursor for select 1': set(),
    "select set_config('x', 'y', false)": LEFT,
    "select set_config('x', 'y', true)": MEANING,
    "select set_config('timezone', 'y', true)": {"tracked", "local"},
    "select set_config('x', 'y', true and false)": LEFT,
    "select set_config('x', 'y', true::bool)": LEFT,
    "select set_config('x', 'y', true )": MEANING,
    "select set_config('x', f(1, ')'), $1)": LEFT,
    'select "set_config" (a, b, c)': LEFT,
    "update t set a = set_config('x', 'y', false)": LEFT,
    "select set_user(1)": LEFT,
    "select offset_count from t": set(),
    "select set_config from t": set(),
    "select currval('s')": {"sequences"},
    'select pg_catalog."lastval" /* */ ()': {"sequences"},
    "select LASTVAL()": {"sequences"},
    "select currval, lastval, nextval('s') from t": set(),
    "select nextval('s')": set(),
    "update pg_settings set setting = 1": {*LEFT, "tracked"},
    'update only PG_CATALOG."pg_settings" s set a = 1': set(),
    "update pg_catalog.pg_settings s set a = 1": {*LEFT, "tracked"},
    "update pg_settings_of_mine set a = 1": set(),
    "select pg_advisory_lock(1)": {"lock"},
    "select pg_try_advisory_lock_shared(1)": {"lock"},
    "select pg_advisory_xact_lock(1)": set(),
    "select pg_advisory_unlock(1)": set(),
    "select setseed(0.1)": {"for good"},
    "select dblink_connect('a', 'b')": {"for good"},
    "select 1; set x = 1; select 2": LEFT,
    "select ';'; listen a": {"listen"},
    ";;; set x = 1;": LEFT,
}


@pytest.mark.parametrize("text", TEXTS)
def test_what_a_text_changes(probe: ModuleType, text: str) -> None:
    assert probe.changes_of(text.encode()) == TEXTS[text]


@pytest.mark.parametrize("text", TEXTS)
def test_wherever_it_stands(probe: ModuleType, text: str) -> None:
    """Behind blanks and comments, far from the beginning, before another command."""
    for form in (
        "  \n-- c\n/* /* ; */ set a = 1 */ {}",
        "select 1; {}",
        "select '%s'; {}" % ("x" * 100),
        "{} ; select 1",
    ):
        assert probe.changes_of(form.format(text).encode()) == TEXTS[text], form


def test_every_way_to_cut_a_text_is_read_within_it(probe: ModuleType) -> None:
    """A text that ends anywhere is looked at up to its end, whatever it says."""
    for text in TEXTS:
        raw = text.encode()
        for n in range(len(raw)):
            probe.changes_of(raw[:n])
            probe.changes_of(raw[:n], True)


def test_what_a_plan_changes(probe: ModuleType) -> None:
    assert probe.changes_of(b" as select set_config('x', 'y', false)", True) == LEFT
    assert probe.changes_of(b"(int) as select $1", True) == set()


ALL = {"zone", "label", "path"}
RESETS: dict[str, set[str]] = {
    "reset timezone": {"zone"},
    "reset time zone": {"zone"},
    "reset my.own": set(),
    "reset all": ALL,
    "discard all": ALL,
    "set timezone to default": {"zone"},
    "set session timezone = default": {"zone"},
    "set local timezone to default": {"local zone"},
    "set local time zone local": {"local zone"},
    "set time zone default": {"zone"},
    "set timezone = 'UTC'": {"gives"},
    "set local timezone = 'UTC'": {"lends"},
    "set timezone from current": {"gives"},
    "reset timezone; set timezone = 'UTC'": {"zone", "gives"},
    "reset timezone; set local timezone = 'UTC'": {"zone", "lends"},
    "set timezone = 'UTC'; reset timezone": {"zone"},
    "set local timezone = 'UTC'; set local timezone to default": {"local zone"},
    "reset timezone; commit": {"zone"},
    "reset time zone; set timezone = 'a'; reset application_name": {
        "zone",
        "label",
        "gives",
    },
    "reset timezone; rollback": {"undoes"},
    "reset timezone; abort and chain; reset all": {"undoes", *ALL},
    "reset timezone; rollback transaction to a": {"zone", "gives", "lends"},
    "select set_config('timezone', null, false)": {"zone"},
    "select set_config('timezone', NULL, true)": {"local zone"},
    "select set_config('timezone', 'a,b(', true)": {"lends"},
    "select set_config('timezone', $1, false)": {"zone", "gives"},
    "select set_config($1, f(2, ')'), $3)": {*ALL, "gives"},
    "select set_config('a', null": set(),
    "select set_config(": {*ALL, "gives"},
    "update pg_settings set setting = null": {*ALL, "gives"},
}


@pytest.mark.parametrize("text", RESETS)
def test_what_a_text_resets(probe: ModuleType, text: str) -> None:
    assert probe.resets_of(text.encode()) == RESETS[text]


def test_a_name_is_found_at_every_place(probe: ModuleType) -> None:
    """What looks at 16 bytes at a time sees it over their edges and at the end."""
    for name, found in (("currval()", "sequences"), ("lastval()", "sequences")):
        for before in range(1, 50):
            for behind in range(20):
                text = b" " * before + name.encode() + b" " * behind
                assert probe.changes_of(text) == {found}, (before, behind)


# ------------------------------------------------------------ plain texts

PLAIN = (
    "select 1",
    "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;",
    "insert into a values (1)",
    "Delete from a where b = 'x'",
    "begin",
    "with a as (select 1) select * from a",
    "values (1), (2)",
    "select " + "x, " * 50 + "y",
)
PIECES = (
    "select ", "sel", "insert ", "import ", "delete ", "deallocate a", "declare ",
    "update ", "set ", "reset all", "begin", "commit", "prepare p as ", "execute p",
    "explain ", "create temp table a as ", "discard all", "do ", "with a as ",
    "set_config(", "pg_advisory_lock(1)", "setseed(1)", "currval('a')", "lastval()",
    "into temp a ", "dblink_connect(", "pg_temp.a", ";", "; ", " ", "'", "$$", "--",
    "/*", "*/", "\n", "x", "abcdefghijklmnop", '"', "(", ")", "1",
)  # fmt: skip


def check_plain(probe: ModuleType, raw: bytes) -> bool:
    """Whether it is plain; if so, a longer look finds nothing in it."""
    plain = bool(probe.is_plain_text(raw))
    if plain:
        assert probe.all_changes_of(raw) == 0, raw
        assert probe.custom_of(raw) == [], raw
        for flags in range(8):
            assert probe.sql_commands(raw, flags) == [], raw
    return plain


@pytest.mark.parametrize("text", PLAIN)
def test_most_texts_are_plain(probe: ModuleType, text: str) -> None:
    assert check_plain(probe, text.encode())


@pytest.mark.parametrize("text", TEXTS)
def test_a_plain_text_changes_nothing(probe: ModuleType, text: str) -> None:
    """Wherever its parts stand, at every distance from its ends."""
    for n in range(40):
        for form in ("{}", "select {}", "select '{}", "insert into a {} b", "x{};"):
            for blank in ("", "y" * n):
                check_plain(probe, form.format(blank + text).encode())
                check_plain(probe, form.format(text + blank).encode())


def test_random_plain_texts(probe: ModuleType) -> None:
    random = Random(8)
    plain = 0
    for _ in range(20_000):
        text = "".join(random.choices(PIECES, k=random.randint(1, 6)))
        plain += check_plain(probe, text.encode())
        plain += check_plain(probe, text.upper().encode())
    assert plain > 500


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("set my.own = 1", ["my.own"]),
        ('set local "My.own" to DEFAULT', ["my.own"]),
        ("reset my.own", ["my.own"]),
        ("begin; set local a.b = 1; set local a.c = 2; set a.b = 3", ["a.b", "a.c"]),
        (
            "select set_config('a.b', 'x', true), set_config('c.d', $1, false)",
            ["a.b", "c.d"],
        ),
        ("do $$ begin perform set_config('a.b', 'x', true); end $$", ["a.b"]),
        (
            "do $$ begin set local a.b = 1; execute 'set c.d = 2'; end $$",
            ["a.b", "c.d"],
        ),
        ("alter role me set a.b = 1", ["a.b"]),
        ("create function f() returns int set a.b = 1 as 'x'", ["a.b"]),
        ("set search_path = a.b", []),
        ("select a.b from a", []),
        ("update a set b = c.d", []),
    ],
)
def test_parameters_of_ones_own(probe: ModuleType, text: str, names: list[str]) -> None:
    assert probe.custom_of(text.encode()) == names


@pytest.mark.parametrize("n", [*range(9, 70)])
def test_the_first_look_misses_nothing(probe: ModuleType, n: int) -> None:
    """Sixteen bytes at a time, wherever one of these stands; nothing is behind it."""
    text = b"SELECT " + b"a" * (n - 7)
    assert probe.is_plain_text(text)
    assert probe.is_plain_text(text[:-1] + b";")
    for at in range(7, n - 1):
        for part in (b"t_", b"rrv", b"; "):
            if at + len(part) <= n:
                seen = text[:at] + part + text[at + len(part) :]
                assert not probe.is_plain_text(seen), (at, part)
