# SPDX-License-Identifier: MIT
"""Inquiries; see ``inquire.pxd``."""

from pooler.relay.orders cimport order_inquired, order_send_to_server
from pooler.session.pool cimport pool_test
from pooler.session.requests cimport REQUEST_ALIGN, requests_count, requests_push
from pooler.wire.buffers cimport queue_add, queue_reset, queue_size

cdef enum:
    ANSWER_MAX_BYTES = 32768  # of a value and its error, told at most three times


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
