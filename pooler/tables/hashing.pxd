# SPDX-License-Identifier: MIT
"""Hashing of what the tables are looked up by.

Sans-IO, hot.
"""

from libc.stdint cimport uint64_t


cdef inline uint64_t mix(uint64_t h, uint64_t word) noexcept nogil:
    h = (h ^ word) * 0x9E3779B97F4A7C15u
    return h ^ (h >> 29)
