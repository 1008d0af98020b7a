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

cdef enum:
    DIGEST_BYTES = 16
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

cdef struct Shared  # the mapping: head, accounts, cells


cdef class Page:
    cdef readonly object mapping  # own; unmapped when the last view of it is gone
    cdef uint8_t[::1] view
    cdef Shared *shared  # borrow: of the mapping
    cdef Account *accounts
    cdef Cells *cells  # of account a and row r: [a * rows + r]
    cdef readonly uint32_t rows
    cdef readonly uint32_t capacity
    cdef bytes key

    cdef Cells *row_of(self, uint32_t account, uint32_t row) except NULL
    cdef void lock(self) noexcept
    cdef void undo_move(self) noexcept
    cdef void unlock(self) noexcept
    cdef uint64_t sum_servers(self, uint32_t account) noexcept
    cdef uint64_t sum_clients(self, uint32_t account) noexcept
    cdef void close_account(self, uint32_t account) noexcept
