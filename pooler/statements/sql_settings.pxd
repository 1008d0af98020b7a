# SPDX-License-Identifier: MIT
"""What SET, RESET, set_config and UPDATE pg_settings change, by their words.

Statements layer, sans-IO, hot. A parameter is told by its name: one that follows its
client, one that decides what texts mean, or any other.

Source: PostgreSQL documentation, "SET", "RESET", "System Administration Functions",
"pg_settings".
"""

from libc.stdint cimport uint8_t, uint64_t

from pooler.tables.params cimport ParamSet, ParamTable

cdef struct Reader:  # of one command
    const uint8_t *text
    size_t n
    size_t at  # behind the words that were read
    const ParamTable *params
    const ParamSet *reported
    uint8_t flags  # SqlFlag
    bint databases  # a command concerns whole databases


cdef inline uint8_t low(uint8_t byte) noexcept nogil:
    """A letter as a small one; "_" becomes 0x7f."""
    return byte | 0x20


cdef inline bint in_name(uint8_t byte) noexcept nogil:
    return (
        c"a" <= low(byte) <= c"z" or byte == c"_" or c"0" <= byte <= c"9"
        or byte == c"$" or byte >= 0x80
    )


cdef inline bint is_word(
    const Reader *r, size_t start, size_t end, const char *word, size_t word_n
) noexcept nogil:
    """Whether text[start:end) is this word, which is given in small letters."""
    cdef size_t i
    if end - start != word_n:
        return False
    for i in range(word_n):
        if r.text[start + i] | (0x20 if word[i] != c"_" else 0) != <uint8_t> word[i]:
            return False
    return True

cdef size_t read_word(Reader *r) noexcept nogil
cdef bint next_is(Reader *r, const char *word, size_t word_n) noexcept nogil
cdef uint64_t custom_in_body(Reader *r) noexcept nogil
cdef uint64_t all_reset(const Reader *r, bint local) noexcept nogil
cdef uint64_t read_set(Reader *r) noexcept nogil
cdef uint64_t read_reset(Reader *r) noexcept nogil
cdef uint64_t read_set_config(Reader *r) noexcept nogil
cdef uint64_t read_update(Reader *r) noexcept nogil
