# SPDX-License-Identifier: MIT
"""Bytes at rest: what a connection holds back, and what one read produced.

Protocol layer, sans-IO, hot. An idle connection owns no memory here. Bytes move
from the worker's receive buffer straight to the peer; only what the kernel did
not take (``Queue out``) or what cannot be judged yet (``Queue held``) is stored.

Invariant of a queue: start <= end <= cap, and data == NULL exactly when cap == 0.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

from pooler.wire.debug cimport POOLER_DEBUG

cdef extern from "<assert.h>" nogil:
    void c_assert "assert"(bint truth)

cdef enum:
    QUEUE_MAX_BYTES = 0x4000000  # no queue of one connection grows past 64 MiB

cdef struct Queue:
    uint8_t *data  # own: freed by queue_reset
    uint32_t start
    uint32_t end
    uint32_t cap

cdef struct Stream:  # the sans-IO half of a connection
    Queue held  # received, not yet consumed
    Queue out  # to be sent, not yet taken by the kernel

cdef struct Output:  # what one read produced for one peer
    const uint8_t *data  # borrow until the read is over: receive buffer or scratch
    size_t n
    uint8_t *scratch  # own: lives as long as the worker
    size_t cap
    bint failed  # out of memory: the peer cannot be served


cdef inline size_t queue_size(const Queue *q) noexcept nogil:
    return q.end - q.start


cdef inline void queue_reset(Queue *q) noexcept nogil:
    """Empty the queue and give its memory back."""
    free(q.data)
    q.data = NULL
    q.start = q.end = q.cap = 0


cdef inline void queue_drop(Queue *q, size_t n) noexcept nogil:
    """Take n bytes off the front; an emptied queue owns no memory."""
    q.start += <uint32_t> n
    if POOLER_DEBUG:
        c_assert(q.start <= q.end)
    if q.start == q.end:
        queue_reset(q)

cdef int queue_add(Queue *q, const uint8_t *src, size_t n) noexcept nogil
cdef int queue_keep(Queue *q, const uint8_t *src, size_t n) noexcept nogil


cdef inline void output_clear(Output *o) noexcept nogil:
    o.data = NULL
    o.n = 0
    o.failed = False

cdef void output_join(Output *o, const uint8_t *src, size_t n) noexcept nogil
cdef uint8_t *output_room(Output *o, size_t n) noexcept nogil


cdef inline void output_add(Output *o, const uint8_t *src, size_t n) noexcept nogil:
    """Append bytes; as long as they are contiguous nothing is copied."""
    if n == 0:
        return
    if o.n == 0:
        o.data = src
        o.n = n
    elif o.data + o.n == src:
        o.n += n
    else:
        output_join(o, src, n)
