# SPDX-License-Identifier: MIT
"""How long things took: histograms of all workers, in memory that they share.

Board layer, hot. Buckets are log-linear, four to an octave, so a time is told to a
quarter of itself, from 1 us to a day. A histogram has one writer, which stores plainly;
sums over the workers are made by whoever reads.
"""

from libc.stdint cimport uint32_t, uint64_t

cdef extern from *:
    int __builtin_clzll(unsigned long long v) noexcept nogil

cdef enum Timed:  # what is measured of a pool
    TIMED_WAIT  # for a server, of each that was handed out
    TIMED_XACT  # of more than one query, or that has begun before its query
    TIMED_QUERY  # likewise
    TIMED_BOTH  # most are one query, so it costs one entry
    TIMED_KINDS

cdef enum:
    TIME_BUCKETS = 143  # with most_us: 18 cache lines. The last one has no upper end

cdef struct Histogram:
    uint64_t most_us
    uint64_t counts[TIME_BUCKETS]


cdef inline uint32_t time_bucket(uint64_t us) noexcept nogil:
    """0 to 3 by themselves; behind that its highest bit and the two below it."""
    cdef uint32_t high
    cdef uint64_t bucket
    if us < 4:
        return <uint32_t> us
    high = 63 - __builtin_clzll(us)
    bucket = 4 * high + (us >> (high - 2)) - 8
    return <uint32_t> bucket if bucket < TIME_BUCKETS else TIME_BUCKETS - 1


cdef inline void note_time(Histogram *h, uint64_t us) noexcept nogil:
    """Cost: a dozen instructions."""
    h.counts[time_bucket(us)] += 1
    if us > h.most_us:
        h.most_us = us


cdef class Histograms:
    cdef Histogram *first  # own: [account][row][Timed]
    cdef size_t n_bytes
    cdef uint32_t rows

    cdef Histogram *of(self, uint32_t account, uint32_t row) noexcept nogil
    cdef void wipe(self, uint32_t account) noexcept nogil
    cdef void add_up(self, uint32_t account, Histogram *sums) noexcept nogil

cdef list told(const Histogram *sums)
