# SPDX-License-Identifier: MIT
"""Totals of a pool. Layer session, sans-IO, hot. Writes ``Pool.counters``."""

from libc.stdint cimport uint32_t, uint64_t

from pooler.session.records cimport Pool


cdef inline void count_query(Pool *p, bint ends_xact) noexcept nogil:
    p.counters.queries += 1
    p.counters.xacts += ends_xact


cdef inline void count_received(Pool *p, size_t n) noexcept nogil:
    p.counters.received_bytes += n


cdef inline void count_sent(Pool *p, size_t n) noexcept nogil:
    p.counters.sent_bytes += n


cdef inline void count_wait(Pool *p, uint64_t waited_us) noexcept nogil:
    p.counters.wait_us += waited_us


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
