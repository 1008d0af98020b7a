# SPDX-License-Identifier: MIT
"""What every target needs: promises, and digests of what came out."""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport abort

cdef struct Digest:  # of a stream of bytes
    uint64_t n
    uint64_t hash


cdef inline void check(bint promise, const char *what) noexcept nogil:
    if not promise:
        fprintf(stderr, "broken promise: %s\n", what)
        abort()


cdef inline void digest(Digest *d, const uint8_t *src, size_t n) noexcept nogil:
    """FNV-1a."""
    cdef size_t i
    if d.n == 0:
        d.hash = 0xCBF29CE484222325u
    for i in range(n):
        d.hash = (d.hash ^ src[i]) * <uint64_t> 0x100000001B3u
    d.n += n


cdef inline bint same(const Digest *a, const Digest *b) noexcept nogil:
    return a.n == b.n and a.hash == b.hash
