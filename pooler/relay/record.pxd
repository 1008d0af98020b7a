# SPDX-License-Identifier: MIT
"""Reading a record (``moves``), of which nothing is believed.

Relay layer, sans-IO, warm.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef struct Reader:  # of src[0:n); what is asked for beyond its end makes it bad
    const uint8_t *src
    size_t n
    bint bad


cdef inline const uint8_t *take(Reader *from_, size_t n) noexcept nogil:
    """The next n bytes; if there are not so many, NULL, and it is bad."""
    cdef const uint8_t *at = from_.src
    if from_.bad or n > from_.n:
        from_.bad = True
        return NULL
    from_.src += n
    from_.n -= n
    return at


cdef inline uint8_t take_byte(Reader *from_) noexcept nogil:
    cdef const uint8_t *at = take(from_, 1)
    return 0 if at == NULL else at[0]


cdef inline uint32_t take_number(Reader *from_) noexcept nogil:
    cdef uint32_t found = 0
    cdef const uint8_t *at = take(from_, sizeof(found))
    if at != NULL:
        memcpy(&found, at, sizeof(found))
    return found


cdef inline uint64_t take_long(Reader *from_) noexcept nogil:
    cdef uint64_t found = 0
    cdef const uint8_t *at = take(from_, sizeof(found))
    if at != NULL:
        memcpy(&found, at, sizeof(found))
    return found
