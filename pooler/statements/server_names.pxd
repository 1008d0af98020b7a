# SPDX-License-Identifier: MIT
"""Names of statements on servers, where they stand in what PostgreSQL says.

Statements layer, sans-IO. How such names are made is in ``tables/text_names``.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcmp, strlen

from pooler.tables.text_names cimport NameForms
cdef extern from "<string.h>" nogil:
    void *memmem(const void *text, size_t n, const void *part, size_t part_n)

cdef enum:
    TEXT_LETTERS = 22  # of a name that stands for a text


cdef inline bint is_name_byte(uint8_t byte) noexcept nogil:
    return (
        c"a" <= byte | 0x20 <= c"z" or c"0" <= byte <= c"9" or byte == c"-"
        or byte == c"_" or byte == c"."
    )


cdef inline const uint8_t *behind_prefix(
    const NameForms *f, const uint8_t *text, size_t n
) noexcept nogil:
    """What is behind the first prefix of ours in text[0:n); NULL: there is none."""
    cdef const uint8_t *at = <const uint8_t *> memmem(text, n, f.prefix, f.prefix_n)
    return NULL if at == NULL else at + f.prefix_n


cdef inline size_t name_bytes(const uint8_t *at, const uint8_t *end) noexcept nogil:
    """How many of the bytes at[0:end) may be of one name."""
    cdef size_t n = 0
    while at + n < end and is_name_byte(at[n]):
        n += 1
    return n


cdef inline bint is_statements(
    const NameForms *f, const uint8_t *rest, size_t n
) noexcept nogil:
    """Whether the prefix and rest[0:n) may be what a statement of ours is called."""
    cdef size_t at = strlen(f.own)
    if f.by_text and n == TEXT_LETTERS:
        return True
    if n <= at or memcmp(rest, f.own, at) != 0:
        return False
    while at < n and c"0" <= rest[at] <= c"9":
        at += 1
    return at == n
