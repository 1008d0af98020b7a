# SPDX-License-Identifier: MIT
"""Whether a server is to be used again. Layer session, sans-IO, hot.

Writes ``ServerSession.fate``.
"""

from pooler.session.records cimport ServerSession


cdef inline void mark_obsolete(ServerSession *s) noexcept nogil:
    """It is closed as soon as nobody needs it."""
    s.fate.obsolete = True


cdef inline void note_fatal(ServerSession *s, bint seen) noexcept nogil:
    """The client has, or has not, read why the server goes away."""
    s.fate.fatal_seen = seen
