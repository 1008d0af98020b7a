# SPDX-License-Identifier: MIT
"""The little SQL that a pooler must read: PREPARE, EXECUTE, DEALLOCATE.

Statements layer, sans-IO. Every Query and Parse pays for ``sql_concerns``, which looks
at the first letter; only what may be one of these statements is read further. Nothing
else of SQL is understood: a statement is where its keyword stands, a name, and where
it ends.

Source: PostgreSQL documentation, "Lexical Structure", "PREPARE", "EXECUTE",
"DEALLOCATE", "DISCARD".
"""

from libc.stdint cimport uint8_t

cdef enum SqlVerb:
    SQL_OTHER
    SQL_PREPARE
    SQL_EXECUTE  # also behind EXPLAIN
    SQL_DEALLOCATE
    SQL_FORGET_ALL  # DEALLOCATE ALL, DISCARD ALL

cdef enum:
    SQL_NAME_BYTES = 63

cdef struct SqlCommand:
    uint8_t verb  # SqlVerb
    size_t name_start  # of the name as it is written, quotes included
    size_t name_end
    size_t end  # behind the statement: at its semicolon or at the end of the text
    bint cut  # verb and name stand at the end of the text: more of it may change them
    uint8_t name_n
    uint8_t name[SQL_NAME_BYTES]  # as PostgreSQL reads it

cdef size_t skip_blank(const uint8_t *text, size_t n, size_t at) noexcept nogil
cdef size_t skip_word(const uint8_t *text, size_t n, size_t at) noexcept nogil
cdef size_t skip_explain(const uint8_t *text, size_t n, size_t at) noexcept nogil
cdef bint sql_first(const uint8_t *text, size_t n, SqlCommand *found) noexcept nogil
cdef size_t sql_end(const uint8_t *text, size_t n, size_t at) noexcept nogil
cdef bint sql_next(
    const uint8_t *text, size_t n, size_t *pos, SqlCommand *found
) noexcept nogil
cdef bint sql_is_stable(const uint8_t *text, size_t n) noexcept nogil


cdef inline bint sql_concerns(const uint8_t *text, size_t n) noexcept nogil:
    """Whether sql_next may find anything: by the first letter behind blanks.

    A comment may hide a keyword, so it counts as one; so does a text of blanks, behind
    which more may come.
    """
    cdef size_t at = 0
    cdef uint8_t first
    while at < n and (text[at] == c" " or 9 <= text[at] <= 13):
        at += 1
    if at == n:
        return True
    first = text[at] | 0x20
    return (
        first == c"p" or first == c"e" or first == c"d"
        or text[at] == c"-" or text[at] == c"/" or text[at] == c";"
    )
