# SPDX-License-Identifier: MIT
"""The name of a prepared statement as it stands in SQL.

Statements layer, sans-IO, hot. It is read as PostgreSQL reads an identifier: folded to
lower case unless it is quoted, U&"..." with its escapes, cut to 63 bytes.

Source: PostgreSQL documentation, "Identifiers and Key Words", "SQL Key Words".
"""

from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    SQL_NAME_BYTES = 63

cdef struct SqlCommand:
    uint8_t verb  # SqlVerb
    size_t name_start  # of the name as it is written, quotes included
    size_t name_end
    size_t end  # behind the statement: at its semicolon or at the end of the text
    uint32_t index  # how many commands of the text come before it
    bint cut  # verb and name stand at the end of the text: more of it may change them
    bint name_whole  # no more bytes of it count
    uint8_t name_n
    uint8_t name[SQL_NAME_BYTES]  # as PostgreSQL reads it

cdef bint read_name(
    const uint8_t *text, size_t n, size_t at, uint8_t flags, SqlCommand *found
) noexcept nogil
