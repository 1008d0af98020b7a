# SPDX-License-Identifier: MIT
"""Servers that other workers should have: put aside, and Python told.

Relay layer, sans-IO, hot. Who should have a server that comes free is read from the
page (``session/sharing``). One that should go is put aside in state TESTED, out of
reach, until Python has sent it away or says that it stays. If anything comes from it
meanwhile it is as any server in that state, and goes back to its pool.
"""

from libc.stdint cimport uint64_t

from pooler.relay.shared cimport Relay
from pooler.session.records cimport Pool, ServerSession

cdef void sharing_begin(Pool *p) noexcept nogil
cdef void sharing_patience(Pool *p, uint64_t patience_us) noexcept nogil
cdef void sharing_even(Pool *p) noexcept nogil
cdef bint server_may_move(const ServerSession *s) noexcept nogil
cdef bint goes_elsewhere(Relay *r, ServerSession *s) noexcept nogil
cdef void note_uneven(Relay *r, Pool *p) noexcept nogil
cdef void server_stays(Relay *r, ServerSession *s) noexcept nogil


cdef inline bint is_shared(const Pool *p) noexcept nogil:
    """Whether other workers have clients or servers of this pool; the last row is that
    of dead ones.
    """
    return p.row_count > 2


cdef inline bint offer_elsewhere(Relay *r, ServerSession *s) noexcept nogil:
    """A server has become idle: whether it was put aside for another worker."""
    return is_shared(s.pool) and goes_elsewhere(r, s)
