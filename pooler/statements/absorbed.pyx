# SPDX-License-Identifier: MIT
"""Messages that come in parts and are kept; see ``absorbed.pxd``."""

from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memcpy

from pooler.wire.buffers cimport output_add, output_room
from pooler.statements.effects cimport push_with_effect
from pooler.statements.long_query cimport end_draft, run_absorbed
from pooler.statements.parse cimport names_unsettled, parse_whole
from pooler.session.records cimport COPY_IN_OPEN
from pooler.session.requests cimport requests_push
from pooler.statements.sql_query cimport sql_names
from pooler.statements.outcomes cimport (
    PREPARE_DONE, PREPARE_FORWARD, PREPARE_NO_MEMORY, PREPARE_WAIT,
)
from pooler.tables.client_names cimport (
    ABSORB_DROP, ABSORB_NONE, ABSORB_TEE, ABSORB_WAITS, ClientStatements,
    absorbed_free,
)
from pooler._wire cimport HEADER_BYTES, put_header
from pooler.session.batch cimport hold_until_settled
from pooler.session.copy_in cimport copy_end
from pooler.session.fate cimport mark_obsolete


cdef PrepareResult prepare_rest(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *src, size_t n,
) noexcept nogil:
    """More of a message whose body is kept or dropped.

    In:      src[0:n) borrowed, all of it belongs to this message; c.scan.body_left is
             not counted down yet
    Out:     out: what goes to the server
    """
    cdef ClientStatements *names = c.statements
    cdef bint complete = n == c.scan.body_left
    if names.absorbing == ABSORB_DROP:
        if complete:
            names.absorbing = ABSORB_NONE
        return PREPARE_DONE
    if names.absorbing == ABSORB_TEE:
        output_add(out, src, n)
        memcpy(names.draft.statement.text + names.part_have, src, n)
        names.part_have += <uint32_t> n
        return end_draft(t, c, s) if complete else PREPARE_DONE
    memcpy(names.part + names.part_have, src, n)
    names.part_have += <uint32_t> n
    return prepare_absorbed(t, c, s, out) if complete else PREPARE_DONE


cdef PrepareResult prepare_absorbed(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out
) noexcept nogil:
    """The message that was kept is complete. WAIT: it is to be looked at again."""
    cdef ClientStatements *names = c.statements
    cdef uint8_t *body = names.part
    cdef size_t n = names.part_n
    cdef PrepareResult result = PREPARE_FORWARD
    if s.batch.failed:
        absorbed_free(t, names)
        return PREPARE_DONE
    if s.copy.state == COPY_IN_OPEN:  # it has opened meanwhile, and fails at this
        copy_end(s)
    elif names.code == c"P":
        result = parse_whole(t, c, s, out, body, n, False)
    elif n and body[n - 1] == 0:
        if names_unsettled(c, s) and sql_names(t, c, body, n - 1):
            result = PREPARE_WAIT
        else:
            result = run_absorbed(t, c, s, out)
    if result == PREPARE_WAIT:
        names.absorbing = ABSORB_WAITS
        hold_until_settled(c)
        return PREPARE_WAIT
    if names.code == c"Q" and names.in_batch:
        mark_obsolete(s)  # as for one that has come at once
    if result == PREPARE_FORWARD:
        result = forward_absorbed(s, out, names)
    absorbed_free(t, names)
    return result


cdef PrepareResult forward_absorbed(
    ServerSession *s, Output *out, const ClientStatements *names
) noexcept nogil:
    cdef uint8_t *room = output_room(out, HEADER_BYTES + names.part_n)
    if room == NULL:
        return PREPARE_NO_MEMORY
    memcpy(
        room + put_header(room, names.code, names.part_n + 4), names.part, names.part_n
    )
    if names.code == c"P":
        if push_with_effect(s, c"P") == NULL:
            return PREPARE_NO_MEMORY
    elif requests_push(&s.requests, names.code) < 0:
        return PREPARE_NO_MEMORY
    return PREPARE_DONE
