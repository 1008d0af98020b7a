# SPDX-License-Identifier: MIT
"""The target ``sql``: the little SQL that the relay reads, on arbitrary bytes."""

from libc.stdint cimport uint8_t

cdef int fuzz_sql(const uint8_t *src, size_t n) noexcept nogil
