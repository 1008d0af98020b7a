# SPDX-License-Identifier: MIT
"""A COPY from the client: open, failed early, over.

Layer session, sans-IO, hot. Writes ``ServerSession.copy``.

Source: PostgreSQL documentation, "COPY Operations".
"""

from pooler.session.records cimport (
    COPY_IN_FAILED, COPY_IN_NONE, COPY_IN_OPEN, ServerSession,
)
from pooler.session.requests cimport requests_copy_in


cdef inline void copy_open(ServerSession *s) noexcept nogil:
    """CopyInResponse: the client has still to end the COPY, or it has already."""
    s.copy.syncs_ignored = False
    s.copy.state = (
        COPY_IN_OPEN if requests_copy_in(&s.requests, &s.copy.syncs_ignored)
        else COPY_IN_NONE
    )


cdef inline void copy_ignores_sync(ServerSession *s) noexcept nogil:
    """A Sync was sent while it was open."""
    s.copy.syncs_ignored = True


cdef inline void copy_fail(ServerSession *s) noexcept nogil:
    """The server has given up, but the client may still send data."""
    s.copy.state = COPY_IN_FAILED


cdef inline void copy_end(ServerSession *s) noexcept nogil:
    s.copy.state = COPY_IN_NONE
