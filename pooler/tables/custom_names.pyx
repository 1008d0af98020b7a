# SPDX-License-Identifier: MIT
"""Names that clients make up; see ``custom_names.pxd``."""

from libc.string cimport memcmp, memcpy, strlen

from pooler._wire cimport HEADER_BYTES, load_be32, put_header

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


cdef bint found_as_written(
    CustomNames *t, const uint8_t *name, size_t n
) noexcept nogil:
    """As custom_found, of a value that may be such a name, in whatever case."""
    cdef uint8_t small[CUSTOM_NAME_MAX]
    cdef bint dot = False
    cdef size_t i
    if n > CUSTOM_NAME_MAX:
        return False
    for i in range(n):
        small[i] = name[i] | (0x20 if c"A" <= name[i] <= c"Z" else 0)
        dot = dot or name[i] == c"."
    return dot and custom_found(t, small, n)


cdef bint custom_in_literals(
    CustomNames *t, const uint8_t *text, size_t n
) noexcept nogil:
    """Note all literals of a text that may be such names; False: none is.

    Cost:    O(n)
    """
    cdef size_t at = 0
    cdef size_t start
    cdef bint found = False
    while at < n:
        if text[at] != c"'":
            at += 1
            continue
        start = at + 1
        at = start
        while at < n and text[at] != c"'":
            at += 1
        if at < n and found_as_written(t, text + start, at - start):
            found = True
        at += 1
    return found


cdef void custom_in_values(
    CustomNames *t, const uint8_t *message, size_t end, size_t at
) noexcept nogil:
    """Note all values of a Bind that may be such names.

    In:      message[0:end) from its type byte on; ``at`` is behind its names
    Cost:    O(values)
    Source:  "Message Formats" (Bind)
    """
    cdef uint32_t count
    cdef uint32_t size
    if at + 2 > end:
        return
    at += 2 + 2 * <size_t> (message[at] << 8 | message[at + 1])
    if at + 2 > end:
        return
    count = message[at] << 8 | message[at + 1]
    at += 2
    while count and at + 4 <= end:
        count -= 1
        size = load_be32(message + at)
        at += 4
        if size == <uint32_t> 0xFFFFFFFF:  # NULL
            continue
        if size > end - at:
            return
        found_as_written(t, message + at, size)
        at += size


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
