# SPDX-License-Identifier: MIT
"""The memory of all histograms; see ``latency.pxd``."""

import os

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

cdef extern from "<sys/mman.h>" nogil:
    int PROT_READ
    int PROT_WRITE
    int MAP_SHARED
    void *MAP_FAILED
    void *mmap(void *at, size_t n, int protection, int flags, int fd, long offset)
    int munmap(void *at, size_t n)


cdef uint64_t bucket_end_us(uint32_t bucket) noexcept nogil:
    """The longest time that is counted there."""
    if bucket < 4:
        return bucket
    return ((<uint64_t> (5 + bucket % 4)) << (bucket // 4 - 1)) - 1


cdef class Histograms:
    """Three for each account and row; made by the master before it forks."""

    def __cinit__(self, uint32_t accounts, uint32_t rows):
        """OSError if memory cannot be had.

        It is that of a file without a name, which is not charged before it is touched,
        even where the system promises nothing that it does not have.
        """
        cdef void *at
        cdef int fd
        self.rows = rows
        self.n_bytes = (
            <size_t> accounts * rows * <size_t> TIMED_KINDS * sizeof(Histogram)
        )
        fd = os.memfd_create("pooler-latency", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, self.n_bytes)
            at = mmap(NULL, self.n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        finally:
            os.close(fd)
        if at == MAP_FAILED:
            raise OSError("no memory can be had for histograms")
        self.first = <Histogram *> at

    def __dealloc__(self):
        if self.first != NULL:
            munmap(self.first, self.n_bytes)

    cdef Histogram *of(self, uint32_t account, uint32_t row) noexcept nogil:
        """Those of one row, as ``Timed`` has them; the caller knows that it exists."""
        cdef size_t at = <size_t> account * self.rows + row
        return self.first + at * <size_t> TIMED_KINDS

    cdef void wipe(self, uint32_t account) noexcept nogil:
        """Begin anew in all rows: nobody has the account open."""
        memset(
            self.of(account, 0), 0,
            <size_t> self.rows * <size_t> TIMED_KINDS * sizeof(Histogram),
        )

    cdef void add_up(self, uint32_t account, Histogram *sums) noexcept nogil:
        """Sum all rows into ``sums[0:TIMED_KINDS)``."""
        cdef const Histogram *own = self.of(account, 0)
        cdef uint32_t _row
        cdef uint32_t kind
        cdef uint32_t bucket
        memset(sums, 0, <size_t> TIMED_KINDS * sizeof(Histogram))
        for _row in range(self.rows):
            for kind in range(TIMED_KINDS):
                sums[kind].most_us = max(sums[kind].most_us, own.most_us)
                for bucket in range(TIME_BUCKETS):
                    sums[kind].counts[bucket] += own.counts[bucket]
                own += 1


cdef list told(const Histogram *sums):
    """(most_us, {longest time of a bucket: count}) of waits, transactions, queries.

    Empty buckets are left out.
    """
    cdef const Histogram *both = &sums[<int> TIMED_BOTH]
    cdef uint64_t count
    cdef uint32_t kind
    cdef uint32_t bucket
    found = []
    for kind in range(TIMED_BOTH):
        counts = {}
        for bucket in range(TIME_BUCKETS):
            count = sums[kind].counts[bucket]
            if kind != TIMED_WAIT:
                count += both.counts[bucket]
            if count:
                counts[bucket_end_us(bucket)] = count
        found.append(
            (max(sums[kind].most_us, 0 if kind == TIMED_WAIT else both.most_us), counts)
        )
    return found
