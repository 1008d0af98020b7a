# SPDX-License-Identifier: MIT
"""Requests that need no server; see ``alone.pxd``."""

from libc.stdint cimport uint8_t
from libc.string cimport memcmp

from pooler.wire.buffers cimport output_add
from pooler.tables.params cimport ParamSet, params_context
from pooler.statements.parse cimport after_cstring
from pooler.statements.sql_names cimport is_stable, names_of, over_limit, query_names
from pooler.statements.outcomes cimport REFUSED_NOT
from pooler.tables.client_names cimport (
    ClientStatement, client_statement_find, client_statement_free,
    client_statement_link, client_statement_new, client_statement_unlink,
)
from pooler.tables.texts cimport (
    STATEMENT_PARSE, Statement, next_parse, schema_count, statement_find,
    statement_hash, statement_unref,
)
from pooler._wire cimport HEADER_BYTES, load_be32
from pooler.session.counters cimport count_client_parse, count_parse_hit

cdef const char *SYNC = b"S\0\0\0\4"
cdef const char *PARSED_AND_READY = b"1\0\0\0\4Z\0\0\0\5I"
cdef const char *CLOSED_AND_READY = b"3\0\0\0\4Z\0\0\0\5I"


cdef Statement *known_statement(
    StatementTable *t, ClientSession *c, const uint8_t *body, size_t n
) noexcept nogil:
    """The statement of a Parse that may be answered before any server is asked.

    NULL unless its name is free and a server of this pool has accepted its text.
    """
    cdef size_t name_end = after_cstring(body, n, 0)
    cdef size_t query_end = after_cstring(body, n, name_end) if name_end > 1 else 0
    cdef ParamSet *context = params_context(t.params, c.params)
    cdef Statement *st
    if query_end == 0 or context == NULL or names_of(c) == NULL:
        return NULL
    if (
        client_statement_find(c.statements, body, name_end - 1) != NULL
        or over_limit(t, c.statements, n) != REFUSED_NOT
    ):
        return NULL
    st = statement_find(
        t, context, STATEMENT_PARSE, body + name_end, n - name_end,
        statement_hash(context, STATEMENT_PARSE, body + name_end, n - name_end),
    )
    if (
        st == NULL or (c.kept != NULL and c.kept.changes.left)
        or st.parsed_in != c.pool or st.parsed_at != schema_count(t)
        or not is_stable(t, st)
    ):
        return NULL
    if query_names(body + name_end, query_end - name_end - 1):
        return NULL
    return st


cdef bint close_alone(
    StatementTable *t, ClientSession *c, const uint8_t *body, size_t n
) noexcept nogil:
    """Close of a statement: it is but a name of the client's."""
    cdef ClientStatement *entry
    if body[0] != c"S" or after_cstring(body, n, 1) != n:
        return False
    if c.statements == NULL:
        return True
    if n == 2:
        statement_unref(t, c.statements.unnamed)
        c.statements.unnamed = NULL
        return True
    entry = client_statement_find(c.statements, body + 1, n - 2)
    if entry != NULL:
        client_statement_unlink(c.statements, entry)
        client_statement_free(t, entry)
    return True


cdef size_t prepare_alone(
    StatementTable *t, ClientSession *c, Output *to_client, const uint8_t *message,
    size_t here,
) noexcept nogil:
    """Answer a lone Parse or Close and its Sync for a client without a server.

    Many clients prepare before they do anything, and some programs wait for that
    while their other connections hold every server.

    In:      message[0:here) borrowed, from its type byte on, and what is behind it
    Out:     how many bytes are answered; 0: a server is needed
    """
    cdef size_t end = <size_t> load_be32(message + 1) + 1
    cdef const uint8_t *body = message + HEADER_BYTES
    cdef ClientStatement *entry
    cdef Statement *st
    if end + HEADER_BYTES > here or memcmp(message + end, SYNC, HEADER_BYTES) != 0:
        return 0
    if message[0] == c"P":
        st = known_statement(t, c, body, end - HEADER_BYTES)
        if st == NULL:
            return 0
        entry = client_statement_new(
            body, after_cstring(body, end - HEADER_BYTES, 0) - 1, st
        )
        if entry == NULL:
            return 0
        entry.born = next_parse(t)  # no server has been asked: it will be then
        client_statement_link(c.statements, entry)
        count_client_parse(c.pool)
        count_parse_hit(c.pool)
        output_add(to_client, <const uint8_t *> PARSED_AND_READY, 11)
    elif close_alone(t, c, body, end - HEADER_BYTES):
        output_add(to_client, <const uint8_t *> CLOSED_AND_READY, 11)
    else:
        return 0
    return end + HEADER_BYTES
