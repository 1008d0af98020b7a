# SPDX-License-Identifier: MIT
"""Whether a server is to be used again. Layer session, sans-IO, hot.

Writes ``ServerSession.fate``.
"""

from libc.stdint cimport uint8_t

from pooler.session.records cimport (
    CLOSE_SERVER_OBSOLETE, CloseReason, ServerSession,
)


cdef inline void mark_obsolete(ServerSession *s) noexcept nogil:
    """It is closed as soon as nobody needs it."""
    s.fate.obsolete = CLOSE_SERVER_OBSOLETE


cdef inline void mark_over(ServerSession *s, CloseReason reason) noexcept nogil:
    """As ``mark_obsolete``, for its time is over."""
    if s.fate.obsolete == 0:
        s.fate.obsolete = <uint8_t> reason


cdef inline CloseReason why_over(const ServerSession *s) noexcept nogil:
    """Why a server is closed instead of going idle; obsolete if nobody has said."""
    if s.fate.obsolete == 0:
        return CLOSE_SERVER_OBSOLETE
    return <CloseReason> s.fate.obsolete


cdef inline void note_fatal(ServerSession *s, bint seen) noexcept nogil:
    """The client has, or has not, read why the server goes away."""
    s.fate.fatal_seen = seen
