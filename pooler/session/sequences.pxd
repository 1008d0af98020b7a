# SPDX-License-Identifier: MIT
"""Whose values a server remembers of sequences: what currval() and lastval() tell.

Layer session, sans-IO, hot. Writes ``ServerSession.sequences``. Which sequences a
client has advanced cannot be seen (a column with a default, a trigger). So once a
client of a pool has asked for such a value, each server of that pool forgets them
(DISCARD SEQUENCES) before it works for another client, and PostgreSQL says itself that
nothing is defined yet (55000). The client that asks is offered its own server again.

Source: PostgreSQL documentation, "Sequence Manipulation Functions", "DISCARD".
"""

from libc.stdint cimport uint64_t

from pooler.session.records cimport ClientSession, Pool, ServerSession


cdef inline void sequences_begin(ClientSession *c, uint64_t number) noexcept nogil:
    """A client has logged in; no other one of this worker has its number, nor 0."""
    c.number = number


cdef inline bint sequences_unlike(ServerSession *s) noexcept nogil:
    """A client has got a server: whether it has to forget those of others at once."""
    if s.sequences.user != s.client.number:
        s.sequences.of_others = s.sequences.of_others or s.sequences.user != 0
        s.sequences.user = s.client.number
    return s.sequences.of_others and s.pool.sequences_asked


cdef inline bint sequences_used(const ServerSession *s) noexcept nogil:
    """Whether a server remembers those of anybody."""
    return s.sequences.of_others or s.sequences.user != 0


cdef inline void sequences_of_strangers(ServerSession *s, bint used) noexcept nogil:
    """A server comes from another worker, whose clients are nobody here."""
    s.sequences.of_others = used


cdef inline void sequences_discarded(ServerSession *s) noexcept nogil:
    """DISCARD SEQUENCES goes out, before anything that its client asks for."""
    s.sequences.of_others = False


cdef inline void sequences_asked(ServerSession *s) noexcept nogil:
    """A client asks what value it got last."""
    if s.client != NULL and s.pool.config.clean_changed:
        s.client.asks_sequences = True
        s.pool.sequences_asked = True


cdef inline void sequences_always(Pool *p) noexcept nogil:
    """Servers forget from the first client on, whether anybody asks or not."""
    p.sequences_asked = True


cdef inline bint sequences_late(const ServerSession *s) noexcept nogil:
    """Whether those of others are still there, and its client has done nothing yet.

    So it is when the first client of a pool asks, and its transaction begins with that.
    """
    return (
        s.sequences.of_others and s.pool.sequences_asked and s.xact_status == c"I"
        and s.requests.closing_count == 0 and not s.batch.executed
    )
