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
    'prepare U&"a" as select 1',
    'execute ""',
    "execute E'a'",
    'execute "unfinished',
    "select 1; prepare a as select 1",
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
]


@pytest.mark.parametrize("text", NOT_OURS)
def test_is_left_alone(probe: ModuleType, text: str) -> None:
    assert probe.sql_commands(text.encode()) == []


@pytest.mark.parametrize(("text", "verb", "name", "written"), ONE)
def test_one_command(
    probe: ModuleType, text: str, verb: str, name: str, written: str
) -> None:
    raw = text.encode()
    [found] = probe.sql_commands(raw)
    assert found == (verb, name.encode(), written.encode(), len(raw))


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


@pytest.mark.parametrize("text", NOT_OURS + [text for text, *_ in ONE])
def test_a_beginning_says_nothing_that_all_does_not(
    probe: ModuleType, text: str
) -> None:
    raw = text.encode() + b" ("
    [(verb, name), *_] = [found[:2] for found in probe.sql_commands(raw)] or [
        ("other", b"")
    ]
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
    [whole, *_] = [found[:2] for found in probe.sql_commands(raw)] or [("other", b"")]
    for n in range(len(raw)):
        assert probe.sql_beginning(raw[:n]) in (None, whole)
