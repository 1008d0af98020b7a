# SPDX-License-Identifier: MIT
"""Errors of a server and who hears of them; see ``failures.pxd``."""

from libc.stdint cimport int32_t, uint32_t, uint8_t
from libc.string cimport memcpy

from pooler.relay.server_walk cimport (
    Walk, body_of, body_size, is_cut, keep_until,
)
from pooler.session.records cimport ServerSession
from pooler.session.requests cimport (
    REQUEST_DESCRIBE, REQUEST_SKIP, REQUEST_SQL, RequestQueue, request_closes,
    request_code, request_has_effect, request_is_query, requests_at, requests_first,
)
from pooler.session.tracking cimport error_is_owed, owe_error, tell_error
from pooler.statements.effects cimport effects_undo
from pooler.statements.error_text cimport (
    put_our_error, put_owed_error, put_refusal, put_renamed_error,
)
from pooler.statements.install cimport only_name_of
from pooler.statements.peek cimport load_be16
from pooler.statements.replay cimport says_owed, says_taken
from pooler.statements.stand_in cimport types_of
from pooler.tables.effect_queue cimport (
    EFFECT_FAILED, EFFECT_LIMITED, EFFECT_REFUSED, EFFECT_TELLS_TYPES, Effect,
    effects_at,
)
from pooler.tables.server_statements cimport ServerStatement, server_statement_find
from pooler.tables.texts cimport Statement, statement_ref, statement_unref
from pooler.wire.buffers cimport Output, output_room
from pooler._wire cimport HEADER_BYTES, put_header

cdef extern from "<string.h>" nogil:
    void *memmem(const void *text, size_t n, const void *part, size_t part_n)

cdef enum:
    IN_FAILED_BLOCK_BYTES = 8

cdef const char *IN_FAILED_BLOCK = b"\0C25P02\0"
cdef const char *BIND_ROUTINE = b"exec_bind_message"
cdef const char *DESCRIBE_ROUTINE = b"exec_describe_statement_message"
cdef const char *PORTAL_ROUTINE = b"exec_describe_portal_message"


cdef bint query_is_next(ServerSession *s) noexcept nogil:
    """Whether a Sync of ours is at the head, and behind it a Query."""
    cdef uint8_t request
    if requests_first(&s.requests) != (c"S" | REQUEST_SKIP) or (
        s.requests.tail - s.requests.head == 1
    ):
        return False
    request = requests_at(&s.requests, s.requests.head + 1)[0] & 0x7F
    return request_is_query(request)


cdef void note_described(
    Needed *needed, const Effect *failed, const Effect *effect
) noexcept nogil:
    """What a Describe describes. ``effect``: of that, NULL if it has none.

    For an EXECUTE it may be what that names that has failed: ``effect`` says so.
    """
    if effect == NULL or effect.called == NULL:
        needed.described = failed.installed if failed != NULL else NULL
    elif effect.flags & EFFECT_TELLS_TYPES:
        needed.described = effect.installed
    else:
        needed.by = c"P"


cdef void needs_what_failed(ServerSession *s, Needed *needed) noexcept nogil:
    """The client's Bind or Describe for which the request at the head was sent.

    ``by`` is 0 if that is the client's own, or one for a Query.
    """
    cdef RequestQueue *q = &s.requests
    cdef uint32_t at = q.head
    cdef uint32_t effect_at = s.effects.head
    cdef uint8_t request
    cdef bint waits = False  # a Bind, for what is described first
    cdef Effect *failed = NULL
    needed.by = 0
    needed.described = NULL
    if s.effects.head != s.effects.tail and request_has_effect(requests_first(q)):
        failed = effects_at(&s.effects, s.effects.head)
    while at != q.tail:
        request = requests_at(q, at)[0]
        waits = waits or request == (REQUEST_DESCRIBE | REQUEST_SKIP)
        if request & REQUEST_SKIP == 0:
            break
        if request_closes(request):
            return
        effect_at += request_has_effect(request)
        at += 1
    if at == q.tail:
        needed.by = c"B" if waits else 0
        return
    if at == q.head or request_code(request) not in (c"B", c"D"):
        return
    needed.by = request_code(request)
    if needed.by == c"D":
        note_described(
            needed, failed, effects_at(&s.effects, effect_at) if (
                request_has_effect(request) and effect_at != s.effects.tail
            ) else NULL,
        )


cdef const char *routine_of(const Walk *w, uint8_t needed_by) noexcept nogil:
    """Where PostgreSQL would have refused the client's own request; NULL: there."""
    if needed_by == 0 or not says_failed_block(w):
        return NULL
    if needed_by == c"P":
        return PORTAL_ROUTINE
    return BIND_ROUTINE if needed_by == c"B" else DESCRIBE_ROUTINE


cdef void tell_types(Walk *w, const Statement *st) noexcept nogil:
    """The ParameterDescription of a Describe whose rows cannot be described.

    PostgreSQL tells what parameters there are before it looks whether the statement
    still means the same.
    """
    cdef const uint8_t *types
    cdef uint8_t *room
    cdef size_t n
    if st == NULL or says_failed_block(w):
        return
    types = types_of(&w.r.statements, st, only_name_of(w.c.statements, st))
    if types == NULL:
        return
    n = 2 + 4 * <size_t> load_be16(types)
    room = output_room(&w.r.to_client, HEADER_BYTES + n)
    if room != NULL:
        memcpy(room + put_header(room, c"t", <uint32_t> (4 + n)), types, n)


cdef inline bint is_refused(const Walk *w, const Effect *effect) noexcept nogil:
    """Whether the request was made to fail, and this is that failure."""
    return effect.flags & EFFECT_REFUSED != 0 or (
        effect.flags & EFFECT_LIMITED != 0 and not is_cut(w)
        and says_taken(&w.r.statements, body_of(w), body_size(w))
    )


cdef void show_error(
    Walk *w, const Effect *effect, const Needed *needed
) noexcept nogil:
    """Let the client see an error as if its own request had failed, and once only.

    ``effect``: of the request that has failed, or NULL. What was skipped behind it is
    undone, so the client's names are those that this request was sent with.
    ``needed``: as from ``needs_what_failed``.
    """
    if w.s.tracking.error_told:
        w.drop = True
    elif is_owed(w):
        put_owed_error(&w.r.to_client, w.s)
        w.drop = True
    elif effect != NULL and is_refused(w, effect):
        put_refusal(&w.r.to_client, effect.refusal)
        w.drop = True
    else:
        tell_types(w, needed.described)
        # not dropped, also when we asked for it on the client's behalf
        w.drop = not is_cut(w) and put_renamed_error(
            &w.r.to_client, &w.r.statements, w.c, effect,
            w.src + w.found.start, <size_t> w.found.length + 1,
            routine_of(w, needed.by),
        )


cdef inline bint says_failed_block(const Walk *w) noexcept nogil:
    """Whether a command was refused because its transaction has failed before."""
    return memmem(
        body_of(w), min(body_size(w), w.n - w.found.start - HEADER_BYTES),
        IN_FAILED_BLOCK, IN_FAILED_BLOCK_BYTES,
    ) != NULL


cdef inline bint is_owed(const Walk *w) noexcept nogil:
    """Whether the Query has come to what we could not prepare in front of it.

    In a transaction that has failed by this it does not come any further.
    """
    return error_is_owed(w.s) and not is_cut(w) and (
        says_failed_block(w)
        or says_owed(&w.r.statements, w.s, body_of(w), body_size(w))
    )


cdef inline bint is_in_front(Walk *w, uint8_t failed) noexcept nogil:
    """Whether a request of ours in front of a client's Query has failed."""
    return failed & REQUEST_SKIP != 0 and (
        failed & 0x7F == REQUEST_SQL or failed & 0x7F == c"Q" or query_is_next(w.s)
    )


cdef const Statement *owed_for(
    const ServerSession *s, const Effect *effect
) noexcept nogil:
    """Which statement the Query will find missing; NULL: not known.

    What an EXECUTE names is prepared for that, and it is that which is missing, too.
    """
    cdef const ServerStatement *there
    if effect == NULL or effect.installed == NULL:
        return NULL
    there = server_statement_find(&s.statements, effect.installed)
    if there != NULL and <int32_t> (there.target_batch - there.batch) >= 0:
        return NULL
    return effect.installed


cdef bint keep_error(Walk *w, Effect *effect) noexcept nogil:
    """Keep an error of ours until the client's own Query comes to what needed it.

    One that says that the transaction has failed is dropped: the Query hears it from
    PostgreSQL, which may find another fault in it first. False: it cannot be kept.
    """
    cdef Output *out = &w.r.to_client
    cdef size_t start = out.n
    cdef int kept
    if says_failed_block(w):
        return True
    if is_cut(w):
        return False
    put_our_error(
        out, &w.r.statements, w.c, effect, w.src + w.found.start,
        <size_t> w.found.length + 1,
    )
    if out.failed:
        return False
    kept = owe_error(
        w.s, out.data + start, out.n - start, owed_for(w.s, effect)
    )
    out.n = start
    return kept == 0


cdef void undo_failed(
    Walk *w, uint32_t skipped, const Needed *needed
) noexcept nogil:
    """Take back what PostgreSQL has skipped, and show the error to the client.

    ``skipped``: how many requests that have effects; the failed one is among them.
    ``needed``: as from ``needs_what_failed``, before they were skipped.
    """
    cdef ServerSession *s = w.s
    cdef uint8_t failed = w.first
    cdef Effect *effect = NULL
    cdef bint told = True
    cdef Statement *described = statement_ref(needed.described)
    if request_has_effect(failed) and s.effects.head != s.effects.tail:
        if skipped:
            effects_undo(&w.r.statements, s, 1, skipped - 1)
        effect = effects_at(&s.effects, s.effects.head)
    else:
        effects_undo(&w.r.statements, s, 0, skipped)
    keep_until(w, w.found.start)
    if w.c != NULL and is_in_front(w, failed) and keep_error(w, effect):
        w.drop = True
        told = False
    elif w.c != NULL and failed:
        show_error(w, effect, needed)
    if effect != NULL:
        effect.flags |= EFFECT_FAILED
    if skipped and effect != NULL:
        effects_undo(&w.r.statements, s, 0, 1)
    if failed & 0x7F == REQUEST_SQL:  # undone at ReadyForQuery
        tell_error(s, told and failed & REQUEST_SKIP != 0)
    elif failed & REQUEST_SKIP and query_is_next(s):
        tell_error(s, told)
    statement_unref(&w.r.statements, described)
