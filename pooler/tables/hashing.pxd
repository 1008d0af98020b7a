# SPDX-License-Identifier: MIT
"""Keyed hashes: what the tables are looked up by.

Sans-IO, hot. Clients choose the names, values and texts that end in tables which all
clients of a worker share, or which the worker walks for one of them while all others
wait. Nobody outside knows the key, so nobody can aim at a bucket.

SipHash-1-3, with a key of 128 bits for each process. What has to be the same in all
workers and different for all texts there will ever be is a ``Digest``: SipHash-2-4-128.

Source: Aumasson, Bernstein, "SipHash: a fast short-input PRF" (2012).
"""

from libc.stdint cimport uint8_t, uint64_t

cdef struct HashKey:
    uint64_t low
    uint64_t high

cdef struct Digest:
    uint64_t low
    uint64_t high

# Of this process, random since the import. Tests fix it, before any table has a row.
cdef HashKey hash_key

cdef uint64_t hash_bytes(const uint8_t *p, size_t n) noexcept nogil
cdef uint64_t hash_behind(uint64_t first, const uint8_t *p, size_t n) noexcept nogil
cdef uint64_t siphash(
    HashKey key, const uint8_t *p, size_t n, int rounds, int last_rounds
) noexcept nogil
cdef Digest digest_bytes(HashKey key, const uint8_t *p, size_t n) noexcept nogil
cdef Digest digest_behind(
    HashKey key, Digest before, uint64_t number, const uint8_t *p, size_t n
) noexcept nogil
