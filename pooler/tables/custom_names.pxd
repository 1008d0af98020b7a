# SPDX-License-Identifier: MIT
"""Names of parameters that clients make up (``my.own``), as bits of one number.

Tables layer, sans-IO. PostgreSQL makes such a parameter when it is first set, whether
for the transaction or not, and knows it to the end of the session: from then on
current_setting(…, true) is an empty string there, and not NULL.

Source: PostgreSQL documentation, "Customized Options".
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    CUSTOM_MAX = 64  # names of one worker; what is set beyond them has no bit
    CUSTOM_NAME_MAX = 63

cdef struct CustomNames:  # one per worker; own: what it points to
    uint32_t count
    uint64_t found  # those in the text that is being looked at
    bint by_value  # it sets one whose name is no literal there
    uint8_t name_n[CUSTOM_MAX]
    char name[CUSTOM_MAX][CUSTOM_NAME_MAX + 1]

cdef bint custom_found(
    CustomNames *t, const uint8_t *name, size_t n
) noexcept nogil
cdef bint custom_in_literals(
    CustomNames *t, const uint8_t *text, size_t n
) noexcept nogil
cdef void custom_in_values(
    CustomNames *t, const uint8_t *message, size_t end, size_t at
) noexcept nogil
cdef size_t custom_query_bytes(const CustomNames *t, uint64_t names) noexcept nogil
cdef size_t put_custom_query(
    uint8_t *p, const CustomNames *t, uint64_t names
) noexcept nogil


cdef inline uint64_t custom_take(CustomNames *t) noexcept nogil:
    """The names in the text that was looked at last; the next one has none yet."""
    cdef uint64_t found = t.found
    t.found = 0
    t.by_value = False
    return found
