# SPDX-License-Identifier: MIT
"""What is known of a server's prepared statements beside their map.

Layer session, sans-IO, hot. Writes ``ServerSession.tracking``.

Source: PostgreSQL documentation, "Extended Query", "PREPARE".
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from pooler.session.records cimport ServerSession
from pooler.tables.texts cimport Statement
from pooler.wire.buffers cimport queue_add, queue_reset, queue_size


cdef inline void tracking_begin(ServerSession *s, bint on) noexcept nogil:
    """A server has logged in; ``on``: names of prepared statements are ours."""
    s.tracking.on = on


cdef inline void tracking_goes_on(
    ServerSession *s, bint unnamed, bint stray
) noexcept nogil:
    """A server comes from another worker; ``unnamed``: it may have such a statement.

    ``stray``: it has names that nobody knows here.
    """
    s.tracking.unnamed_maybe = unnamed
    s.tracking.stray = stray


cdef inline bint tracking_is_over(const ServerSession *s) noexcept nogil:
    """Whether its last client has left nothing to be told, settled or cleared."""
    return not (
        s.tracking.stray or s.tracking.changing or s.tracking.owed_error.cap
        or s.tracking.prepares
    )


cdef inline void unnamed_of_another(ServerSession *s) noexcept nogil:
    """Its unnamed statement, if any, is not the attached client's."""
    s.tracking.unnamed_own = False


cdef inline void unnamed_sent(ServerSession *s) noexcept nogil:
    """The client's Parse of the unnamed statement went to the server."""
    s.tracking.unnamed_own = s.tracking.unnamed_maybe = True


cdef inline void prepare_sent(ServerSession *s) noexcept nogil:
    """A PREPARE with a name of ours is on its way."""
    s.tracking.prepares += 1


cdef inline void prepare_answered(ServerSession *s) noexcept nogil:
    """The tag of a PREPARE; if none of ours, it has left a name we do not know."""
    if s.tracking.prepares:
        s.tracking.prepares -= 1
    else:
        s.tracking.stray = True


cdef inline void no_prepares(ServerSession *s) noexcept nogil:
    """Everything is answered: PREPAREs that failed had no tag."""
    s.tracking.prepares = 0


cdef inline void no_strays(ServerSession *s) noexcept nogil:
    """All names are gone that SQL has made, or will be before the next client."""
    s.tracking.stray = False


cdef inline void schema_changing(ServerSession *s) noexcept nogil:
    """A command may have changed what texts mean; others see it when it is over."""
    s.tracking.changing = True


cdef inline void schema_settled(ServerSession *s) noexcept nogil:
    """Its transaction is over."""
    s.tracking.changing = False


cdef inline void tell_error(ServerSession *s, bint told) noexcept nogil:
    """Whether the error of the next Query was shown already, for what ran before it."""
    s.tracking.error_told = told


cdef inline bint error_is_owed(const ServerSession *s) noexcept nogil:
    """Whether what the next Query needs could not be prepared in front of it."""
    return s.tracking.owed_error.cap != 0


cdef inline int owe_error(
    ServerSession *s, const uint8_t *message, size_t n, const Statement *st
) noexcept nogil:
    """Keep a copy of an error until the Query comes to what ``st`` was needed for.

    The first of several stays: behind it the Query will come to nothing. -1 without
    memory.
    """
    if error_is_owed(s):
        return 0
    s.tracking.owed_name_n = 0
    if st != NULL:
        s.tracking.owed_name_n = st.name_n
        memcpy(s.tracking.owed_name, st.name, st.name_n + 1)
    return queue_add(&s.tracking.owed_error, message, n)


cdef inline void owe_nothing(ServerSession *s) noexcept nogil:
    """The Query is over, or the server goes."""
    queue_reset(&s.tracking.owed_error)
