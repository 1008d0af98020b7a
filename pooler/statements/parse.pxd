# SPDX-License-Identifier: MIT
"""Parse: what a client prepares by the extended protocol.

Statements layer, sans-IO, hot. A named statement is sent to the server under its shared
name, or answered here if the server has it. An unnamed one goes as it is when its text
is new, and from the second time on like a named one. A Parse that may not be is sent
as a request that PostgreSQL fails, so that everything behind it is skipped.

Source: PostgreSQL documentation, "Extended Query", "Message Formats" (Parse).
"""

from libc.stdint cimport uint8_t
from libc.string cimport memchr

from pooler.wire.buffers cimport Output
from pooler.session.records cimport ClientSession, ServerSession
from pooler.session.requests cimport (
    batch_number, batch_unsettled, requests_may_skip,
)
from pooler.statements.outcomes cimport PrepareResult, Refusal
from pooler.tables.client_names cimport ClientStatements
from pooler.tables.texts cimport StatementTable
from pooler._wire cimport Found

cdef enum:
    NAMES_MOST_BYTES = 32768  # of a message, up to the end of the names in it


cdef inline size_t after_cstring(
    const uint8_t *message, size_t here, size_t at
) noexcept nogil:
    """Behind the terminator of the string at ``at``; 0 when it is not there."""
    cdef const uint8_t *end
    if at >= here:
        return 0
    if message[at] == 0:  # most names are empty
        return at + 1
    end = <const uint8_t *> memchr(message + at, 0, here - at)
    return 0 if end == NULL else <size_t> (end - message) + 1


cdef inline bint names_unsettled(
    const ClientSession *c, const ServerSession *s
) noexcept nogil:
    """Whether an earlier batch, not answered yet, may still change names."""
    return c.statements != NULL and batch_unsettled(
        &s.requests, c.statements.names_batch
    )


cdef inline bint unnamed_may_stay(
    const ClientStatements *names, ServerSession *s
) noexcept nogil:
    """Whether a Query may be skipped, so that it does not end an unnamed statement.

    Of one that is not there now, what ended it may be skipped as well.
    """
    return s.batch.unsynced and requests_may_skip(&s.requests) and (
        names.unnamed != NULL or names.unnamed_batch == batch_number(&s.requests)
        or batch_unsettled(&s.requests, names.unnamed_batch)
    )


cdef inline bint no_room(const StatementTable *t, size_t n) noexcept nogil:
    return t.max_bytes != 0 and t.bytes + n > t.max_bytes

cdef PrepareResult names_missing(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, size_t here, size_t *taken,
) noexcept nogil
cdef PrepareResult refuse(
    const StatementTable *t, ServerSession *s, Output *out, Refusal why
) noexcept nogil
cdef PrepareResult refuse_cut(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, size_t here, size_t *taken, Refusal why,
) noexcept nogil
cdef PrepareResult absorb(
    StatementTable *t, ClientSession *c, const ServerSession *s, const Found *found,
    const uint8_t *message, size_t here, size_t *taken,
) noexcept nogil
cdef PrepareResult parse_whole(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *body, size_t n, bint framed,
) noexcept nogil
cdef PrepareResult prepare_parse(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, const uint8_t *message, size_t here, size_t behind,
    size_t *taken,
) noexcept nogil
