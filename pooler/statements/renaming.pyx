# SPDX-License-Identifier: MIT
"""What is replaced in the text of a Query; see ``renaming.pxd``."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from pooler.statements.effects cimport steps_undo
from pooler.statements.install cimport looks_like_ours, put_quoted
from pooler.tables.client_names cimport ClientStatement
from pooler.tables.query_names cimport (
    NameStep, RenamedName, query_names_begin, query_names_bytes, query_names_end,
    query_names_row, query_names_step,
)
from pooler.tables.server_statements cimport (
    server_statements_have_read, server_statements_read,
)


cdef void renaming_begin(
    Renaming *r, ServerSession *s, uint8_t flags
) noexcept nogil:
    """Nothing is renamed yet; ``renaming_end`` has to follow."""
    query_names_begin(&r.names, &r.room)
    r.flags = flags
    r.alone = r.fails = r.forgets = r.guarded = False
    r.in_block = s.xact_status == c"T" and not s.batch.open and (
        s.requests.head == s.requests.tail
    )
    r.executed = NULL
    memset(&r.effect, 0, sizeof(Effect))
    server_statements_read(&s.statements)


cdef void renaming_end(
    StatementTable *t, ServerSession *s, Renaming *r
) noexcept nogil:
    """The Query is queued, and its effect has what it needs; or it is given up."""
    server_statements_have_read(&s.statements)
    steps_undo(t, s, &r.names)
    query_names_end(&r.names, &r.room)


cdef int add_written(
    Renaming *r, const SqlCommand *command, const uint8_t *name, size_t n
) noexcept nogil:
    """``name`` is as it will stand in the text, quotes included; -1 without memory."""
    cdef RenamedName *row = query_names_row(&r.names, &r.room)
    cdef uint8_t *room = query_names_bytes(&r.names, &r.room, n + command.name_n)
    if row == NULL or room == NULL:
        return -1
    memcpy(room, name, n)
    memcpy(room + n, command.name, command.name_n)
    row.start = <uint32_t> command.name_start
    row.end = <uint32_t> command.name_end
    row.name_at = r.names.byte_n
    row.name_n = <uint32_t> n
    row.extra = 0
    row.shown_at = row.name_at + row.name_n
    row.shown_n = command.name_n
    row.command = command.index
    r.names.byte_n += row.name_n + row.shown_n
    return 0


cdef int add_rename(
    Renaming *r, const SqlCommand *command, const char *name, size_t n
) noexcept nogil:
    """A name of ours stands in quotes: what is beside it may have no blank between."""
    cdef uint8_t written[WRITTEN_BYTES]
    return add_written(r, command, written, put_quoted(written, name, n))


cdef int rename_missing(
    const StatementTable *t, Renaming *r, const SqlCommand *command,
    const uint8_t *name, size_t name_n,
) noexcept nogil:
    """A name that the client has not given; one that could be ours becomes another."""
    cdef uint8_t written[WRITTEN_BYTES]
    cdef size_t n = 1
    cdef size_t i
    written[0] = c'"'
    for i in range(name_n):
        if name[i] == c'"':
            written[n] = c'"'
            n += 1
        written[n] = name[i]
        n += 1
    if looks_like_ours(t, name, name_n):
        written[n] = c"?"
        n += 1
    written[n] = c'"'
    return add_written(r, command, written, n + 1)


cdef int add_step(
    Renaming *r, uint8_t kind, ClientStatement *entry, Statement *st, uint32_t command
) noexcept nogil:
    """Takes the reference to ``st``; -1 without memory."""
    cdef NameStep *step = query_names_step(&r.names, &r.room)
    if step == NULL:
        return -1
    step.kind = kind
    step.entry = entry
    step.statement = st
    step.command = command
    return 0
