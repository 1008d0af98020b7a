# SPDX-License-Identifier: MIT
"""Totals of a pool; since when a client waits. Layer session, sans-IO, hot.

Writes ``Pool.counters`` and ``ClientSession.clock``. Time is that of the turn, noted
once for a read and once for a ReadyForQuery, and never asked for here.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from pooler.board.latency cimport (
    TIMED_BOTH, TIMED_QUERY, TIMED_WAIT, TIMED_XACT, note_time,
)
from pooler.session.records cimport ClientSession, Pool, ServerSession


cdef inline void note_asked(ClientSession *c, uint64_t now_us) noexcept nogil:
    """A client has asked for something, once for a read; an answer is owed."""
    if c.clock.query_us == 0:
        c.clock.query_us = now_us
        if c.clock.xact_us == 0:
            c.clock.xact_us = now_us


cdef inline void note_seen(ClientSession *c, uint64_t now_us) noexcept nogil:
    c.clock.seen_us = now_us


cdef inline void note_parted(ClientSession *c) noexcept nogil:
    """What a client has asked for is not answered by a server any more."""
    c.clock.query_us = c.clock.xact_us = 0


cdef inline void time_query(Pool *p, int kind, uint64_t us) noexcept nogil:
    if p.times != NULL:
        note_time(&p.times[kind], us)


cdef inline void count_query(ServerSession *s, uint64_t now_us) noexcept nogil:
    """ReadyForQuery of a client's request; what it owes still is timed from here."""
    cdef Pool *p = s.pool
    cdef ClientSession *c = s.client
    cdef bint ends_xact = s.xact_status == c"I"
    cdef uint64_t took_us
    cdef uint64_t xact_us
    p.counters.queries += 1
    p.counters.xacts += ends_xact
    if c == NULL or c.clock.query_us == 0:
        return
    took_us = now_us - c.clock.query_us
    p.counters.query_us += took_us
    c.clock.query_us = now_us if s.requests.head != s.requests.tail else 0
    if not ends_xact:
        time_query(p, TIMED_QUERY, took_us)
        return
    xact_us = now_us - c.clock.xact_us
    p.counters.xact_us += xact_us
    c.clock.xact_us = c.clock.query_us
    if xact_us == took_us:
        time_query(p, TIMED_BOTH, took_us)
    else:
        time_query(p, TIMED_QUERY, took_us)
        time_query(p, TIMED_XACT, xact_us)


cdef inline void counters_begin(Pool *p) noexcept nogil:
    """A pool begins anew, for another client."""
    memset(&p.counters, 0, sizeof(p.counters))


cdef inline void count_assignment(Pool *p, uint64_t waited_us) noexcept nogil:
    p.counters.assignments += 1
    p.counters.wait_us += waited_us
    if p.times == NULL:
        return
    if waited_us == 0:  # most have not waited
        p.times[<int> TIMED_WAIT].counts[0] += 1
    else:
        note_time(&p.times[<int> TIMED_WAIT], waited_us)


cdef inline void count_login(Pool *p) noexcept nogil:
    p.counters.client_logins += 1


cdef inline void count_received(Pool *p, size_t n) noexcept nogil:
    p.counters.received_bytes += n


cdef inline void count_sent(Pool *p, size_t n) noexcept nogil:
    p.counters.sent_bytes += n


cdef inline void count_client_parse(Pool *p) noexcept nogil:
    p.counters.client_parses += 1


cdef inline void count_server_parse(Pool *p) noexcept nogil:
    p.counters.server_parses += 1


cdef inline void count_parse_hit(Pool *p) noexcept nogil:
    p.counters.parse_hits += 1


cdef inline void count_bind(Pool *p) noexcept nogil:
    p.counters.binds += 1


cdef inline void count_eviction(Pool *p) noexcept nogil:
    p.counters.evictions += 1


cdef inline void count_changed(Pool *p, uint32_t left) noexcept nogil:
    """A client has left something in a server's session."""
    p.counters.changed += 1
    p.counters.left |= left


cdef inline void count_cleaned(Pool *p) noexcept nogil:
    p.counters.cleaned += 1


cdef inline void count_replay(Pool *p) noexcept nogil:
    p.counters.replays += 1
