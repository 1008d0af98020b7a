# SPDX-License-Identifier: MIT
"""A client's names; see ``client_names.pxd``."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from pooler.tables.hashing cimport hash_bytes
from pooler.tables.texts cimport statement_discard, statement_ref, statement_unref

cdef enum:
    FIRST_NAMES = 8  # buckets; a power of two


cdef ClientStatements *client_statements_new() noexcept nogil:
    cdef ClientStatements *names = <ClientStatements *> calloc(
        1, sizeof(ClientStatements)
    )
    if names == NULL:
        return NULL
    names.buckets = <ClientStatement **> calloc(FIRST_NAMES, sizeof(ClientStatement *))
    names.mask = FIRST_NAMES - 1
    if names.buckets == NULL:
        free(names)
        return NULL
    return names


cdef void client_statements_clear(
    StatementTable *t, ClientStatements *names
) noexcept nogil:
    """DEALLOCATE ALL: forget every name but those whose Parse came later."""
    cdef uint32_t i
    cdef ClientStatement **at
    cdef ClientStatement *entry
    for i in range(names.mask + 1):
        at = &names.buckets[i]
        while at[0] != NULL:
            entry = at[0]
            if entry.pending:
                at = &entry.next
                continue
            at[0] = entry.next
            names.found_last = NULL
            names.count -= 1
            names.bytes -= entry.statement.n
            client_statement_free(t, entry)


cdef ClientStatement *client_statements_take(
    ClientStatements *names
) noexcept nogil:
    """Take all names out of the map, as a list; the caller owns them then."""
    cdef ClientStatement *all_of_them = NULL
    cdef ClientStatement *entry
    cdef uint32_t i
    for i in range(names.mask + 1):
        while names.buckets[i] != NULL:
            entry = names.buckets[i]
            names.buckets[i] = entry.next
            entry.next = all_of_them
            all_of_them = entry
    names.found_last = NULL
    names.count = 0
    names.bytes = 0
    return all_of_them


cdef void absorbed_free(StatementTable *t, ClientStatements *names) noexcept nogil:
    """Give up the message that is being kept, if any."""
    if names.part != NULL:
        t.bytes -= names.part_n
        free(names.part)
        names.part = NULL
    if names.draft != NULL:
        statement_discard(t, names.draft.statement)
        free(names.draft)
        names.draft = NULL
    names.absorbing = ABSORB_NONE


cdef void client_statements_free(
    StatementTable *t, ClientStatements *names
) noexcept nogil:
    cdef uint32_t i
    cdef ClientStatement *entry
    if names == NULL:
        return
    for i in range(names.mask + 1):
        while names.buckets[i] != NULL:
            entry = names.buckets[i]
            names.buckets[i] = entry.next
            client_statement_free(t, entry)
    statement_unref(t, names.unnamed)
    absorbed_free(t, names)
    free(names.buckets)
    free(names)


cdef ClientStatement *client_statement_find(
    const ClientStatements *names, const uint8_t *name, size_t n
) noexcept nogil:
    """The entry with this name, or NULL; what is behind 63 bytes does not count.

    Cost: one comparison for the name that was found last, else the hash of its name
    """
    cdef uint32_t h
    cdef ClientStatement *entry
    if names == NULL:
        return NULL
    if n > STATEMENT_NAME_BYTES:
        n = STATEMENT_NAME_BYTES
    entry = names.found_last
    if entry != NULL and entry.name_n == n and memcmp(entry.name, name, n) == 0:
        return entry
    h = <uint32_t> hash_bytes(name, n)
    entry = names.buckets[h & names.mask]
    while entry != NULL:
        if (
            entry.hash == h and entry.name_n == n
            and memcmp(entry.name, name, n) == 0
        ):
            (<ClientStatements *> names).found_last = entry
            return entry
        entry = entry.next
    return NULL


cdef ClientStatement *client_statement_new(
    const uint8_t *name, size_t n, Statement *st
) noexcept nogil:
    """An entry that is in no map yet; takes a reference of its own."""
    cdef ClientStatement *entry
    if n > SHOWN_NAME_BYTES:
        n = SHOWN_NAME_BYTES
    entry = <ClientStatement *> malloc(sizeof(ClientStatement) + n)
    if entry == NULL:
        return NULL
    entry.next = NULL
    entry.statement = statement_ref(st)
    entry.pending = False
    entry.told_shape = entry.told_parameters = 0
    entry.told_at = entry.bound_at = entry.born = 0
    entry.shown_n = <uint8_t> n
    entry.name_n = <uint8_t> min(n, <size_t> STATEMENT_NAME_BYTES)
    entry.hash = <uint32_t> hash_bytes(name, entry.name_n)
    memcpy(entry.name, name, n)
    return entry


cdef void grow_names(ClientStatements *names) noexcept nogil:
    """Twice as many buckets; without memory the chains just get longer."""
    cdef uint32_t mask = names.mask * 2 + 1
    cdef ClientStatement **buckets = <ClientStatement **> calloc(
        <size_t> mask + 1, sizeof(ClientStatement *)
    )
    cdef ClientStatement *entry
    cdef uint32_t i
    if buckets == NULL:
        return
    for i in range(names.mask + 1):
        while names.buckets[i] != NULL:
            entry = names.buckets[i]
            names.buckets[i] = entry.next
            entry.next = buckets[entry.hash & mask]
            buckets[entry.hash & mask] = entry
    free(names.buckets)
    names.buckets = buckets
    names.mask = mask


cdef void client_statement_link(
    ClientStatements *names, ClientStatement *entry
) noexcept nogil:
    """Put an entry into the map, which owns it then; its name must be free."""
    if names.count > names.mask:
        grow_names(names)
    entry.next = names.buckets[entry.hash & names.mask]
    names.buckets[entry.hash & names.mask] = entry
    names.count += 1
    names.bytes += entry.statement.n


cdef void client_statement_unlink(
    ClientStatements *names, ClientStatement *entry
) noexcept nogil:
    """Take an entry out of the map; the caller owns it then."""
    cdef ClientStatement **at = &names.buckets[entry.hash & names.mask]
    while at[0] != entry:
        at = &at[0].next
    at[0] = entry.next
    entry.next = NULL
    names.found_last = NULL
    names.count -= 1
    names.bytes -= entry.statement.n


cdef void client_statement_free(
    StatementTable *t, ClientStatement *entry
) noexcept nogil:
    statement_unref(t, entry.statement)
    free(entry)
