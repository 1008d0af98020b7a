# SPDX-License-Identifier: MIT
"""What a client was told that a statement takes and returns, as a number.

Sans-IO, hot. Equal numbers mean equal descriptions.
"""

from libc.stdint cimport uint8_t, uint64_t

cdef uint64_t shape_of_parameters(const uint8_t *body, size_t n) noexcept nogil
cdef uint64_t shape_of_rows(const uint8_t *body, size_t n) noexcept nogil
