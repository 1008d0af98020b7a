# SPDX-License-Identifier: MIT
"""The targets ``relay`` and ``statements``; see ``_play.pyx``."""

from libc.stdint cimport uint8_t

cdef int fuzz_relay(const uint8_t *src, size_t n) noexcept nogil
cdef int fuzz_statements(const uint8_t *src, size_t n) noexcept nogil
