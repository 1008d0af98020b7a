# SPDX-License-Identifier: MIT
"""What a Query's text becomes: which names are replaced, and what it does to the map.

Statements layer, sans-IO, hot. Source: PostgreSQL documentation, "PREPARE",
"EXECUTE", "DEALLOCATE".
"""

from libc.stdint cimport uint32_t, uint8_t

from pooler.session.records cimport ServerSession
from pooler.statements.sql_name cimport SQL_NAME_BYTES, SqlCommand
from pooler.tables.client_names cimport ClientStatement
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
cdef int rename_missing(
    const StatementTable *t, Renaming *r, const SqlCommand *command,
    const uint8_t *name, size_t name_n,
) noexcept nogil
cdef int add_step(
    Renaming *r, uint8_t kind, ClientStatement *entry, Statement *st, uint32_t command
) noexcept nogil
