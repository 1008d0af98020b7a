# SPDX-License-Identifier: MIT
"""What a server has; see ``server_statements.pxd``."""

from libc.stdint cimport int32_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from pooler.tables.texts cimport statement_ref, statement_unref

cdef enum:
    FIRST_ON_SERVER = 64  # buckets; a power of two


cdef ServerStatement *server_statement_find(
    const ServerStatements *has, const Statement *st
) noexcept nogil:
    cdef ServerStatement *entry
    if has.buckets == NULL:
        return NULL
    entry = has.buckets[st.hash & has.mask]
    while entry != NULL and entry.statement != st:
        entry = entry.next
    return entry


cdef void unlist(ServerStatements *has, ServerStatement *entry) noexcept nogil:
    if entry.newer != NULL:
        entry.newer.older = entry.older
    else:
        has.newest = entry.older
    if entry.older != NULL:
        entry.older.newer = entry.newer
    else:
        has.oldest = entry.newer
    entry.newer = entry.older = NULL


cdef void list_newest(ServerStatements *has, ServerStatement *entry) noexcept nogil:
    entry.older = has.newest
    entry.newer = NULL
    if has.newest != NULL:
        has.newest.newer = entry
    else:
        has.oldest = entry
    has.newest = entry


cdef void server_statement_use(
    ServerStatements *has, ServerStatement *entry
) noexcept nogil:
    """It is the most recently used one now; it is not being closed."""
    if has.newest != entry:
        unlist(has, entry)
        list_newest(has, entry)


cdef ServerStatement *server_statement_add(
    ServerStatements *has, Statement *st
) noexcept nogil:
    """Note that the server has it, or find the note; NULL without memory."""
    cdef uint32_t size = has.mask + 1
    cdef uint32_t i
    cdef ServerStatement **buckets
    cdef ServerStatement *entry = server_statement_find(has, st)
    if entry != NULL:
        if entry.closing:
            entry.closing = False
            list_newest(has, entry)
            has.count += 1
        entry.generation = has.generation
        entry.epoch = entry.instead = 0
        entry.shape = entry.parameters = 0
        return entry
    if has.buckets == NULL or has.count > has.mask:
        size = FIRST_ON_SERVER if has.buckets == NULL else size * 2
        buckets = <ServerStatement **> calloc(size, sizeof(ServerStatement *))
        if buckets == NULL:
            return NULL
        if has.buckets != NULL:
            for i in range(has.mask + 1):
                while has.buckets[i] != NULL:
                    entry = has.buckets[i]
                    has.buckets[i] = entry.next
                    entry.next = buckets[entry.statement.hash & (size - 1)]
                    buckets[entry.statement.hash & (size - 1)] = entry
        free(has.buckets)
        has.buckets = buckets
        has.mask = size - 1
    entry = <ServerStatement *> calloc(1, sizeof(ServerStatement))
    if entry == NULL:
        return NULL
    entry.statement = statement_ref(st)
    entry.generation = has.generation
    entry.next = has.buckets[st.hash & has.mask]
    has.buckets[st.hash & has.mask] = entry
    list_newest(has, entry)
    has.count += 1
    return entry


cdef void server_statement_remove(
    StatementTable *t, ServerStatements *has, ServerStatement *entry
) noexcept nogil:
    """The server has it no longer; frees the entry."""
    cdef ServerStatement **at = &has.buckets[entry.statement.hash & has.mask]
    while at[0] != entry:
        at = &at[0].next
    at[0] = entry.next
    if not entry.closing:
        unlist(has, entry)
        has.count -= 1
    statement_unref(t, entry.statement)
    free(entry)


cdef void server_statement_closing(
    ServerStatements *has, ServerStatement *entry
) noexcept nogil:
    """A Close is under way; until it is answered, the statement may be there."""
    if not entry.closing:
        unlist(has, entry)
        has.count -= 1
        entry.closing = True


cdef void server_statements_doubt_since(
    ServerStatements *has, uint32_t batch
) noexcept nogil:
    """Nobody can say what those mean that came in this batch or a later one."""
    cdef ServerStatement *entry = has.newest
    while entry != NULL:
        if <int32_t> (entry.batch - batch) >= 0 and (
            entry.instead != 0 or not entry.statement.is_private
        ):
            entry.generation = has.generation - 1
        entry = entry.older


cdef void server_statements_free(
    StatementTable *t, ServerStatements *has
) noexcept nogil:
    cdef uint32_t i
    if has.buckets != NULL:
        for i in range(has.mask + 1):
            while has.buckets[i] != NULL:
                server_statement_remove(t, has, has.buckets[i])
    free(has.buckets)
    memset(has, 0, sizeof(ServerStatements))
