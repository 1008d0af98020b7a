# SPDX-License-Identifier: MIT
"""What a Parse or a Bind says beside its names.

Statements layer, sans-IO. Every length is a client's word, and checked.

Source: PostgreSQL documentation, "Message Formats" (Parse, Bind).
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t

from pooler.statements.replay cimport REPLAY_MAX_BYTES

cdef enum:
    MARGIN_BYTES = 64


cdef inline uint32_t load_be16(const uint8_t *p) noexcept nogil:
    return (<uint32_t> p[0] << 8) | p[1]

cdef bint types_are_given(
    const uint8_t *text, size_t n, size_t query_n
) noexcept nogil
cdef bint knows_columns(
    const uint8_t *message, size_t here, size_t length, size_t at
) noexcept nogil
cdef bint sends_binary(
    const uint8_t *message, size_t here, size_t length, size_t at
) noexcept nogil
cdef int32_t bind_values(
    const uint8_t *message, size_t here, size_t length, size_t at
) noexcept nogil
cdef bint bind_is_cut(const uint8_t *message, size_t n) noexcept nogil
cdef bint bind_follows(
    const uint8_t *message, size_t n, const uint8_t *name, size_t name_n
) noexcept nogil


cdef inline bint is_kept_bind(size_t length) noexcept nogil:
    """Whether a Bind of this length may be sent twice: a name of ours may be longer."""
    return length + MARGIN_BYTES <= REPLAY_MAX_BYTES
