# SPDX-License-Identifier: MIT
"""Prepared statements: what a server has, in the order of use.

Sans-IO, hot.

Source: PostgreSQL documentation, "Extended Query".
"""

from libc.stdint cimport uint32_t, uint64_t

from pooler.tables.texts cimport Statement, StatementTable

cdef struct ServerStatement:  # a statement that a server has
    ServerStatement *next
    ServerStatement *newer
    ServerStatement *older
    Statement *statement  # own: one reference
    uint32_t generation  # not the server's: nobody can say whether it is there
    uint32_t batch  # the one that it was sent in, as batch_number counts
    uint32_t target_batch  # the one in which SQL names it
    uint32_t parsed_at  # StatementTable.schema_count then
    uint32_t epoch  # not 0: its text was read under settings that nobody knows
    uint32_t instead  # id of the statement that has its name there; 0: it has it itself
    uint32_t named_then  # what its target's name stood for when it was parsed: the id
    uint64_t parse_number  # next_parse then
    uint64_t shape  # of its rows; 0: not known
    uint64_t parameters  # their types; 0: not known
    uint32_t named_in  # the reading of a Query that has named it last
    bint closing  # to be closed by a request under way; not counted, not in the list

cdef struct ServerStatements:
    ServerStatement **buckets  # own
    uint32_t mask
    uint32_t count
    ServerStatement *newest
    ServerStatement *oldest
    uint32_t generation
    uint32_t epoch  # how often it has become sure again what texts mean
    uint32_t reading  # of a Query that is under way, as they are counted; 0: none
    uint32_t readings

cdef ServerStatement *server_statement_find(
    const ServerStatements *has, const Statement *st
) noexcept nogil
cdef ServerStatement *server_statement_add(
    ServerStatements *has, Statement *st
) noexcept nogil
cdef void server_statement_remove(
    StatementTable *t, ServerStatements *has, ServerStatement *entry
) noexcept nogil
cdef void server_statement_closing(
    ServerStatements *has, ServerStatement *entry
) noexcept nogil
cdef void server_statements_doubt_since(
    ServerStatements *has, uint32_t batch
) noexcept nogil
cdef void server_statements_free(
    StatementTable *t, ServerStatements *has
) noexcept nogil
cdef void server_statement_use(
    ServerStatements *has, ServerStatement *entry
) noexcept nogil


cdef inline void server_statements_sure(ServerStatements *has) noexcept nogil:
    """What was read under unknown settings is not what others mean by its text."""
    has.epoch = (has.epoch + 1) & 0x7FFFFFFF


cdef inline void server_statements_doubt(ServerStatements *has) noexcept nogil:
    """Nobody can say any more which of them are there."""
    has.generation += 1


cdef inline void server_statements_read(ServerStatements *has) noexcept nogil:
    """A Query is read: what its commands name is kept until it is sent."""
    has.readings += 1
    if has.readings == 0:
        has.readings = 1
    has.reading = has.readings


cdef inline void server_statements_have_read(ServerStatements *has) noexcept nogil:
    has.reading = 0


cdef inline bint server_statement_named(
    const ServerStatements *has, const ServerStatement *entry
) noexcept nogil:
    """Whether the Query that is being read has named this statement already."""
    return entry != NULL and has.reading != 0 and entry.named_in == has.reading
