# SPDX-License-Identifier: MIT
"""Peeking into Parse and Bind; see ``peek.pxd``."""

from libc.stdint cimport int32_t, uint32_t, uint8_t
from libc.string cimport memchr, memcmp

from pooler._wire cimport HEADER_BYTES, load_be32

cdef enum:
    UNKNOWN_TYPE = 705  # PostgreSQL finds out what it stands for, as for 0
    MOST_PARAMETERS = 65535


cdef uint32_t highest_parameter(const uint8_t *text, size_t n) noexcept nogil:
    """The highest $n that may be a parameter; what stands in quotes counts as well."""
    cdef const uint8_t *end = text + n
    cdef const uint8_t *at = text
    cdef uint32_t highest = 0
    cdef uint32_t number
    while True:
        at = <const uint8_t *> memchr(at, c"$", <size_t> (end - at))
        if at == NULL:
            return highest
        at += 1
        number = 0
        while at < end and c"0" <= at[0] <= c"9" and number <= MOST_PARAMETERS:
            number = number * 10 + (at[0] - c"0")
            at += 1
        if number > highest:
            highest = number


cdef bint types_are_given(
    const uint8_t *text, size_t n, size_t query_n
) noexcept nogil:
    """Whether a Parse leaves no type of a parameter to be found out by PostgreSQL.

    In:      text[0:n) is what follows its name: the SQL, of query_n bytes, a
             terminator, and the types
    Cost:    O(n)
    """
    cdef size_t at = query_n + 1
    cdef uint32_t highest = highest_parameter(text, query_n)
    cdef uint32_t count
    cdef uint32_t i
    cdef uint32_t oid
    if highest == 0:
        return True
    if at + 2 > n:
        return False
    count = load_be16(text + at)
    at += 2
    if highest > count or at + 4 * <size_t> count > n:
        return False
    for i in range(count):
        oid = load_be32(text + at + 4 * i)
        if oid == 0 or oid == UNKNOWN_TYPE:
            return False
    return True


cdef bint knows_columns(
    const uint8_t *message, size_t here, size_t length, size_t at
) noexcept nogil:
    """Whether a Bind names a format for each column, so its client knows the columns.

    In:      message[0:here) from its type byte on; ``at`` is behind its names
    Out:     True also when it is not all here, or malformed
    Cost:    O(parameters)
    """
    cdef size_t end = length + 1
    cdef uint32_t count
    cdef uint32_t size
    if here < end or at + 2 > end:
        return True
    at += 2 + 2 * <size_t> load_be16(message + at)
    if at + 2 > end:
        return True
    count = load_be16(message + at)
    at += 2
    for _ in range(count):
        if at + 4 > end:
            return True
        size = load_be32(message + at)
        at += 4
        if size == <uint32_t> 0xFFFFFFFF:  # NULL
            continue
        if size > end - at:
            return True
        at += size
    return at + 2 > end or load_be16(message + at) > 1


cdef bint sends_binary(
    const uint8_t *message, size_t here, size_t length, size_t at
) noexcept nogil:
    """Whether a Bind has values that mean nothing but by their types; as above."""
    cdef size_t end = length + 1
    cdef uint32_t count
    cdef uint32_t i
    if here < end or at + 2 > end:
        return True
    count = load_be16(message + at)
    at += 2
    if at + 2 * <size_t> count > end:
        return True
    for i in range(count):
        if load_be16(message + at + 2 * i) != 0:
            return True
    return False


cdef int32_t bind_values(
    const uint8_t *message, size_t here, size_t length, size_t at
) noexcept nogil:
    """How many values a Bind has; -1 if that is not here, or malformed. As above."""
    cdef size_t end = length + 1 if here > length else here
    if at + 2 > end:
        return -1
    at += 2 + 2 * <size_t> load_be16(message + at)
    return <int32_t> load_be16(message + at) if at + 2 <= end else -1


cdef bint bind_is_cut(const uint8_t *message, size_t n) noexcept nogil:
    """Whether more has to be here to say what ``bind_follows`` says."""
    cdef size_t length
    if n < HEADER_BYTES:
        return n == 0 or message[0] == c"B"
    length = load_be32(message + 1)
    return message[0] == c"B" and length + 1 > n and is_kept_bind(length)


cdef bint bind_follows(
    const uint8_t *message, size_t n, const uint8_t *name, size_t name_n
) noexcept nogil:
    """Whether message[0:n) begins with a Bind of this name that may be sent twice.

    It must be all here, short enough to be kept, and of a client that does not know the
    columns. ``name``: with its terminator.
    """
    cdef size_t length
    cdef const uint8_t *end
    cdef size_t at
    if n < HEADER_BYTES or message[0] != c"B":
        return False
    length = load_be32(message + 1)
    if length < 4 or length + 1 > n or not is_kept_bind(length):
        return False
    end = <const uint8_t *> memchr(message + HEADER_BYTES, 0, length - 4)
    if end == NULL:
        return False
    at = <size_t> (end - message) + 1
    if length + 1 - at < name_n or memcmp(message + at, name, name_n) != 0:
        return False
    return not knows_columns(message, n, length, at + name_n)
