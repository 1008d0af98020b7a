# SPDX-License-Identifier: MIT
"""The little SQL that is read: PREPARE, EXECUTE, DEALLOCATE, and special dates."""

from __future__ import annotations

from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

NOT_OURS = [
    "",
    "   ",
    ";;",
    "select 1",
    "SELECT 'execute a'",
    "prepare",
    "prepare ",
    "prepare 7 as select 1",
    "prepare transaction 'x'",
    "PREPARE TRANSACTION E'x'",
    "execute",
    "execute $1",
    "deallocate",
    "prepared a",
    "executes a",
    "explain select 1",
    "explain (analyze, format json) select 1",
    "delete from t",
    "discard plans",
    "do $$ begin execute 'x'; end $$",
    "-- prepare a as select 1",
    "/* prepare a as select 1",
    'execute ""',
    "execute E'a'",
    'execute "unfinished',
    'execute U&""',
    'execute U&"\\00g1"',
    'execute U&"\\0000"',
    'execute U&"\\D83D"',
    'execute U&"\\DE00"',
    'execute U&"\\+110000"',
    "execute U&\"a\" uescape '+'",
    "execute U&\"a\" uescape ''''",
    'execute U&"a" uescape',
    'execute U&"unfinished',
    'execute U&"half""',
    'execute "half""',
    "execute select",
    "prepare Table as select 1",
    "execute left",
    "create table t as select 1",
    "create table t as select 1 as execute",
    "create table execute(as int)",
    "create view v as execute",
    "create function f() language sql begin atomic execute a; end",
    "commit",
    "select ';', '; execute a'",
    "';' execute a",
    "select $$; execute a$$",
    "select $a$;$b$; execute a; $a$",
    'select ";" as "; execute a"',
    "select E'\\'; execute a'",
    "select e'x\\'' '; execute a'",
    "select E'a' -- x\n 'b\\'; execute a'",
    "select U&'; execute a' uescape '!'",
    "select B'1;', x'; execute a'",
    "select 1 /* ; execute a */",
    "select 1 /* /* */; execute a */",
    "select 1 -- ; execute a",
    "create rule r as on insert to t do (delete from t; execute a)",
]
ONE = [
    ("prepare a as select 1", "prepare", "a", "a"),
    ("PREPARE a(int) AS SELECT $1", "prepare", "a", "a"),
    ("  Execute\n a ( 1 )", "execute", "a", "a"),
    ("execute AbC", "execute", "abc", "AbC"),
    ('execute "AbC"', "execute", "AbC", '"AbC"'),
    ('execute "a""b" (1)', "execute", 'a"b', '"a""b"'),
    ('execute"a"', "execute", "a", '"a"'),
    ("execute a$1_é(2)", "execute", "a$1_é", "a$1_é"),
    ("/* x /* y */ z */ execute -- no\n a", "execute", "a", "a"),
    ("explain execute a(1)", "execute", "a", "a"),
    ("explain analyze verbose execute a", "execute", "a", "a"),
    ("explain (analyze, buffers (on)) execute a", "execute", "a", "a"),
    ("deallocate a", "deallocate", "a", "a"),
    ("deallocate prepare a", "deallocate", "a", "a"),
    ("deallocate prepare", "deallocate", "prepare", "prepare"),
    ('deallocate "all"', "deallocate", "all", '"all"'),
    ("prepare transaction as select 1", "prepare", "transaction", "transaction"),
    ("execute " + "x" * 80, "execute", "x" * 63, "x" * 80),
    ("execute " + "x" * 62 + "é", "execute", "x" * 62, "x" * 62 + "é"),
    ("execute " + "x" * 60 + "€€", "execute", "x" * 60 + "€", None),
    ('prepare U&"a" as select 1', "prepare", "a", 'U&"a"'),
    (
        r'execute U&"d\0061t\+000061" (1)',
        "execute",
        "data",
        r'U&"d\0061t\+000061"',
    ),
    (
        'execute u&"d!0061!!""t" /* x */ UESCAPE \'!\'(1)',
        "execute",
        'da!"t',
        'u&"d!0061!!""t" /* x */ UESCAPE \'!\'',
    ),
    (r'deallocate U&"\D83D\DE00\00e9"', "deallocate", "😀é", None),
    ('execute "select"', "execute", "select", '"select"'),
    ("execute abs", "execute", "abs", "abs"),
    ("create table t as execute a(1)", "execute", "a", "a"),
    (
        "create temp table if not exists t (x, y) with (f = 'as execute b') "
        'as execute "A" with no data',
        "execute",
        "A",
        '"A"',
    ),
    ("explain analyze create table t as execute a", "execute", "a", "a"),
]


@pytest.mark.parametrize("text", NOT_OURS)
def test_is_left_alone(probe: ModuleType, text: str) -> None:
    assert probe.sql_commands(text.encode()) == []


@pytest.mark.parametrize(("text", "verb", "name", "written"), ONE)
def test_one_command(
    probe: ModuleType, text: str, verb: str, name: str, written: str | None
) -> None:
    raw = text.encode()
    [found] = probe.sql_commands(raw)
    shown = found[2] if written is None else written.encode()
    assert found == (verb, name.encode(), shown, len(raw))


@pytest.mark.parametrize(
    "text",
    ["deallocate all", "DEALLOCATE PREPARE ALL", "discard all", " Discard\tALL ;"],
)
def test_everything_is_forgotten(probe: ModuleType, text: str) -> None:
    [found] = probe.sql_commands(text.encode())
    assert found[0] == "forget all"


def test_many_commands(probe: ModuleType) -> None:
    text = (
        "prepare a as select ';', $q$;$q$, E'\\';', \";\" /*;*/ --;\n, 1;"
        "select $1; execute a; ; deallocate a;"
    )
    found = probe.sql_commands(text.encode())
    assert [(verb, name) for verb, name, _, _ in found] == [
        ("prepare", b"a"),
        ("execute", b"a"),
        ("deallocate", b"a"),
    ]
    assert text[: found[0][3]].endswith(", 1")


BEFORE = (
    "begin",
    "set x = 1",
    "select ';', $q$;$q$, E'\\';', \";\" /*;*/ --;\n, 1",
    "select 'a'\n'b;', E'c'\n'\\';' , U&'d;' uescape '!', N'e;'",
    "insert into t values ('it''s;', $1, a$1$, 1)",
    "create rule r as on insert to t do (delete from t; delete from u)",
    "create function f() returns int language sql begin atomic select 1; "
    "select case when true then 1 end; select 1 as end, t.end from t; end",
    "create or replace procedure p(x int default 1) begin atomic "
    "update t set a = (case 1 when 1 then 2 end); end",
    "create function begin() returns int return 1",
    "create table t as select 'as execute b'",
    "create table t (a int, b text default ';')",
    "create view v as select 1 as execute",
    "select -1 - -1 / 2",
    "do $$ begin execute 'x;'; end $$",
    "savepoint s",
    "explain (costs off, format 'json') select ';'",
    "execute",
    "copy t from stdin",
    "",
)


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("after", ["", ";", "; commit", "; select ';'; x"])
def test_command_anywhere(probe: ModuleType, before: str, after: str) -> None:
    text = f'{before} ;execute a(1);{before}; deallocate /* */ "B"{after}'.encode()
    found = probe.sql_commands(text)
    assert [one[:3] for one in found] == [
        ("execute", b"a", b"a"),
        ("deallocate", b"B", b'"B"'),
    ]
    n = before != ""
    assert probe.sql_indexes(text)[0] == [n, 2 * n + 1]


BACKSLASHES, UTF8, SHIFTED = 1, 2, 4


@pytest.mark.parametrize(
    ("text", "flags", "names"),
    [
        (rb"select '\'; execute a --'", 0, [b"a"]),
        (rb"select '\'; execute a --'", BACKSLASHES, []),
        (rb"select '\''; execute a --'; execute b", BACKSLASHES, [b"a"]),
        (b"select 'x'\n'\\'; execute b'; execute a", BACKSLASHES, [b"a"]),
        (rb"select N'\'; execute b'; execute a", BACKSLASHES, [b"a"]),
        (rb"select B'\'; execute a", BACKSLASHES, [b"a"]),
        (rb"select x'\'; execute a", BACKSLASHES, [b"a"]),
        (rb"select tx'\'; execute b'; execute a", BACKSLASHES, [b"a"]),
        (rb'select "\"; execute a', BACKSLASHES, [b"a"]),
        (rb"select $$\$$; execute a", BACKSLASHES, [b"a"]),
        (rb"select fe'\'; execute a", 0, [b"a"]),
        (rb"select $1e'\'; execute b'; execute a", 0, [b"a"]),
        (rb"select $a$ $a$e'\'; execute b'; execute a", 0, [b"a"]),
        (rb"select 1$a$; execute b$a$; execute a", 0, [b"a"]),
        (rb"select $1$a$; execute b$a$; execute a", 0, [b"a"]),
        (rb"select +e'\'; execute b'; execute a", 0, [b"a"]),
        # half of a character of SJIS is a backslash
        (b"select E'\x95\\'; execute a", SHIFTED, [b"a"]),
        (b"execute \x83A; execute \x83a", SHIFTED, [b"\x83A", b"\x83a"]),
        (b"execute \x95\\b", SHIFTED, [b"\x95\\b"]),
        # one of a single byte is no UTF-8
        (b"execute " + b"x" * 62 + b"\xe9\x80", 0, [b"x" * 62 + b"\xe9"]),
    ],
)
def test_how_a_session_reads_literals(
    probe: ModuleType, text: bytes, flags: int, names: list[bytes]
) -> None:
    assert [name for _, name, *_ in probe.sql_commands(text, flags)] == names


def test_name_that_is_no_text(probe: ModuleType) -> None:
    """All of its bytes go on a character that nobody has begun."""
    assert probe.sql_commands(b"execute " + b"\x9d" * 70, UTF8) == []


def test_many_commands_are_found(probe: ModuleType) -> None:
    text = b"execute p(1);" * 20_000
    assert len(probe.sql_commands(text)) == 20_000


@pytest.mark.parametrize(
    "text",
    [
        "select now()",
        "select now ( )",
        "select * from nowhere",
        "select 'tomorrows'",
        "for update nowait",
        "select current_timestamp, 'infinity'::timestamp",
    ],
)
def test_text_that_always_means_the_same(probe: ModuleType, text: str) -> None:
    assert probe.is_stable_text(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "select 'now'::timestamp",
        "select date 'TODAY'",
        "select 'tomorrow 10:00'::timestamp",
        "select '10:00 yesterday'::timestamp",
        "select 'today10:00'::timestamp",
        "select $$now$$::timestamp",
        "select now",
    ],
)
def test_text_that_is_read_anew_each_time(probe: ModuleType, text: str) -> None:
    assert not probe.is_stable_text(text.encode())


@given(st.binary(max_size=200))
def test_any_bytes(probe: ModuleType, raw: bytes) -> None:
    """Nothing is read beyond the end; what is found lies inside."""
    probe.sql_commands(raw)
    probe.is_stable_text(raw)


WORDS = (
    "prepare ",
    "execute ",
    "deallocate ",
    "all",
    "a",
    " as ",
    "explain ",
    "select",
)
MARKS = ('"', "'", "$", "$x$", "/*", "*/", "--", "\n", ";", "(", ")", "E'", "\\", "U&")
SQL_PIECES = st.sampled_from(WORDS + MARKS)


@given(st.lists(SQL_PIECES, max_size=12))
def test_any_pieces_of_sql(probe: ModuleType, pieces: list[str]) -> None:
    raw = "".join(pieces).encode()
    ends = [end for *_, end in probe.sql_commands(raw)]
    assert ends == sorted(ends)
    assert all(end == len(raw) or raw[end : end + 1] == b";" for end in ends)


# ------------------------------------------------------------ beginnings of texts


def first_of(probe: ModuleType, raw: bytes) -> tuple[str, bytes]:
    """Verb and name of the first command of all of a text."""
    if 0 in probe.sql_indexes(raw)[0]:
        verb, name, *_ = probe.sql_commands(raw)[0]
        return verb, name
    return "other", b""


@pytest.mark.parametrize("text", NOT_OURS + [text for text, *_ in ONE])
def test_a_beginning_says_nothing_that_all_does_not(
    probe: ModuleType, text: str
) -> None:
    raw = text.encode() + b" ("
    verb, name = first_of(probe, raw)
    for n in range(len(raw)):
        assert probe.sql_beginning(raw[:n]) in (None, (verb, name))
    assert None in map(probe.sql_beginning, (b"", b"exec", b"execute a", b"execute /"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("s", ("other", b"")),
        ("px", None),
        ("px ", ("other", b"")),
        ("execute a(", ("execute", b"a")),
        ('execute "a', None),
        ('execute "a"', None),
        ('execute "a" ', ("execute", b"a")),
        ("/* execute a(", None),
        ("-", None),
        ("--\n;; execute a ", ("execute", b"a")),
        ("explain analyze", None),
        ("explain analyze s ", ("other", b"")),
        ("explain (analyze, format 'x", None),
        ("prepare transaction", None),
        ("prepare transaction ", None),
        ("prepare transaction as", ("prepare", b"transaction")),
        ("prepare transaction 'x", ("other", b"")),
        ("deallocate prepare ", None),
        ("deallocate prepare;", ("deallocate", b"prepare")),
        ("deallocate prepare a ", ("deallocate", b"a")),
        ("deallocate all", None),
        ("deallocate all ", ("forget all", b"")),
        ("discard al", None),
        ("discard all;", ("forget all", b"")),
    ],
)
def test_how_much_of_a_text_is_enough(
    probe: ModuleType, text: str, found: tuple[str, bytes] | None
) -> None:
    assert probe.sql_beginning(text.encode()) == found


@given(st.lists(SQL_PIECES, max_size=12))
def test_any_beginning(probe: ModuleType, pieces: list[str]) -> None:
    raw = "".join(pieces).encode()
    whole = first_of(probe, raw)
    for n in range(len(raw)):
        assert probe.sql_beginning(raw[:n]) in (None, whole)


@pytest.mark.parametrize("command", ["execute a", "/**/execute a", "Deallocate a"])
def test_a_command_behind_many_semicolons_is_found(
    probe: ModuleType, command: str
) -> None:
    """Those of a literal are passed 16 bytes at a time, wherever the last stands."""
    for before in range(40):
        for gap in ("", " ", "\n\t  ", " " * 20):
            for behind in ("", ";", " ;" + " " * 20):
                text = f"select '{'7;' * before}{'x' * (before % 3)}';{gap}{command}"
                found = probe.sql_commands((text + behind).encode())
                assert len(found) == 1, (before, gap, behind)
        assert probe.sql_commands(f"select '{'7;' * before}'; ".encode()) == []
