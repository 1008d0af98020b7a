# SPDX-License-Identifier: MIT
"""Savepoints around what we prepare; see ``guard.pxd``."""

from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memcpy

from pooler.wire.buffers cimport Output, output_room
from pooler.session.records cimport ServerSession
from pooler.session.requests cimport REQUEST_SKIP, requests_push
from pooler.statements.install cimport OWN_NAME_BYTES, end_own_batch, own_name
from pooler.tables.texts cimport StatementTable
from pooler._wire cimport HEADER_BYTES, put_header

cdef extern from "<stdio.h>" nogil:
    int snprintf(char *p, size_t n, const char *form, ...)

cdef const char *GUARD_SUFFIX = b"guard"
cdef const char *BEGIN = b"SAVEPOINT %s"
cdef const char *END = b"ROLLBACK TO %s; RELEASE %s"


cdef int put_guard(
    const StatementTable *t, ServerSession *s, Output *out, const char *form
) noexcept nogil:
    """Send a Query of ours that names the savepoint once or twice."""
    cdef char name[OWN_NAME_BYTES]
    cdef char text[2 * OWN_NAME_BYTES + 32]
    cdef size_t n
    cdef uint8_t *room
    own_name(t, GUARD_SUFFIX, name)
    n = <size_t> snprintf(text, sizeof(text), form, name, name) + 1
    room = output_room(out, HEADER_BYTES + n)
    if room == NULL:
        return -1
    memcpy(room + put_header(room, c"Q", <uint32_t> (4 + n)), text, n)
    return requests_push(&s.requests, c"Q" | REQUEST_SKIP)


cdef int guard_begin(
    const StatementTable *t, ServerSession *s, Output *out
) noexcept nogil:
    """In a block that is surely open; ``guard_end`` has to follow. -1 without memory.
    """
    if end_own_batch(s, out) < 0:
        return -1
    return put_guard(t, s, out, BEGIN)


cdef int guard_end(
    const StatementTable *t, ServerSession *s, Output *out
) noexcept nogil:
    """The block is as it was, in front of the client's Query."""
    return put_guard(t, s, out, END)
