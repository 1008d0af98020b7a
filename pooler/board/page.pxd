# SPDX-License-Identifier: MIT
"""The page of accounts: what all workers have together of servers and clients.

Board layer. One mapping, made before the first fork, at the same address in every
process. An **account** is a pool, a database, a user, or everybody; it has a **row**
for each worker slot and one more, the last, for what dead workers have left in
PostgreSQL. A row's cells have one writer, the process whose row it is, so that a worker
that dies at any instant leaves nothing but its own cells to be corrected. A limit is a
sum over the rows, so what takes a place does so under one mutex that all processes
share; it is robust: who dies with it leaves it to the next one.

Cells may be read without the mutex, as the relay does at each detach: an aligned load
of 8 bytes is not torn on any CPU we run on.

Source: pthread_mutexattr_setrobust(3), pthread_mutex_consistent(3).
"""

from libc.stdint cimport uint32_t, uint64_t, uint8_t

from pooler.board.latency cimport Histogram, Histograms

cdef enum:
    DIGEST_BYTES = 16
    NO_ACCOUNT = 0xFFFFFFFF  # where one may be: nothing is counted there
    CELL_LINE_BYTES = 64

cdef struct Cells:  # of one account and one row: a cache line
    uint64_t refs  # how often its process has the account open
    uint64_t clients
    uint64_t servers  # being opened, open, or closing and not gone from PostgreSQL
    uint64_t idle  # of these, free for any client
    uint64_t idle_since_us  # of the one that has been idle longest; 0: none
    uint64_t waiting  # clients queued for a server
    uint64_t waiting_since_us  # of the first of them; 0: none
    uint64_t wants_since_us  # its process has been refused servers since; 0: it is not

cdef struct Account:
    uint8_t digest[DIGEST_BYTES]  # of its kind and names
    uint32_t state
    uint32_t of[2]  # of a pool that has had a server: its database, its user
    bint timed  # there may be something in its histograms

cdef struct Shared  # the mapping: head, accounts, cells

cdef struct PageMap:  # where a process sees it; borrowed from its Page
    Shared *shared
    Account *accounts
    Cells *cells  # of account a and row r: [a * rows + r]
    uint32_t rows
    uint32_t capacity

cdef int page_take_client(
    const PageMap *m, uint32_t row, const uint32_t *accounts, const uint64_t *limits
) noexcept nogil
cdef void page_count_client(
    const PageMap *m, uint32_t row, uint32_t account
) noexcept nogil
cdef void page_give_client(
    const PageMap *m, uint32_t row, const uint32_t *accounts
) noexcept nogil


cdef class Page:
    cdef readonly object mapping  # own; unmapped when the last view of it is gone
    cdef uint8_t[::1] view
    cdef PageMap map
    cdef Shared *shared  # as in map, and so on
    cdef Account *accounts
    cdef Cells *cells
    cdef readonly uint32_t rows
    cdef readonly uint32_t capacity
    cdef bytes key
    cdef Histograms histograms

    cdef Cells *row_of(self, uint32_t account, uint32_t row) except NULL
    cdef Histogram *times_of(self, uint32_t account, uint32_t row) except NULL
    cdef uint32_t find(self, const uint8_t *digest, bint *found) noexcept
    cdef void lock(self) noexcept
    cdef void unlock(self) noexcept
    cdef uint64_t sum_servers(self, uint32_t account) noexcept
    cdef void close_account(self, uint32_t account) noexcept
