# SPDX-License-Identifier: MIT
"""Prepared statements: the names that a client has given.

Sans-IO, hot. A client that prepares nothing pays one pointer.

Source: PostgreSQL documentation, "Extended Query", "PREPARE".
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from pooler.tables.texts cimport Statement, StatementTable

cdef enum:
    STATEMENT_NAME_BYTES = 63  # PostgreSQL tells names apart by no more (NAMEDATALEN)
    SHOWN_NAME_BYTES = 255

cdef struct ClientStatement:  # a name that a client has given
    ClientStatement *next
    Statement *statement  # own: one reference
    uint64_t told_shape  # of its rows, as the client was told last; 0: never
    uint64_t told_parameters  # their types; 0: never
    uint64_t bound_at  # StatementTable.bind_count then, the last time; 0: never
    uint64_t told_at  # parse_number of what it was told of
    uint64_t born  # a server must have parsed it since then; 0: whenever it has
    uint32_t hash
    bint pending  # PostgreSQL has not answered its Parse yet
    uint8_t name_n  # of what tells it apart
    uint8_t shown_n  # of what is shown in an error
    uint8_t name[1]

cdef enum Absorbing:  # what happens to the body of the client message under way
    ABSORB_NONE  # forwarded
    ABSORB_KEEP  # kept until it is complete
    ABSORB_WAITS  # complete, and kept until earlier batches are answered
    ABSORB_TEE  # forwarded, and kept as the text of a statement
    ABSORB_DROP

cdef struct ClientStatements:
    ClientStatement **buckets  # own
    ClientStatement *found_last  # borrow: in the map; NULL: none
    uint32_t mask
    uint32_t count
    uint64_t bytes
    Statement *unnamed  # own: one reference; NULL: none, or one too long to remember
    uint64_t unnamed_bound_at  # as of a name
    uint64_t unnamed_born  # a server must have parsed it since then
    uint32_t names_batch  # the batch that changed names last, as batch_number counts
    uint32_t unnamed_batch  # the batch that changed the unnamed statement last
    uint8_t absorbing
    uint8_t code  # of the message being kept
    bint in_batch  # a batch was open when it began
    uint8_t *part  # own: its body
    ClientStatement *draft  # own, and its statement: a name to be, its text is coming
    uint32_t part_n  # bytes of part, or of the draft's text
    uint32_t part_have  # of these, how many have come


cdef inline void client_statement_bound(
    StatementTable *t, ClientStatements *names, ClientStatement *entry
) noexcept nogil:
    """``entry``, or the unnamed statement if NULL, is bound: an error may name it."""
    t.bind_count += 1
    if entry != NULL:
        entry.bound_at = t.bind_count
    else:
        names.unnamed_bound_at = t.bind_count

cdef ClientStatements *client_statements_new() noexcept nogil
cdef void client_statements_free(
    StatementTable *t, ClientStatements *names
) noexcept nogil
cdef void absorbed_free(StatementTable *t, ClientStatements *names) noexcept nogil
cdef void client_statements_clear(
    StatementTable *t, ClientStatements *names
) noexcept nogil
cdef ClientStatement *client_statements_take(
    ClientStatements *names
) noexcept nogil
cdef ClientStatement *client_statement_find(
    const ClientStatements *names, const uint8_t *name, size_t n
) noexcept nogil
cdef ClientStatement *client_statement_new(
    const uint8_t *name, size_t n, Statement *st
) noexcept nogil
cdef void client_statement_link(
    ClientStatements *names, ClientStatement *entry
) noexcept nogil
cdef void client_statement_unlink(
    ClientStatements *names, ClientStatement *entry
) noexcept nogil
cdef void client_statement_free(
    StatementTable *t, ClientStatement *entry
) noexcept nogil
