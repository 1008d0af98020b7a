# SPDX-License-Identifier: MIT
"""Names that clients make up; see ``custom_names.pxd``."""

from libc.string cimport memcmp, memcpy, strlen

from pooler._wire cimport HEADER_BYTES, put_header

# Of a real parameter, which an extension has brought meanwhile, nothing is changed.
cdef const char *BEGINNING = b"SELECT 1"
cdef const char *MAKE = b", CASE WHEN current_setting('"
cdef const char *UNLESS = b"', true) IS NULL THEN set_config('"
cdef const char *END = b"', '', true) END"


cdef inline bint begins_part(uint8_t byte) noexcept nogil:
    return c"a" <= byte <= c"z" or byte == c"_" or byte >= 0x80


cdef inline bint goes_on(uint8_t byte) noexcept nogil:
    return begins_part(byte) or c"0" <= byte <= c"9" or byte == c"$"


cdef bint is_custom(const uint8_t *name, size_t n) noexcept nogil:
    """Whether every version of PostgreSQL takes it: parts that are names, and dots.

    ASCII only: a name goes into SQL of ours, in whatever encoding.
    """
    cdef bint begins = True
    cdef size_t i
    for i in range(n):
        if name[i] >= 0x80 or not (
            begins_part(name[i]) if begins else goes_on(name[i]) or name[i] == c"."
        ):
            return False
        begins = name[i] == c"."
    return not begins


cdef bint custom_found(
    CustomNames *t, const uint8_t *name, size_t n
) noexcept nogil:
    """A text sets such a parameter: note its bit. False: there is none for it.

    In:      name[0:n) borrowed, in small letters
    Cost:    O(names of the worker)
    """
    cdef uint32_t i
    if n > CUSTOM_NAME_MAX or not is_custom(name, n):
        return False
    for i in range(t.count):
        if t.name_n[i] == n and memcmp(t.name[i], name, n) == 0:
            t.found |= <uint64_t> 1 << i
            return True
    if t.count == CUSTOM_MAX:
        return False
    memcpy(t.name[t.count], name, n)
    t.name_n[t.count] = <uint8_t> n
    t.found |= <uint64_t> 1 << t.count
    t.count += 1
    return True


cdef size_t custom_query_bytes(const CustomNames *t, uint64_t names) noexcept nogil:
    """As many as ``put_custom_query`` writes."""
    cdef size_t n = HEADER_BYTES + strlen(BEGINNING) + 1
    cdef size_t around = strlen(MAKE) + strlen(UNLESS) + strlen(END)
    cdef uint32_t i
    for i in range(t.count):
        if names >> i & 1:
            n += around + 2 * <size_t> t.name_n[i]
    return n


cdef inline size_t put(uint8_t *p, const char *text, size_t n) noexcept nogil:
    memcpy(p, text, n)
    return n


cdef size_t put_custom_query(
    uint8_t *p, const CustomNames *t, uint64_t names
) noexcept nogil:
    """Write a Query that has a session know these names, and sets nothing."""
    cdef size_t n = HEADER_BYTES + put(
        p + HEADER_BYTES, BEGINNING, strlen(BEGINNING)
    )
    cdef uint32_t i
    for i in range(t.count):
        if not names >> i & 1:
            continue
        n += put(p + n, MAKE, strlen(MAKE))
        n += put(p + n, t.name[i], t.name_n[i])
        n += put(p + n, UNLESS, strlen(UNLESS))
        n += put(p + n, t.name[i], t.name_n[i])
        n += put(p + n, END, strlen(END))
    p[n] = 0
    put_header(p, c"Q", <uint32_t> n)
    return n + 1
