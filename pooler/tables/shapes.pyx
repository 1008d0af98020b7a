# SPDX-License-Identifier: MIT
"""Descriptions as numbers; see ``shapes.pxd``."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset

cdef enum:  # places in a RowDescription
    IN_COUNT = 0  # two bytes: how many columns
    IN_NAME = 2
    BEHIND_NAME = 3  # 18 bytes: table, column, type, length, modifier, format
    TYPE_FROM = BEHIND_NAME + 6
    TYPE_TO = BEHIND_NAME + 16
    COLUMN_END = BEHIND_NAME + 18


cdef inline uint64_t mix(uint64_t h, uint64_t word) noexcept nogil:
    """Quick rather than strong: a client could but deceive itself."""
    h = (h ^ word) * 0x9E3779B97F4A7C15u
    return h ^ (h >> 29)


cdef void shape_begin(Shaping *shape, uint8_t code) noexcept nogil:
    """A ParameterDescription (t) or RowDescription (T) begins to pass by."""
    memset(shape, 0, sizeof(Shaping))
    shape.code = code
    shape.hash = code


cdef void add_rows(Shaping *shape, const uint8_t *src, size_t n) noexcept nogil:
    """What a client that remembers a RowDescription relies on.

    Number, names, types and modifiers of the columns; not where they come from, nor
    their format, which Bind decides.
    """
    cdef size_t i
    cdef uint8_t at = shape.at
    cdef uint64_t h = shape.hash
    for i in range(n):
        if at <= IN_NAME or TYPE_FROM <= at < TYPE_TO:
            h = mix(h, src[i])
        if at != IN_NAME or src[i] == 0:
            at += 1
            if at == COLUMN_END:
                at = IN_NAME
    shape.at = at
    shape.hash = h


cdef void shape_add(Shaping *shape, const uint8_t *src, size_t n) noexcept nogil:
    """The next n bytes of its body. Cost: O(n)"""
    cdef size_t i
    if shape.code == c"T":
        add_rows(shape, src, n)
        return
    for i in range(n):
        shape.hash = mix(shape.hash, src[i])


cdef uint64_t shape_end(Shaping *shape) noexcept nogil:
    """All of it has passed; its number, which is neither 0 nor that of nothing."""
    cdef uint64_t h = shape.hash
    shape.code = 0
    return h if h > SHAPE_OF_NOTHING else SHAPE_OF_NOTHING + 1
