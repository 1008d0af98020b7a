# SPDX-License-Identifier: MIT
"""SipHash; see ``hashing.pxd``."""

import os

from libc.string cimport memcpy

cdef extern from "<endian.h>" nogil:
    uint64_t le64toh(uint64_t word)

cdef enum:
    ROUNDS = 1  # for each eight bytes
    LAST_ROUNDS = 3
    DIGEST_ROUNDS = 2
    DIGEST_LAST_ROUNDS = 4

cdef struct Sip:
    uint64_t v0
    uint64_t v1
    uint64_t v2
    uint64_t v3


cdef inline uint64_t rotated(uint64_t v, int bits) noexcept nogil:
    return (v << bits) | (v >> (64 - bits))


cdef inline void sip_round(Sip *s) noexcept nogil:
    s.v0 += s.v1
    s.v2 += s.v3
    s.v1 = rotated(s.v1, 13) ^ s.v0
    s.v3 = rotated(s.v3, 16) ^ s.v2
    s.v0 = rotated(s.v0, 32) + s.v3
    s.v2 += s.v1
    s.v1 = rotated(s.v1, 17) ^ s.v2
    s.v3 = rotated(s.v3, 21) ^ s.v0
    s.v2 = rotated(s.v2, 32)


cdef inline void sip_begin(Sip *s, const HashKey *key) noexcept nogil:
    s.v0 = key.low ^ <uint64_t> 0x736F6D6570736575u
    s.v1 = key.high ^ <uint64_t> 0x646F72616E646F6Du
    s.v2 = key.low ^ <uint64_t> 0x6C7967656E657261u
    s.v3 = key.high ^ <uint64_t> 0x7465646279746573u


cdef inline void sip_word(Sip *s, uint64_t word, int rounds) noexcept nogil:
    cdef int _round
    s.v3 ^= word
    for _round in range(rounds):
        sip_round(s)
    s.v0 ^= word


cdef inline void sip_rest(
    Sip *s, const uint8_t *p, size_t n, size_t before, int rounds
) noexcept nogil:
    """Take the last bytes, p[0:n); ``before`` were taken as words."""
    cdef uint64_t word
    cdef size_t at = 0
    while at + 8 <= n:
        memcpy(&word, p + at, 8)
        sip_word(s, le64toh(word), rounds)
        at += 8
    word = 0
    memcpy(&word, p + at, n - at)
    sip_word(s, le64toh(word) | <uint64_t> (n + before) << 56, rounds)


cdef inline uint64_t sip_end(
    Sip *s, const uint8_t *p, size_t n, size_t before, int rounds, int last_rounds
) noexcept nogil:
    """As ``sip_rest``; the hash."""
    cdef int _round
    sip_rest(s, p, n, before, rounds)
    s.v2 ^= 0xFF
    for _round in range(last_rounds):
        sip_round(s)
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3


cdef uint64_t hash_bytes(const uint8_t *p, size_t n) noexcept nogil:
    """Hash of p[0:n). Cost: 10 ns and 0.2 ns for each byte, as measured."""
    cdef Sip s
    sip_begin(&s, &hash_key)
    return sip_end(&s, p, n, 0, ROUNDS, LAST_ROUNDS)


cdef uint64_t hash_behind(uint64_t first, const uint8_t *p, size_t n) noexcept nogil:
    """Hash of a number and the bytes p[0:n) behind it."""
    cdef Sip s
    sip_begin(&s, &hash_key)
    sip_word(&s, first, ROUNDS)
    return sip_end(&s, p, n, 8, ROUNDS, LAST_ROUNDS)


cdef uint64_t siphash(
    HashKey key, const uint8_t *p, size_t n, int rounds, int last_rounds
) noexcept nogil:
    """SipHash with any key and any number of rounds: for check vectors."""
    cdef Sip s
    sip_begin(&s, &key)
    return sip_end(&s, p, n, 0, rounds, last_rounds)


cdef inline uint64_t digest_half(Sip *s) noexcept nogil:
    cdef int _round
    for _round in range(DIGEST_LAST_ROUNDS):
        sip_round(s)
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3


cdef inline Digest digest_end(
    Sip *s, const uint8_t *p, size_t n, size_t before
) noexcept nogil:
    cdef Digest found
    sip_rest(s, p, n, before, DIGEST_ROUNDS)
    s.v2 ^= 0xEE
    found.low = digest_half(s)
    s.v1 ^= 0xDD
    found.high = digest_half(s)
    return found


cdef Digest digest_bytes(HashKey key, const uint8_t *p, size_t n) noexcept nogil:
    """SipHash-2-4-128 of p[0:n): that no two texts have the same one may be relied on.

    Cost:    about twice that of ``hash_bytes``
    """
    cdef Sip s
    sip_begin(&s, &key)
    s.v1 ^= 0xEE
    return digest_end(&s, p, n, 0)


cdef Digest digest_behind(
    HashKey key, Digest before, uint64_t number, const uint8_t *p, size_t n
) noexcept nogil:
    """As ``digest_bytes``, of another digest, a number and p[0:n) behind them."""
    cdef Sip s
    sip_begin(&s, &key)
    s.v1 ^= 0xEE
    sip_word(&s, before.low, DIGEST_ROUNDS)
    sip_word(&s, before.high, DIGEST_ROUNDS)
    sip_word(&s, number, DIGEST_ROUNDS)
    return digest_end(&s, p, n, 24)


hash_key.low = int.from_bytes(os.urandom(8), "little")
hash_key.high = int.from_bytes(os.urandom(8), "little")
