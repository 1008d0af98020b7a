# SPDX-License-Identifier: MIT
"""What a client was told that a statement takes and returns, as a number.

Sans-IO, hot. Equal numbers mean equal descriptions. A description may have any length
(1,664 columns, 65,535 parameters) and come in any pieces: its bytes are taken in as
they pass.

Source: PostgreSQL documentation, "Message Formats" (RowDescription,
ParameterDescription).
"""

from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    SHAPE_OF_NOTHING = 2  # NoData

cdef struct Shaping:  # of the description that is passing by
    uint64_t hash
    uint8_t code  # of its message; 0: none is under way
    uint8_t at  # which byte of the head or of a column comes next

cdef void shape_begin(Shaping *shape, uint8_t code) noexcept nogil
cdef void shape_add(Shaping *shape, const uint8_t *src, size_t n) noexcept nogil
cdef uint64_t shape_end(Shaping *shape) noexcept nogil
