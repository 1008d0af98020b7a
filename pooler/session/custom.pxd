# SPDX-License-Identifier: MIT
"""Parameters that clients make up (``my.own``): who has made which, and where.

Layer session, sans-IO, hot. Writes ``ServerSession.custom`` and
``ClientSession.custom``. A server on which one was made, be it for a transaction that
is over, is not as new: it fits those that have made the same one. On a server that
lacks what its client has made once it is made in front of the client's first message.

Source: PostgreSQL documentation, "Customized Options".
"""

from libc.stdint cimport uint64_t, uint8_t

from pooler.session.records cimport ClientSession, ServerSession


cdef inline void custom_sent(ServerSession *s, uint64_t names) noexcept nogil:
    """A text goes out that makes these, unless it fails."""
    if names == 0 or s.client == NULL or not s.pool.config.clean_custom:
        return
    s.custom.made |= names
    s.custom.sent |= names & ~s.client.custom


cdef inline void custom_failed(ServerSession *s) noexcept nogil:
    """A request has failed: nobody knows whether what was sent has been made."""
    s.custom.failed = s.custom.sent != 0


cdef inline void custom_made(ServerSession *s) noexcept nogil:
    """What was sent is made: a rollback does not take it back."""
    if s.client != NULL:
        s.client.custom |= s.custom.sent
    s.custom.sent = 0


cdef inline void custom_tag(ServerSession *s, const uint8_t *tag) noexcept nogil:
    """A command is done, with this tag: it may be the one that has made them.

    SET and RESET, SELECT of a set_config(), DO; of a pipeline, maybe an earlier one.
    """
    if tag[0] == c"S" or tag[0] == c"D" or (tag[0] == c"R" and tag[1] == c"E"):
        custom_made(s)


cdef inline bint custom_answered(ServerSession *s) noexcept nogil:
    """Everything is answered; False: nobody knows whether what was sent is made."""
    cdef bint known = not s.custom.failed
    if known:
        custom_made(s)
    s.custom.sent = 0
    s.custom.failed = False
    return known


cdef inline bint custom_is_known(const ServerSession *s) noexcept nogil:
    """Whether it is sure which ones were made there."""
    return s.custom.sent == 0 and not s.custom.failed


cdef inline uint64_t custom_lacked(const ServerSession *s) noexcept nogil:
    """What the client has made that its server does not know yet."""
    return s.client.custom & ~s.custom.made


cdef inline void custom_put(ServerSession *s, uint64_t names) noexcept nogil:
    """They are made in front of the client's message."""
    s.custom.made |= names


cdef inline bint custom_fits(
    const ServerSession *s, const ClientSession *c
) noexcept nogil:
    """Whether nobody has made anything on a server that this client has not."""
    return s.custom.made & ~c.custom == 0
