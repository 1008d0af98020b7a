# SPDX-License-Identifier: MIT
"""Parameters go back; see ``put_back.pxd``."""

from libc.stdlib cimport free, malloc

from pooler.session.changes cimport back_is_bound
from pooler.session.records cimport (
    CHANGE_GIVES, CHANGE_LENDS, CHANGE_LOCAL_SHIFT, CHANGE_RESET_SHIFT,
)
from pooler.statements.install cimport put_scratch, run_scratch
from pooler.statements.sql_changes cimport sql_changes
from pooler.statements.sql_scan cimport skip_blank, sql_end
from pooler.tables.custom_names cimport custom_take
from pooler.tables.params cimport (
    back_text_bytes, put_back_sets, put_back_text,
)
from pooler.tables.query_names cimport (
    RenamedName, query_names_bytes, query_names_row,
)
from pooler.wire.buffers cimport output_add


cdef uint16_t going_back(
    const StatementTable *t, const ClientSession *c, const ServerSession *s,
    uint64_t reset,
) noexcept nogil:
    """Of these, what their client had at its login, and the server had not."""
    cdef uint16_t found = 0
    cdef int i
    for i in range(t.params.count):
        if reset >> i & 1 and not t.params.is_list[i] and (
            c.asked.value[i] != NULL and c.asked.value[i] != s.defaults.value[i]
        ):
            found |= <uint16_t> (1 << i)
    return found


cdef inline bint is_sure(uint64_t changes) noexcept nogil:
    """Whether a text gives no parameter a value beside what it resets."""
    return changes & (CHANGE_GIVES | CHANGE_LENDS) == 0


cdef bint backs_find(
    StatementTable *t, const ClientSession *c, const ServerSession *s,
    const uint8_t *text, size_t n, uint8_t flags, Backs *backs,
) noexcept nogil:
    """Find the commands of a Query that reset parameters, and are not its last.

    In:      text[0:n) borrowed
    """
    cdef size_t at = skip_blank(text, n, 0)
    cdef size_t end
    cdef uint64_t changes
    cdef uint32_t command = 0
    cdef Back *back
    backs.count = backs.added = 0
    while at < n and backs.count < BACKS_MAX:
        end = sql_end(text, n, at, flags)
        if end > at:
            changes = sql_changes(text + at, end - at, t.params, s.params, flags)
            back = &backs.back[backs.count]
            back.end = end
            back.command = command
            back.session = back.local = 0
            if is_sure(changes):
                back.session = going_back(t, c, s, changes >> CHANGE_RESET_SHIFT)
                back.local = going_back(t, c, s, changes >> CHANGE_LOCAL_SHIFT)
            backs.count += back.session | back.local != 0
            command += 1
        at = skip_blank(text, n, end + 1)
    custom_take(t.params.custom)  # the Query has noted them
    if backs.count and backs.back[backs.count - 1].command + 1 == command and at >= n:
        backs.count -= 1
    return backs.count != 0


cdef int backs_add(
    const StatementTable *t, const ClientSession *c, Backs *backs, size_t before,
    QueryNames *names, const QueryNamesRoom *room,
) noexcept nogil:
    """Put SETs into a Query's text behind commands that end at ``before`` or earlier.

    -1 without memory.
    """
    cdef const Back *back
    cdef RenamedName *row
    cdef uint8_t *written
    while backs.added < backs.count and backs.back[backs.added].end <= before:
        back = &backs.back[backs.added]
        backs.added += 1
        row = query_names_row(names, room)
        written = query_names_bytes(names, room, back_text_bytes(t.params, c.asked))
        if row == NULL or written == NULL:
            return -1
        row.start = row.end = <uint32_t> back.end
        row.name_at = row.shown_at = names.byte_n
        row.shown_n = 0
        row.command = back.command
        row.extra = 0
        row.name_n = <uint32_t> put_back_sets(
            written, t.params, c.asked, back.session, back.local, &row.extra
        )
        names.byte_n += row.name_n
    return 0


# ---------------------------------------------------------------- in a batch

cdef void back_bound(
    const StatementTable *t, const ClientSession *c, ServerSession *s, uint64_t changes
) noexcept nogil:
    """The unnamed portal was made of a text that changes these."""
    if not is_sure(changes):
        changes = 0
    back_is_bound(
        s, going_back(t, c, s, changes >> CHANGE_RESET_SHIFT),
        going_back(t, c, s, changes >> CHANGE_LOCAL_SHIFT),
    )


cdef int put_back_behind(
    StatementTable *t, const ClientSession *c, ServerSession *s, Output *out
) noexcept nogil:
    """Straight behind the Execute of what resets parameters; -1 without memory."""
    cdef uint16_t local = s.changes.back_local
    cdef uint16_t names = s.changes.back | local
    cdef size_t n
    cdef size_t most = back_text_bytes(t.params, c.asked)
    cdef uint8_t *text = <uint8_t *> malloc(most)
    if text == NULL:
        return -1
    back_is_bound(s, 0, 0)
    n = put_back_text(text, t.params, c.asked, names, local)
    if put_scratch(t, s, out, n) == NULL:
        free(text)
        return -1
    output_add(out, text, n)
    free(text)
    return run_scratch(t, s, out)
