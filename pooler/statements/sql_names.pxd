# SPDX-License-Identifier: MIT
"""Names of prepared statements that stand in SQL: PREPARE, EXECUTE, DEALLOCATE.

Statements layer, sans-IO. They are the same names as those of the extended protocol, so
a client may PREPARE by SQL what it Binds later, and the other way round. In a Query
they are replaced where they stand. A Parse whose text is one of these commands becomes
a statement with a ``target``.

Source: PostgreSQL documentation, "PREPARE", "EXECUTE", "DEALLOCATE".
"""

from libc.stdint cimport uint8_t

from pooler.wire.buffers cimport Output
from pooler.session.records cimport ClientSession, ServerSession
from pooler.statements.sql_text cimport SQL_NAME_BYTES, SqlCommand
from pooler.statements.outcomes cimport PrepareResult, Refusal
from pooler.tables.client_names cimport ClientStatements
from pooler.tables.effect_queue cimport Effect
from pooler.tables.server_statements cimport ServerStatement
from pooler.tables.texts cimport Statement, StatementTable

cdef enum:
    RENAMES_MAX = 16  # names in one Query that are replaced
    RENAME_BYTES = SQL_NAME_BYTES * 2 + 8  # quoted, every byte a quote

cdef struct Rename:  # text[start:end) becomes name[0:n)
    size_t start
    size_t end
    size_t n
    char name[RENAME_BYTES]

cdef struct Renaming:  # of one Query
    Rename rows[RENAMES_MAX]
    int count
    bint alone  # the Query is one command of these, so its error is that one's
    ServerStatement *doubtful[RENAMES_MAX]  # borrow: there or not once it has run
    int doubtful_count
    Effect effect
    Statement *executed  # borrow: what the one command executes
    size_t executed_end

cdef void forget_names(StatementTable *t, ClientSession *c) noexcept nogil
cdef ClientStatements *names_of(ClientSession *c) noexcept nogil
cdef bint is_stable(Statement *st) noexcept nogil
cdef Refusal over_limit(
    const StatementTable *t, const ClientStatements *names, size_t n
) noexcept nogil
cdef Statement *intern(
    StatementTable *t, ClientSession *c, uint8_t kind, const uint8_t *text, size_t n
) noexcept nogil
cdef Statement *intern_parse(
    StatementTable *t, ClientSession *c, const uint8_t *text, size_t n,
    size_t query_n, bint named,
) noexcept nogil
cdef void renaming_begin(Renaming *r) noexcept nogil
cdef int add_rename(
    Renaming *r, const SqlCommand *command, const char *name, size_t n
) noexcept nogil
cdef int query_prepare(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *text, const SqlCommand *command, Renaming *r,
) noexcept nogil
cdef int query_execute(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const SqlCommand *command, Renaming *r,
) noexcept nogil
cdef int query_deallocate(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const SqlCommand *command, Renaming *r,
) noexcept nogil
cdef void doubt_renamed(ServerSession *s, Renaming *r) noexcept nogil
cdef bint ends_with(const uint8_t *text, size_t n, size_t at) noexcept nogil
cdef int queue_renamed(ServerSession *s, const Renaming *r) noexcept nogil
cdef int put_refused_query(const StatementTable *t, Output *out) noexcept nogil
cdef bint query_names(const uint8_t *text, size_t n) noexcept nogil
cdef PrepareResult rename_query(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *text, size_t n,
) noexcept nogil
