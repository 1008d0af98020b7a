# SPDX-License-Identifier: MIT
"""What a server is sent so that it has the statements of the client it works for.

Statements layer, sans-IO, hot. Everything goes out in front of the client's message, in
the same send; the answers stop here. In stream order a statement that is dropped to
make room cannot be missed by a message that was sent before.

Source: PostgreSQL documentation, "Extended Query", "PREPARE".
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from pooler.wire.buffers cimport Output
from pooler.session.records cimport ServerSession
from pooler.tables.client_names cimport (
    STATEMENT_NAME_BYTES, ClientStatement, ClientStatements,
)
from pooler.tables.effect_queue cimport Effect
from pooler.tables.server_statements cimport ServerStatement
from pooler.tables.texts cimport Statement, StatementTable

cdef enum:
    OWN_NAME_BYTES = 48
    NOBODY_KNOWS = 0xFFFFFFFF  # in the place of a statement's id


cdef inline bint looks_like_ours(
    const StatementTable *t, const uint8_t *name, size_t n
) noexcept nogil:
    """Whether a name that a client made up could be one of ours on a server."""
    return (
        t.forms.prefix_n <= n < STATEMENT_NAME_BYTES
        and memcmp(name, t.forms.prefix, t.forms.prefix_n) == 0
    )


cdef inline size_t put_quoted(uint8_t *p, const char *name, size_t n) noexcept nogil:
    """A name in SQL, n + 2 bytes; in quotes, for what is beside it may touch it."""
    p[0] = p[n + 1] = c'"'
    memcpy(p + 1, name, n)
    return n + 2

cdef int put_named(
    Output *out, uint8_t code, const uint8_t *before, size_t before_n,
    const char *name, size_t name_n, size_t rest_n,
) noexcept nogil
cdef int put_close(Output *out, uint8_t kind, const char *name, size_t n) noexcept nogil
cdef int put_parse(
    Output *out, const Statement *st, const char *name, size_t name_n
) noexcept nogil
cdef size_t own_name(
    const StatementTable *t, const char *suffix, char *name
) noexcept nogil
cdef int make_room(
    StatementTable *t, ServerSession *s, Output *out, Statement *st
) noexcept nogil
cdef ServerStatement *note_installed(
    StatementTable *t, ServerSession *s, Statement *st
) noexcept nogil
cdef uint32_t name_stands_for(
    const ServerSession *s, const Statement *st
) noexcept nogil
cdef int drop(
    StatementTable *t, ServerSession *s, Output *out, ServerStatement *entry
) noexcept nogil
cdef int install(
    StatementTable *t, ServerSession *s, Output *out, Statement *st, bint for_query
) noexcept nogil
cdef int install_as(
    StatementTable *t, ServerSession *s, Output *out, const Statement *st,
    Statement *place, bint for_query,
) noexcept nogil
cdef int describe_first(
    StatementTable *t, ServerSession *s, Output *out, Statement *st
) noexcept nogil
cdef int ensure(
    StatementTable *t, ServerSession *s, Output *out, Statement *st, bint for_query
) noexcept nogil
cdef int ensure_since(
    StatementTable *t, ServerSession *s, Output *out, Statement *st, bint for_query,
    uint64_t born,
) noexcept nogil
cdef bint meaning_is_lost(
    ServerSession *s, const Statement *st, uint64_t born
) noexcept nogil
cdef int taken_name(
    const StatementTable *t, ServerSession *s, Output *out, Statement *st, char *name
) noexcept nogil
cdef int put_taken(
    const StatementTable *t, ServerSession *s, Output *out, char *name
) noexcept nogil
cdef int use_target(
    StatementTable *t, ServerSession *s, Output *out, const Statement *st,
    bint for_query,
) noexcept nogil
cdef ClientStatement *only_name_of(
    const ClientStatements *names, const Statement *st
) noexcept nogil
cdef Effect *put_scratch(
    const StatementTable *t, ServerSession *s, Output *out, size_t text_n
) noexcept nogil
cdef int run_scratch(
    const StatementTable *t, ServerSession *s, Output *out
) noexcept nogil
cdef int end_own_batch(ServerSession *s, Output *out) noexcept nogil
cdef int put_sync(ServerSession *s, Output *out) noexcept nogil
