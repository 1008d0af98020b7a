# SPDX-License-Identifier: MIT
"""The walk over what one read of a server has brought.

Relay layer, sans-IO, hot. Shared by the modules that decide about its messages.
"""

from libc.stdint cimport uint8_t

from pooler.relay.shared cimport Relay
from pooler.session.records cimport ClientSession, ServerSession
from pooler.wire.buffers cimport output_add
from pooler._wire cimport Found, HEADER_BYTES

cdef struct Walk:  # over the bytes of one read
    Relay *r
    ServerSession *s
    ClientSession *c  # NULL: nobody gets them
    const uint8_t *src
    size_t n
    size_t start  # first byte that is neither in to_client nor dropped
    size_t pos
    uint8_t first  # the request that is being answered
    bint drop  # what is being answered is not for the client
    Found found


cdef inline void keep_until(Walk *w, size_t end) noexcept nogil:
    """Everything before ``end`` is dealt with."""
    if not w.drop and end > w.start:
        output_add(&w.r.to_client, w.src + w.start, end - w.start)
    w.start = end


cdef inline const uint8_t *body_of(const Walk *w) noexcept nogil:
    return w.src + w.found.start + HEADER_BYTES


cdef inline size_t body_size(const Walk *w) noexcept nogil:
    return w.found.length - 4


cdef inline bint is_cut(const Walk *w) noexcept nogil:
    """Whether more of the message that was found is still to come."""
    return w.s.scan.body_left != 0
