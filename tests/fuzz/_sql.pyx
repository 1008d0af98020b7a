# SPDX-License-Identifier: MIT
"""SQL on arbitrary bytes; see ``_sql.pxd``."""

from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from pooler.statements.sql_name cimport SqlCommand
from pooler.statements.sql_scan cimport SQL_UTF8
from pooler.statements.sql_text cimport (
    SQL_FORGET_ALL, SQL_OTHER, SqlText, sql_begin, sql_concerns, sql_first,
    sql_first_concerns, sql_is_stable, sql_next,
)
from tests.fuzz._checks cimport check

cdef enum:
    MOST_BEGINNINGS = 300  # of a text are read by themselves
    OUR_NAME_BYTES = 4
    WRITTEN_BYTES = 6

cdef const char *OUR_NAME = b"p_12"
cdef const char *WRITTEN = b"\"p_12\""  # a quote ends the word in front of it


cdef void check_renamed(
    const uint8_t *text, size_t n, const SqlCommand *command, int before
) noexcept nogil:
    """The command stays what it is when another name stands in it.

    ``before``: how many commands of the text come before it.
    """
    cdef size_t size = n - (command.name_end - command.name_start) + WRITTEN_BYTES
    cdef uint8_t *copy = <uint8_t *> malloc(size)
    cdef SqlCommand again
    cdef SqlText walk
    cdef size_t behind = command.name_start + WRITTEN_BYTES
    memcpy(copy, text, command.name_start)
    memcpy(copy + command.name_start, WRITTEN, WRITTEN_BYTES)
    memcpy(copy + behind, text + command.name_end, n - command.name_end)
    sql_begin(&walk, copy, size, SQL_UTF8)
    while before >= 0:
        check(sql_next(&walk, &again), "renamed, a command is gone")
        before -= 1
    free(copy)
    check(again.verb == command.verb, "renamed, it is another command")
    check(
        again.name_n == OUR_NAME_BYTES
        and memcmp(again.name, OUR_NAME, OUR_NAME_BYTES) == 0,
        "renamed, it has another name than ours",
    )
    check(again.name_start == command.name_start, "renamed, its name is elsewhere")
    check(
        size - again.end == n - command.end, "renamed, it ends elsewhere"
    )


cdef void check_beginnings(const uint8_t *text, size_t n) noexcept nogil:
    """What the beginning of a text surely is, all of it is."""
    cdef SqlCommand whole
    cdef SqlCommand part
    cdef uint8_t *copy
    cdef SqlText walk
    cdef size_t k
    cdef bint ours
    sql_begin(&walk, text, n, SQL_UTF8)
    ours = sql_next(&walk, &whole) and whole.index == 0
    check(
        sql_first(text, n, SQL_UTF8, &part) == ours,
        "sql_first and sql_next disagree",
    )
    for k in range(n if n < MOST_BEGINNINGS else MOST_BEGINNINGS):
        copy = <uint8_t *> malloc(k)
        if k:
            memcpy(copy, text, k)
        part.verb = SQL_OTHER
        part.cut = False
        if sql_first_concerns(copy, k):
            sql_first(copy, k, SQL_UTF8, &part)
        free(copy)
        if part.cut:
            continue
        check((part.verb != SQL_OTHER) == ours, "a beginning says what all does not")
        if ours:
            check(part.verb == whole.verb, "a beginning is of another kind")
        if ours and part.verb != SQL_FORGET_ALL:
            check(
                part.name_start == whole.name_start and part.name_end == whole.name_end
                and part.name_n == whole.name_n
                and memcmp(part.name, whole.name, part.name_n) == 0,
                "a beginning has another name",
            )


cdef int fuzz_sql(const uint8_t *src, size_t n) noexcept nogil:
    """Read a text as the relay does, and replace each name in it."""
    cdef uint8_t *text = <uint8_t *> malloc(n)
    cdef SqlCommand command
    cdef SqlText walk
    cdef size_t last = 0
    cdef int count = 0
    if n:
        memcpy(text, src, n)
    sql_is_stable(text, n)
    check_beginnings(text, n)
    sql_begin(&walk, text, n, SQL_UTF8)
    check(
        sql_concerns(text, n) or not sql_next(&walk, &command),
        "sql_next finds what sql_concerns does not see",
    )
    sql_begin(&walk, text, n, SQL_UTF8)
    while sql_next(&walk, &command):
        check(command.verb != SQL_OTHER, "a command of no kind")
        check(last <= command.end <= n and walk.at == command.end, "a command's end")
        if command.verb != SQL_FORGET_ALL:
            check(
                last <= command.name_start < command.name_end <= command.end,
                "a name outside its command",
            )
            check(command.name_n != 0, "a name of no bytes")
            check_renamed(text, n, &command, count)
        last = command.end
        count += 1
    free(text)
    return 0
