# SPDX-License-Identifier: MIT
"""TLS as a transport, for libFuzzer."""

from libc.stdint cimport uint8_t

cdef int fuzz_tls(const uint8_t *src, size_t n) noexcept nogil
