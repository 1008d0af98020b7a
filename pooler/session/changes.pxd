# SPDX-License-Identifier: MIT
"""What requests may have changed on a server: what texts mean, what is left there.

Layer session, sans-IO, hot. Writes ``ServerSession.changes``. A text is read by
PostgreSQL under settings, a role and a catalog. While nobody can say which
(``meaning_is_unsure``), what is prepared is its client's own. A parameter that the
server reports is known again at the next ReadyForQuery, the rest when the transaction
ends; what is left in the session stays until the server is cleaned.

Source: PostgreSQL documentation, "SET", "Asynchronous Operations", "DISCARD".
"""

from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t

from pooler.session.records cimport (
    CHANGES_LEFT, CHANGE_BACK, CHANGE_FORGETS, CHANGE_FOR_GOOD, CHANGE_GIVES,
    CHANGE_LENDS, CHANGE_LOCAL, CHANGE_LOCAL_SHIFT, CHANGE_MEANING, CHANGE_RESET_SHIFT,
    CHANGE_TRACKED, CHANGE_UNDOES, Changes, ServerSession,
)
from pooler.session.batch cimport hold_until_settled
from pooler.session.custom cimport custom_answered
from pooler.session.requests cimport batch_answered, batch_number, batch_unsettled
from pooler.session.settings_log cimport settings_answered

cdef inline bint meaning_is_unsure(const ServerSession *s) noexcept nogil:
    """Whether nobody can say under which settings the next text will be read."""
    return (
        s.changes.pending | ((s.changes.xact | s.changes.left) & CHANGE_MEANING)
    ) != 0


cdef inline bint meaning_comes_back(const ServerSession *s) noexcept nogil:
    """Whether it is known again once the batches before this one are answered."""
    return (
        s.changes.pending == CHANGE_TRACKED
        and not (s.changes.xact | s.changes.left) & CHANGE_MEANING
        and batch_unsettled(&s.requests, s.changes.batch)
    )


cdef enum:
    CHANGES_OF_RESET = CHANGE_GIVES | CHANGE_LENDS | CHANGE_UNDOES
    CHANGES_IN_XACT = (
        CHANGES_LEFT | CHANGE_TRACKED | CHANGE_MEANING | CHANGE_FORGETS | CHANGE_LOCAL
    )


cdef inline bint is_resetting(const ServerSession *s) noexcept nogil:
    """Whether parameters may have to go back to what their client had at its login."""
    return s.changes.reset | s.changes.reset_local != 0


cdef inline void back_is_bound(
    ServerSession *s, uint16_t session, uint16_t local
) noexcept nogil:
    """What the unnamed portal resets, so that it goes back behind its Execute."""
    s.changes.back = session
    s.changes.back_local = local


cdef inline bint goes_back(const ServerSession *s) noexcept nogil:
    """Whether the Execute of the unnamed portal needs something behind it."""
    return s.changes.back | s.changes.back_local != 0


cdef inline void resets_over(ServerSession *s) noexcept nogil:
    """What was reset is as it was at the client's login, or has failed to be reset."""
    s.changes.reset = s.changes.reset_local = 0
    s.changes.back = s.changes.back_local = 0
    s.changes.reset_doubt = s.changes.reset_open = False


cdef inline void note_resets(ServerSession *s, uint64_t changes) noexcept nogil:
    """A request goes out that resets parameters, or sets some behind a RESET."""
    if changes & CHANGE_UNDOES:
        resets_over(s)
    if not is_resetting(s):
        s.changes.reset_batch = batch_number(&s.requests)
    s.changes.reset |= <uint16_t> (changes >> CHANGE_RESET_SHIFT)
    s.changes.reset_local |= <uint16_t> (changes >> CHANGE_LOCAL_SHIFT)
    if is_resetting(s):
        s.changes.reset_doubt |= changes & CHANGE_GIVES != 0
        s.changes.reset_open |= changes & CHANGE_LENDS != 0


cdef inline void change_sent(ServerSession *s, uint64_t changes) noexcept nogil:
    """A request goes out that may change these; 0 is none."""
    if changes == 0:
        return
    if changes & CHANGE_BACK and s.changes.xact & CHANGE_TRACKED:
        changes |= CHANGE_TRACKED
    s.changes.tracked_sent += changes & CHANGE_TRACKED != 0
    s.changes.pending |= <uint32_t> changes & (CHANGE_TRACKED | CHANGE_MEANING)
    if changes >> CHANGE_RESET_SHIFT or changes & CHANGES_OF_RESET:
        note_resets(s, changes)
    s.changes.xact |= <uint32_t> changes & CHANGES_IN_XACT
    if changes & (CHANGE_TRACKED | CHANGE_MEANING):
        s.changes.batch = batch_number(&s.requests)


cdef inline void changes_not_sent(
    ServerSession *s, const Changes *before
) noexcept nogil:
    """The request that was noted last waits: it is noted anew when it goes out."""
    s.changes = before[0]


cdef inline bint values_were_these(const ServerSession *s) noexcept nogil:
    """Everything is answered: whether the client's values are those that were set right
    behind the only request that has changed any.
    """
    return (
        s.changes.tracked_sent == 1 and not is_resetting(s) and not s.changes.undone
        and s.xact_status != c"E"
        and not (s.xact_status == c"I" and s.changes.xact & CHANGE_LOCAL)
    )


cdef inline bint changes_answered(ServerSession *s) noexcept nogil:
    """Everything is answered: parameters are known, and at the end of a transaction
    what it has left. Returns whether this has made the meaning of texts sure.
    """
    cdef bint unsure
    if s.changes.pending | s.changes.xact == 0:
        return False
    unsure = meaning_is_unsure(s)
    s.changes.pending = s.changes.tracked_sent = 0
    if s.custom.sent and not custom_answered(s):
        s.changes.xact |= CHANGE_FOR_GOOD
    if s.xact_status == c"I":
        if s.client != NULL:
            settings_answered(s.client, not s.changes.undone)
        s.changes.undone = False
        if s.changes.xact & CHANGES_LEFT and s.pool.config.clean_changed:
            s.changes.left |= s.changes.xact & (CHANGES_LEFT | CHANGE_MEANING)
        s.changes.xact = 0
    return unsure and not meaning_is_unsure(s)


cdef inline void change_undone(ServerSession *s) noexcept nogil:
    """An error, or ROLLBACK: what the transaction has set may be gone."""
    if s.changes.xact:
        s.changes.undone = True


cdef inline bint resets_reached(const ServerSession *s) noexcept nogil:
    """Whether PostgreSQL has come to the batch that resets parameters."""
    return is_resetting(s) and (
        <int32_t> (batch_answered(&s.requests) - s.changes.reset_batch) >= 0
    )


cdef inline void wait_for_resets(ServerSession *s) noexcept nogil:
    """The batch goes out that ends one that resets parameters, or one behind it: its
    client is held until it has its own values again.
    """
    if is_resetting(s) and s.client != NULL:
        hold_until_settled(s.client)


cdef inline void resets_go_on(ServerSession *s, uint16_t sure) noexcept nogil:
    """The transaction is not over: it may come back to where they were reset.

    ``sure``: those of which their values will tell.
    """
    s.changes.reset &= sure
    s.changes.reset_local &= sure
    s.changes.reset_open = True


cdef inline void reset_may_fail(ServerSession *s, uint16_t sure) noexcept nogil:
    """A request has failed that resets parameters, or one behind it, or before.

    ``sure``: those of which their values will tell whether they were reset.
    """
    s.changes.reset &= sure
    s.changes.reset_local &= sure
    s.changes.reset_doubt = True


cdef inline void reset_seen(ServerSession *s, int index) noexcept nogil:
    """A parameter has gone back to the server's own value, and no text has told it."""
    if not is_resetting(s):
        s.changes.reset_batch = batch_answered(&s.requests)
    s.changes.reset |= <uint16_t> (1 << index)
    s.changes.reset_doubt = True


cdef inline bint changes_are_over(const ServerSession *s) noexcept nogil:
    """Whether nothing is left in the session, and nothing has still to be undone."""
    return (
        s.changes.pending | s.changes.xact | s.changes.left
    ) == 0 and not is_resetting(s)


cdef inline void changes_discarded(ServerSession *s) noexcept nogil:
    """DISCARD ALL has run; what was sent behind it is not answered yet."""
    s.changes.left = 0


cdef inline void changes_cleaned(ServerSession *s) noexcept nogil:
    """The session is as it was at its login, but for what follows a client."""
    s.changes.left = s.changes.xact = s.changes.pending = 0
