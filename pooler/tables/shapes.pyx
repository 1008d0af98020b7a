# SPDX-License-Identifier: MIT
"""Descriptions as numbers; see ``shapes.pxd``."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memchr, memcpy


cdef inline uint64_t mix(uint64_t h, uint64_t word) noexcept nogil:
    """Quick rather than strong: a client could but deceive itself."""
    h = (h ^ word) * 0x9E3779B97F4A7C15u
    return h ^ (h >> 29)


cdef uint64_t shape_of_parameters(const uint8_t *body, size_t n) noexcept nogil:
    """A ParameterDescription as a number, never 0."""
    cdef uint64_t h = n
    cdef size_t at
    for at in range(n):
        h = mix(h, body[at])
    return h if h else 1


cdef uint64_t shape_of_rows(const uint8_t *body, size_t n) noexcept nogil:
    """What a client that remembers a RowDescription relies on, as a number.

    Names, types and modifiers of the columns; not where they come from, nor their
    format, which Bind decides. Never 0. Source: "Message Formats" (RowDescription)
    """
    cdef uint64_t h = 1
    cdef uint64_t word
    cdef size_t at = 2
    cdef const uint8_t *end
    while at < n:
        end = <const uint8_t *> memchr(body + at, 0, n - at)
        if end == NULL or end + 19 > body + n:
            break
        while body + at < end:
            h = mix(h, body[at])
            at += 1
        at += 7  # the terminator; table and column
        memcpy(&word, body + at, 8)  # type, length, half of the modifier
        h = mix(h, word)
        h = mix(h, (<uint64_t> body[at + 8] << 8) | body[at + 9])
        at += 12
    return h if h else 1
