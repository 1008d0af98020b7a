# SPDX-License-Identifier: MIT
"""Where the tokens of SQL end: literals, comments, names, and whole commands.

Statements layer, sans-IO, hot. Nothing of SQL's grammar is known here but what a
semicolon needs to know that ends a command: it stands in no literal and no comment,
and in no parentheses (CREATE RULE ... DO (a; b)).

Source: PostgreSQL documentation, "Lexical Structure".
"""

from libc.stdint cimport uint8_t

cdef enum SqlFlag:  # how a session's settings have its literals read
    SQL_BACKSLASHES = 1  # standard_conforming_strings is off: '...' has escapes
    SQL_UTF8 = 2  # client_encoding: a name is cut between characters
    SQL_SHIFTED = 4  # client_encoding: the second byte of a character may be ASCII

cdef size_t skip_blank(const uint8_t *text, size_t n, size_t at) noexcept nogil
cdef size_t skip_word(
    const uint8_t *text, size_t n, size_t at, uint8_t flags
) noexcept nogil
cdef size_t skip_identifier(const uint8_t *text, size_t n, size_t at) noexcept nogil
cdef size_t skip_mark(
    const uint8_t *text, size_t n, size_t at, size_t floor, uint8_t flags
) noexcept nogil
cdef bint is_word(
    const uint8_t *text, size_t start, size_t end, const char *word
) noexcept nogil
cdef size_t sql_end(
    const uint8_t *text, size_t n, size_t at, uint8_t flags
) noexcept nogil
cdef size_t skip_parentheses(
    const uint8_t *text, size_t n, size_t at, uint8_t flags
) noexcept nogil


cdef inline bint is_space(uint8_t byte) noexcept nogil:
    return byte == c" " or 9 <= byte <= 13


cdef inline bint starts_word(uint8_t byte) noexcept nogil:
    return (
        c"a" <= byte | 0x20 <= c"z" or byte == c"_" or byte >= 0x80
    )


cdef inline bint in_word(uint8_t byte) noexcept nogil:
    return starts_word(byte) or c"0" <= byte <= c"9" or byte == c"$"
