# SPDX-License-Identifier: MIT
"""The open batch of a server: extended messages that no Sync has closed yet.

Layer session, sans-IO, hot. Writes ``ServerSession.batch``, and ``settling`` of a
client that waits until its batches are answered.

Source: PostgreSQL documentation, "Extended Query", "Pipelining".
"""

from libc.stdint cimport uint8_t

from pooler.session.records cimport ClientSession, ServerSession
from pooler.session.requests cimport request_closes
from pooler.tables.client_names cimport ClientStatement


cdef inline void batch_request(ServerSession *s, uint8_t code) noexcept nogil:
    """A request goes out that PostgreSQL will answer."""
    s.batch.open = not request_closes(code)
    if s.batch.open:
        s.batch.unsynced = True
    else:
        s.batch.bound = NULL
        if code == c"S":
            s.batch.unsynced = False
    s.batch.executed = s.batch.open and (s.batch.executed or code == c"E")


cdef inline void batch_extended(ServerSession *s, uint8_t code) noexcept nogil:
    """As batch_request, of a message that a Sync has still to follow."""
    s.batch.open = s.batch.unsynced = True
    if code == c"E":
        s.batch.executed = True


cdef inline bint transaction_has_failed(const ServerSession *s) noexcept nogil:
    """Whether the next request surely comes into a transaction that has failed.

    An Execute of the same batch may have ended it, which only ReadyForQuery tells.
    """
    return (
        s.xact_status == c"E" and s.requests.closing_count == 0
        and not s.batch.executed
    )


cdef inline void batch_open(ServerSession *s, bint still) noexcept nogil:
    """Whether one is open after what we have put in, or what was taken back."""
    s.batch.open = still


cdef inline void batch_fail(ServerSession *s, bint skips) noexcept nogil:
    """A request has failed; ``skips``: PostgreSQL ignores all up to a Sync to come."""
    s.batch.failed = skips


cdef inline void batch_synced(ServerSession *s) noexcept nogil:
    """The Sync that a failed batch has waited for is sent, or answered."""
    s.batch.failed = False


cdef inline void batch_bind(ServerSession *s, ClientStatement *entry) noexcept nogil:
    """The unnamed portal is made of this statement; NULL: not known, or none."""
    s.batch.bound = entry


cdef inline void hold_until_settled(ClientSession *c) noexcept nogil:
    """What comes next depends on batches that are not answered yet."""
    c.settling = True


cdef inline void settled(ClientSession *c) noexcept nogil:
    c.settling = False
