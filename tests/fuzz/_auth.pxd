# SPDX-License-Identifier: MIT
"""The proof of a client, for libFuzzer."""

from libc.stdint cimport uint8_t

cdef int fuzz_auth(const uint8_t *src, size_t n) noexcept nogil
