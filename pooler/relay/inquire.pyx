# SPDX-License-Identifier: MIT
"""Inquiries; see ``inquire.pxd``."""

from libc.stdint cimport uint32_t

from pooler.relay.orders cimport (
    order_inquired, order_learned, order_send_to_server,
)
from pooler.session.pool cimport pool_test
from pooler.session.requests cimport REQUEST_ALIGN, requests_count, requests_push
from pooler.wire.buffers cimport Queue, queue_add, queue_reset, queue_size

cdef enum:
    ANSWER_MAX_BYTES = 32768  # of a value and its error, told at most three times
    LEARNED_MAX_BYTES = 8192  # until Python has taken it


cdef bint inquiry_begin(
    Relay *r, Pool *p, const uint8_t *message, size_t n
) noexcept nogil:
    """Send a Query of ours to an idle server; False: there is none to spare.

    Nobody is passed: a server that somebody waits for, or will be given once the pool
    goes on, is not asked. The message is borrowed until the orders are carried out.
    As our SET it may fail without an end for the server (REQUEST_ALIGN).
    """
    cdef ServerSession *s = p.idle_head
    if s == NULL or p.waiting_head != NULL or p.paused or p.inquiry.server != NULL:
        return False
    if s.kept_for != NULL or s.changes.left:  # kept for its client
        return False
    if s.scan.body_left:  # the rest of it would be read as a part of the answer
        return False
    if requests_push(&s.requests, REQUEST_ALIGN) < 0:
        return False
    queue_reset(&p.inquiry.answer)
    p.inquiry.failed = False
    p.inquiry.server = s
    pool_test(p, s)
    order_send_to_server(&r.orders, s, message, n)
    return True


cdef void inquiry_bytes(
    Relay *r, ServerSession *s, const uint8_t *src, size_t n
) noexcept nogil:
    """A server without a client has sent src[0:n), which the relay has taken in."""
    cdef Pool *p = s.pool
    if p.inquiry.server != s:
        return
    if queue_size(&p.inquiry.answer) + n > ANSWER_MAX_BYTES or (
        n and queue_add(&p.inquiry.answer, src, n) < 0
    ):
        p.inquiry.failed = True
    if requests_count(&s.requests) == 0:
        if p.inquiry.failed:
            queue_reset(&p.inquiry.answer)
        p.inquiry.server = NULL
        order_inquired(&r.orders, p)


cdef void inquiry_lost(Relay *r, Pool *p) noexcept nogil:
    """The server that was asked is gone."""
    queue_reset(&p.inquiry.answer)
    p.inquiry.server = NULL
    order_inquired(&r.orders, p)


cdef void inquiry_forget(Pool *p) noexcept nogil:
    """Python has read the answer, or nobody will."""
    queue_reset(&p.inquiry.answer)


cdef int put_part(Queue *q, const void *text, uint32_t n) noexcept nogil:
    """A text, and its terminator."""
    if n and queue_add(q, <const uint8_t *> text, n) < 0:
        return -1
    return queue_add(q, <const uint8_t *> b"\0", 1)


cdef void words_learned(
    Relay *r, Pool *p, int index, const ParamValue *asked, const ParamValue *told
) noexcept nogil:
    """A server has made ``told`` of what a client had asked for.

    What there is no room for is learned another time. The first of many orders Python.
    """
    cdef Queue *q = &p.inquiry.learned
    cdef bint first = q.cap == 0
    cdef size_t n = <size_t> r.params.name_n[index] + asked.n + told.n + 3
    if queue_size(q) + n > LEARNED_MAX_BYTES:
        return
    if (
        put_part(q, r.params.name[index], r.params.name_n[index]) < 0
        or put_part(q, asked.text, asked.n) < 0
        or put_part(q, told.text, told.n) < 0
    ):
        queue_reset(q)  # half of it would be read as something else
        return
    if first:
        order_learned(&r.orders, p)


cdef void words_forget(Pool *p) noexcept nogil:
    """Python has taken it, or nobody will."""
    queue_reset(&p.inquiry.learned)
