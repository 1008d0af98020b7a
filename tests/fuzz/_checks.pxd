# SPDX-License-Identifier: MIT
"""What every target needs: promises, and digests and frames of what came out."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport abort

from pooler._wire cimport HEADER_BYTES, Rule, load_be32

cdef enum:
    NAME_BYTES = 32  # of a statement on servers, at most

cdef struct Digest:  # of a stream of bytes
    uint64_t n
    uint64_t hash


cdef struct Frames:  # how far a stream of messages has come
    uint32_t left  # of the body under way
    uint8_t have  # of the header under way
    uint8_t header[HEADER_BYTES]


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


cdef inline void walk(
    Frames *f, const Rule *rules, const uint8_t *src, size_t n
) noexcept nogil:
    """Pass over more of a stream; every message must be one that its rules allow.

    Its length may be a little outside, because the relay replaces names.
    """
    cdef size_t at = 0
    cdef uint32_t length
    while at < n:
        if f.left:
            if f.left > n - at:
                f.left -= <uint32_t> (n - at)
                return
            at += f.left
            f.left = 0
            continue
        f.header[f.have] = src[at]
        f.have += 1
        at += 1
        if f.have == HEADER_BYTES:
            length = load_be32(f.header + 1)
            check(
                rules[f.header[0]].max_length != 0 and
                4 <= length <= rules[f.header[0]].max_length + NAME_BYTES,
                "a message that nobody may send",
            )
            f.left = length - 4
            f.have = 0


cdef inline bint between_messages(const Frames *f) noexcept nogil:
    return f.left == 0 and f.have == 0
