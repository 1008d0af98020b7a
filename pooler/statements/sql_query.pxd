# SPDX-License-Identifier: MIT
"""Names of prepared statements in the commands of a Query, each in its turn.

Statements layer, sans-IO, hot. The commands are read in their order, as PostgreSQL will
carry them out: what one prepares, the next may execute. A statement that the server
lacks is prepared in front of the Query. One that the Query has dropped under one name
and needs under another, or prepares although it needs it already, gets a second name on
servers for that.

What a Query does to names is done to the client's map as it is read; see
``tables.query_names`` for how it is taken back when PostgreSQL does not come to it.

Source: PostgreSQL documentation, "Multiple Statements in a Simple Query", "PREPARE",
"EXECUTE", "DEALLOCATE".
"""

from libc.stdint cimport uint8_t

from pooler.wire.buffers cimport Output
from pooler.session.records cimport ClientSession, ServerSession
from pooler.statements.sql_name cimport SQL_NAME_BYTES, SqlCommand
from pooler.statements.outcomes cimport PrepareResult
from pooler.tables.effect_queue cimport Effect
from pooler.tables.query_names cimport QueryNames, QueryNamesRoom
from pooler.tables.texts cimport Statement, StatementTable

cdef enum:
    WRITTEN_BYTES = SQL_NAME_BYTES * 2 + 4  # of a name in quotes, every byte a quote

cdef struct Renaming:  # of one Query
    QueryNames names
    QueryNamesRoom room
    uint8_t flags  # SqlFlag
    bint alone  # the Query is one command of these, so its error is that one's
    bint in_block  # it surely comes into an open transaction block
    bint guarded  # what is installed for it is between a savepoint and its end
    bint forgets  # a command that was read has forgotten all names
    bint fails  # the last command that was read will surely fail
    Effect effect
    Statement *executed  # borrow: what the one command executes
    size_t executed_end

cdef void renaming_begin(
    Renaming *r, ServerSession *s, uint8_t flags
) noexcept nogil
cdef void renaming_end(
    StatementTable *t, ServerSession *s, Renaming *r
) noexcept nogil
cdef int add_rename(
    Renaming *r, const SqlCommand *command, const char *name, size_t n
) noexcept nogil
cdef int query_command(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *text, const SqlCommand *command, Renaming *r,
) noexcept nogil
cdef bint ends_with(const uint8_t *text, size_t n, size_t at) noexcept nogil
cdef int queue_renamed(
    ServerSession *s, Renaming *r, const uint8_t *text
) noexcept nogil
cdef int put_refused_query(
    const StatementTable *t, ServerSession *s, Output *out
) noexcept nogil
cdef bint sql_names(
    const StatementTable *t, const ClientSession *c, const uint8_t *text, size_t n
) noexcept nogil
cdef bint goes_back_inside(
    StatementTable *t, const ClientSession *c, const ServerSession *s,
    const uint8_t *text, size_t n,
) noexcept nogil
cdef void flush(Output *out) noexcept nogil
cdef PrepareResult rename_query(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *text, size_t n,
) noexcept nogil
