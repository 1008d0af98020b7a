# SPDX-License-Identifier: MIT
"""Names of prepared statements in one Query, and what its commands do to them.

Tables layer, sans-IO, hot. A Query may have any number of commands. PostgreSQL carries
them out in order, says of each when it is done (CommandComplete), and stops at the
first that fails. So what a command does to its client's names is a *step*, which is
settled by that command's tag; steps that have had none when the Query is answered are
undone, newest first.

A few names need no memory: they stand in the ``QueryNamesRoom`` of who reads the Query.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t

from pooler.tables.client_names cimport ClientStatement
from pooler.tables.texts cimport Statement

cdef enum:
    ROWS_INLINE = 4
    STEPS_INLINE = 4
    BYTES_INLINE = 512

cdef enum StepKind:
    STEP_NONE
    STEP_ADDS  # entry: borrow, in the client's map
    STEP_DROPS  # entry: own, taken out of it
    STEP_FORGETS  # entry: own, a list of all that were in it

cdef struct NameStep:
    ClientStatement *entry
    Statement *statement  # own: one reference; NULL for STEP_FORGETS
    uint32_t command  # index in the Query
    uint8_t kind

cdef struct RenamedName:  # text[start:end) of a Query becomes bytes[name_at:+name_n)
    # a name, or commands of ours where there was nothing
    uint32_t start
    uint32_t end
    uint32_t name_at
    uint32_t shown_at  # bytes[shown_at:+shown_n): as the client calls it
    uint32_t command
    uint32_t behind  # characters of the new text up to the end of the new name
    int32_t moved_by  # what follows stands so many characters later in the new text
    uint32_t name_n
    uint8_t shown_n
    uint8_t extra  # commands of ours in the new text, which nobody hears of

cdef struct QueryNames:
    RenamedName *rows  # own, or in a room, as all three
    NameStep *steps
    uint8_t *bytes
    uint32_t row_n
    uint32_t row_cap
    uint32_t step_n
    uint32_t step_cap
    uint32_t byte_n
    uint32_t byte_cap
    uint32_t answered  # commands of the client that have been carried out
    uint32_t extra_row  # all extra commands of the rows before it have been
    uint32_t settled  # steps that have

cdef struct QueryNamesRoom:
    RenamedName rows[ROWS_INLINE]
    NameStep steps[STEPS_INLINE]
    uint8_t bytes[BYTES_INLINE]

cdef void query_names_begin(QueryNames *q, QueryNamesRoom *room) noexcept nogil
cdef RenamedName *query_names_row(
    QueryNames *q, const QueryNamesRoom *room
) noexcept nogil
cdef NameStep *query_names_step(
    QueryNames *q, const QueryNamesRoom *room
) noexcept nogil
cdef uint8_t *query_names_bytes(
    QueryNames *q, const QueryNamesRoom *room, size_t n
) noexcept nogil
cdef QueryNames *query_names_keep(
    QueryNames *q, const QueryNamesRoom *room
) noexcept nogil
cdef void query_names_end(QueryNames *q, const QueryNamesRoom *room) noexcept nogil
cdef void query_names_free(QueryNames *q) noexcept nogil
