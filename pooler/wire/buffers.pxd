# SPDX-License-Identifier: MIT
"""Bytes at rest: what a connection holds back, and what one read produced.

Wire layer, sans-IO, hot. An idle connection owns no memory here. Bytes move
from the worker's receive buffer straight to the peer; only what the kernel did
not take (``Queue out``) or what cannot be judged yet (``Queue held``) is stored.

Invariant of a queue: start <= end <= cap, and data == NULL exactly when cap == 0.

A message that must be known as a whole (a Parse that is kept, a statement that a server
lacks) leaves in one piece, which may have 1 GiB, PostgreSQL's limit. So a queue takes
what one read has produced, whatever its size, unless it holds more than QUEUE_MAX_BYTES
already; whoever fills a queue does not read on before it is empty again. What we add to
an output of our own accord is bounded likewise (``Output.ours``).
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

from pooler.wire.debug cimport POOLER_DEBUG

cdef extern from "<assert.h>" nogil:
    void c_assert "assert"(bint truth)

cdef extern from "<string.h>" nogil:
    void explicit_bzero(void *data, size_t n)

cdef enum:
    QUEUE_MAX_BYTES = 0x4000000  # 64 MiB
    OUTPUT_MAX_BYTES = 0x80000000  # 2 GiB: of one read
    KEPT_BYTES = 0x100000  # 1 MiB: what has grown beyond is not kept for later

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
    size_t ours  # of n: statements that the client did not send with this read
    bint failed  # out of memory: the peer cannot be served


cdef inline size_t queue_size(const Queue *q) noexcept nogil:
    return q.end - q.start


cdef ssize_t queues_bytes() noexcept nogil
cdef void queue_free(Queue *q) noexcept nogil


cdef inline void queue_reset(Queue *q) noexcept nogil:
    """Empty the queue and give its memory back."""
    if q.data != NULL:
        queue_free(q)


cdef void queue_shrink(Queue *q) noexcept nogil


cdef inline void queue_drop(Queue *q, size_t n) noexcept nogil:
    """Take n bytes off the front; an emptied queue owns no memory.

    A long one gives back what it does not need each time it has halved.
    """
    q.start += <uint32_t> n
    if POOLER_DEBUG:
        c_assert(q.start <= q.end)
    if q.start == q.end:
        queue_reset(q)
    elif q.cap > KEPT_BYTES and q.end - q.start < q.cap // 2:
        queue_shrink(q)

cdef inline void queue_wipe(Queue *q, size_t n) noexcept nogil:
    """As ``queue_drop``, and nothing of them stays in memory."""
    explicit_bzero(q.data + q.start, n)
    queue_drop(q, n)

cdef int queue_add(Queue *q, const uint8_t *src, size_t n) noexcept nogil
cdef int queue_add_secret(Queue *q, const uint8_t *src, size_t n) noexcept nogil
cdef int queue_replace(Queue *q, const uint8_t *src, size_t n) noexcept nogil


cdef inline int queue_keep(Queue *q, const uint8_t *src, size_t n) noexcept nogil:
    """Make src[0:n) the whole content; src may be the tail of the queue itself."""
    return 0 if n == 0 and q.cap == 0 else queue_replace(q, src, n)


cdef inline void output_clear(Output *o) noexcept nogil:
    o.data = NULL
    o.n = o.ours = 0
    o.failed = False


cdef inline void output_shrink(Output *o) noexcept nogil:
    """At the end of a turn: nobody borrows from it any more."""
    if o.cap > KEPT_BYTES:
        output_clear(o)
        free(o.scratch)
        o.scratch = NULL
        o.cap = 0

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
