# SPDX-License-Identifier: MIT
"""Servers that move to another worker, and what of them travels as bytes.

Relay layer, sans-IO, warm. Only an idle server moves in which nothing is left of any
client but what is written down here. Statements that are too many to be written down
are cleared there before the first use, by DEALLOCATE ALL. The record is read by a
worker of the same pooler, but nothing of it is believed:

    version, marks          one byte each
    opened, idle since      8 bytes each: CLOCK_MONOTONIC is the same in all processes
    parameters              their number; of each its name, and the server's default and
                            its value (2 bytes of length, or NOT_KNOWN)
    names made up           their number; of each its text
    statements              see ``moved_names``

Source: PostgreSQL documentation, "Asynchronous Operations", "DEALLOCATE".
"""

from libc.stdint cimport uint64_t, uint8_t

from pooler.relay.moved_names cimport MovedNames
from pooler.relay.shared cimport Relay
from pooler.session.records cimport Pool, ServerSession
from pooler.tables.params cimport ParamSet
from pooler.wire.buffers cimport Queue

cdef struct Thawed:  # a record that has been read
    uint8_t marks  # Mark
    uint64_t opened_us
    uint64_t idle_since_us
    ParamSet *defaults  # own: one reference
    ParamSet *params  # own: one reference
    MovedNames names  # borrow: in the record
    uint64_t custom  # parameters made up there, as bits of this worker's CustomNames

cdef int freeze(Relay *r, const ServerSession *s, Queue *into) noexcept nogil
cdef int thaw(Relay *r, const uint8_t *src, size_t n, Thawed *t) noexcept nogil
cdef void thawed_free(Relay *r, Thawed *t) noexcept nogil
cdef bint pool_accepts(const Relay *r, const Pool *p, const Thawed *t) noexcept nogil
cdef void leave_pool(Relay *r, ServerSession *s) noexcept nogil
cdef void join_pool(Relay *r, ServerSession *s, Pool *p, Thawed *t) noexcept nogil
