# SPDX-License-Identifier: MIT
"""The little SQL that a pooler must read: PREPARE, EXECUTE, DEALLOCATE.

Statements layer, sans-IO. Every Query and Parse pays for ``sql_concerns``, which looks
at the first letter, and at those behind each semicolon wherever that stands; only what
may have one of these commands is read further. Nothing else of SQL is understood: a
command is where its keyword stands, a name, and where it ends.

Source: PostgreSQL documentation, "Lexical Structure", "PREPARE", "EXECUTE",
"DEALLOCATE", "DISCARD", "CREATE TABLE AS", "CREATE FUNCTION".
"""

from libc.stdint cimport uint8_t, uint32_t

from pooler.statements.sql_name cimport SqlCommand
from pooler.statements.sql_scan cimport is_space

cdef enum SqlVerb:
    SQL_OTHER
    SQL_PREPARE
    SQL_EXECUTE  # also behind EXPLAIN and CREATE TABLE ... AS
    SQL_DEALLOCATE
    SQL_FORGET_ALL  # DEALLOCATE ALL, DISCARD ALL

cdef struct SqlText:  # a walk over the commands of a text
    const uint8_t *text  # borrow
    size_t n
    size_t at  # where it stands: in front of a command, or at the end of one
    uint32_t commands  # how many it has passed
    uint8_t flags  # SqlFlag

cdef size_t skip_explain(
    const uint8_t *text, size_t n, size_t at, uint8_t flags
) noexcept nogil
cdef bint sql_first(
    const uint8_t *text, size_t n, uint8_t flags, SqlCommand *found
) noexcept nogil
cdef bint sql_next(SqlText *walk, SqlCommand *found) noexcept nogil
cdef bint sql_has_more(const uint8_t *text, size_t n) noexcept nogil
cdef bint sql_is_stable(const uint8_t *text, size_t n) noexcept nogil


cdef inline void sql_begin(
    SqlText *walk, const uint8_t *text, size_t n, uint8_t flags
) noexcept nogil:
    """Stand before the first command of text[0:n), which is borrowed."""
    walk.text = text
    walk.n = n
    walk.at = walk.commands = 0
    walk.flags = flags


cdef inline bint sql_first_concerns(const uint8_t *text, size_t n) noexcept nogil:
    """Whether the first command may be one of ours: by its first letters.

    A comment may hide a keyword, so it counts as one; so does a text of blanks, behind
    which more may come.
    """
    cdef size_t at = 0
    cdef uint8_t first
    while at < n and is_space(text[at]):
        at += 1
    if at == n:
        return True
    first = text[at] | 0x20
    if first == c"c":  # CREATE, not COMMIT
        return at + 1 == n or text[at + 1] | 0x20 == c"r"
    return (
        first == c"p" or first == c"e" or first == c"d"
        or text[at] == c"-" or text[at] == c"/" or text[at] == c";"
    )


cdef inline bint sql_concerns(const uint8_t *text, size_t n) noexcept nogil:
    """Whether sql_next may find anything."""
    return sql_first_concerns(text, n) or sql_has_more(text, n)
