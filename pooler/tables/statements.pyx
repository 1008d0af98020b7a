# SPDX-License-Identifier: MIT
"""Tables of prepared statements; see ``_statements.pxd``."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcmp, memcpy, memset

from pooler.tables.params cimport params_ref, params_unref

import os

cdef extern from "<stdio.h>" nogil:
    int snprintf(char *p, size_t n, const char *form, ...)

cdef enum:
    FIRST_STATEMENTS = 1024  # buckets; powers of two
    FIRST_NAMES = 8
    FIRST_ON_SERVER = 64
    FIRST_EFFECTS = 32

# In the order of Refusal.
cdef const char *REFUSAL_TEXTS[6]
REFUSAL_TEXTS[:] = [
    b"",
    b"too many prepared statements in this session (max_client_prepared_statements)",
    b"prepared statements of this session are too long (max_client_prepared_bytes)",
    b"no memory left for prepared statements (max_prepared_memory)",
    b"name of a prepared statement or portal is too long",
    b"cached plan must not change result type",
]
cdef const char *REFUSAL_SQLSTATES[6]
REFUSAL_SQLSTATES[:] = [b"", b"53400", b"53400", b"53200", b"54000", b"0A000"]


cdef const char *refusal_text(uint8_t refusal) noexcept nogil:
    return REFUSAL_TEXTS[refusal]


cdef const char *refusal_sqlstate(uint8_t refusal) noexcept nogil:
    return REFUSAL_SQLSTATES[refusal]


# ---------------------------------------------------------------- shared texts

cdef int statements_init(
    StatementTable *t, ParamTable *params, bytes prefix
) except -1:
    """Make an empty table; names on servers are ``prefix`` and a number."""
    memset(t, 0, sizeof(StatementTable))
    if not 0 < len(prefix) < <Py_ssize_t> sizeof(t.prefix):
        raise ValueError(f"statement prefix of {len(prefix)} bytes")
    t.params = params
    memcpy(t.prefix, <const char *> prefix, len(prefix) + 1)
    t.prefix_n = <uint8_t> len(prefix)
    t.seed = int.from_bytes(os.urandom(8), "little")
    t.buckets = <Statement **> calloc(FIRST_STATEMENTS, sizeof(Statement *))
    t.seen = <uint64_t *> calloc(SEEN_TEXTS, sizeof(uint64_t))
    t.mask = FIRST_STATEMENTS - 1
    if t.buckets == NULL or t.seen == NULL:
        statements_free(t)
        raise MemoryError
    return 0


cdef void statements_free(StatementTable *t) noexcept nogil:
    """Free the table; sessions have given their statements back."""
    free(t.buckets)
    free(t.seen)
    t.buckets = NULL
    t.seen = NULL


cdef inline uint64_t mix(uint64_t h, uint64_t word) noexcept nogil:
    h = (h ^ word) * 0x9E3779B97F4A7C15u
    return h ^ (h >> 29)


cdef uint64_t statement_hash(
    const StatementTable *t, const ParamSet *context, uint8_t kind,
    const uint8_t *text, size_t n,
) noexcept nogil:
    """Hash of a statement's identity; seeded, so that nobody can aim at a bucket."""
    cdef uint64_t h = mix(t.seed ^ n, <uint64_t> context)
    cdef uint64_t word
    cdef size_t at = 0
    while at + 8 <= n:
        memcpy(&word, text + at, 8)
        h = mix(h, word)
        at += 8
    word = kind
    memcpy(&word, text + at, n - at)
    h = mix(h, word ^ (<uint64_t> kind << 56))
    return mix(h, n)


cdef void grow_table(StatementTable *t) noexcept nogil:
    """Twice as many buckets; without memory the chains just get longer."""
    cdef uint32_t size = (t.mask + 1) * 2
    cdef Statement **buckets = <Statement **> calloc(size, sizeof(Statement *))
    cdef Statement *st
    cdef Statement *next_st
    cdef uint32_t i
    if buckets == NULL:
        return
    for i in range(t.mask + 1):
        st = t.buckets[i]
        while st != NULL:
            next_st = st.next
            st.next = buckets[st.hash & (size - 1)]
            buckets[st.hash & (size - 1)] = st
            st = next_st
    free(t.buckets)
    t.buckets = buckets
    t.mask = size - 1


cdef Statement *statement_find(
    const StatementTable *t, const ParamSet *context, uint8_t kind,
    const uint8_t *text, size_t n, uint64_t h,
) noexcept nogil:
    """The shared statement with this text, borrowed; NULL when there is none."""
    cdef Statement *st = t.buckets[h & t.mask]
    while st != NULL:
        if (
            st.hash == h and st.n == n and st.kind == kind and st.context == context
            and not st.is_private and memcmp(st.text, text, n) == 0
        ):
            break
        st = st.next
    return st


cdef Statement *statement_intern(
    StatementTable *t, ParamSet *context, uint8_t kind, const uint8_t *text, size_t n,
    uint64_t h, bint shared,
) noexcept nogil:
    """The statement with this text, made when there is none or it is not shared.

    In:      text borrowed; n < 2**31; h = statement_hash of the same
    Out:     a reference the caller owns; NULL when memory or max_bytes forbids it
    """
    cdef Statement *st = NULL
    cdef size_t size = sizeof(Statement) + n
    if shared:
        st = statement_find(t, context, kind, text, n, h)
        if st != NULL:
            return statement_ref(st)
    if t.max_bytes and t.bytes + size > t.max_bytes:
        return NULL
    st = <Statement *> malloc(size)
    if st == NULL:
        return NULL
    memset(st, 0, sizeof(Statement))
    if t.count > t.mask:
        grow_table(t)
    st.context = params_ref(context)
    st.hash = h
    st.refs = 1
    st.n = <uint32_t> n
    st.kind = kind
    st.is_private = not shared
    t.next_id += 1
    st.name_n = <uint8_t> snprintf(
        st.name, SERVER_NAME_BYTES, b"%s%u", t.prefix, t.next_id
    )
    memcpy(st.text, text, n)
    st.next = t.buckets[h & t.mask]
    t.buckets[h & t.mask] = st
    t.count += 1
    t.bytes += size
    return st


cdef void statement_free(StatementTable *t, Statement *st) noexcept nogil:
    """Nobody has this statement any more."""
    cdef Statement **at = &t.buckets[st.hash & t.mask]
    cdef Statement *target = st.target
    while at[0] != st:
        at = &at[0].next
    at[0] = st.next
    t.count -= 1
    t.bytes -= sizeof(Statement) + st.n
    params_unref(t.params, st.context)
    free(st)
    if target != NULL:  # a target has no target itself, so this goes one level deep
        target.refs -= 1
        if target.refs == 0:
            statement_free(t, target)


cdef bint text_seen(StatementTable *t, uint64_t h) noexcept nogil:
    """Whether this text was met here before, lately; from now on it was."""
    cdef uint64_t *at = &t.seen[h & (SEEN_TEXTS - 1)]
    if at[0] == h:
        return True
    at[0] = h
    return False


# ---------------------------------------------------------------- a client's names

cdef uint32_t hash_name(const uint8_t *name, size_t n) noexcept nogil:
    """FNV-1a; the names are short, and a client harms but itself with bad ones."""
    cdef uint32_t h = 2166136261u
    cdef size_t i
    for i in range(n):
        h = (h ^ name[i]) * 16777619u
    return h


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
            names.count -= 1
            names.bytes -= entry.statement.n
            client_statement_free(t, entry)


cdef void absorbed_free(StatementTable *t, ClientStatements *names) noexcept nogil:
    """Give up the message that is being kept, if any."""
    if names.part != NULL:
        t.bytes -= names.part_n
        free(names.part)
        names.part = NULL
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
    """The entry with this name, or NULL; what is behind 63 bytes does not count."""
    cdef uint32_t h
    cdef ClientStatement *entry
    if names == NULL:
        return NULL
    if n > STATEMENT_NAME_BYTES:
        n = STATEMENT_NAME_BYTES
    h = hash_name(name, n)
    entry = names.buckets[h & names.mask]
    while entry != NULL:
        if (
            entry.hash == h and entry.name_n == n
            and memcmp(entry.name, name, n) == 0
        ):
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
    entry.shown_n = <uint8_t> n
    entry.name_n = <uint8_t> min(n, <size_t> STATEMENT_NAME_BYTES)
    entry.hash = hash_name(name, entry.name_n)
    memcpy(entry.name, name, n)
    return entry


cdef int client_statement_link(
    ClientStatements *names, ClientStatement *entry
) noexcept nogil:
    """Put an entry into the map, which owns it then; its name must be free."""
    cdef uint32_t size = names.mask + 1
    cdef uint32_t i
    cdef ClientStatement **buckets
    cdef ClientStatement *moved
    if names.count > names.mask:
        buckets = <ClientStatement **> calloc(size * 2, sizeof(ClientStatement *))
        if buckets == NULL:
            return -1
        for i in range(size):
            while names.buckets[i] != NULL:
                moved = names.buckets[i]
                names.buckets[i] = moved.next
                moved.next = buckets[moved.hash & (size * 2 - 1)]
                buckets[moved.hash & (size * 2 - 1)] = moved
        free(names.buckets)
        names.buckets = buckets
        names.mask = size * 2 - 1
    entry.next = names.buckets[entry.hash & names.mask]
    names.buckets[entry.hash & names.mask] = entry
    names.count += 1
    names.bytes += entry.statement.n
    return 0


cdef void client_statement_unlink(
    ClientStatements *names, ClientStatement *entry
) noexcept nogil:
    """Take an entry out of the map; the caller owns it then."""
    cdef ClientStatement **at = &names.buckets[entry.hash & names.mask]
    while at[0] != entry:
        at = &at[0].next
    at[0] = entry.next
    entry.next = NULL
    names.count -= 1
    names.bytes -= entry.statement.n


cdef void client_statement_free(
    StatementTable *t, ClientStatement *entry
) noexcept nogil:
    statement_unref(t, entry.statement)
    free(entry)


# ---------------------------------------------------------------- what a server has

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


cdef uint64_t shape_of_parameters(const uint8_t *body, size_t n) noexcept nogil:
    """A ParameterDescription as a number, never 0."""
    cdef uint64_t h = n
    cdef size_t at
    for at in range(n):
        h = mix(h, body[at])
    return h if h else 1


cdef uint64_t shape_of_rows(const uint8_t *body, size_t n) noexcept nogil:
    """What a client that remembers a RowDescription relies on, as a number.

    Names, types and modifiers of the columns; not where they come from, nor their
    format, which Bind decides. Never 0. Source: "Message Formats" (RowDescription)
    """
    cdef uint64_t h = 1
    cdef uint64_t word
    cdef size_t at = 2
    cdef const uint8_t *end
    while at < n:
        end = <const uint8_t *> memchr(body + at, 0, n - at)
        if end == NULL or end + 19 > body + n:
            break
        while body + at < end:
            h = mix(h, body[at])
            at += 1
        at += 7  # the terminator; table and column
        memcpy(&word, body + at, 8)  # type, length, half of the modifier
        h = mix(h, word)
        h = mix(h, (<uint64_t> body[at + 8] << 8) | body[at + 9])
        at += 12
    return h if h else 1


# ---------------------------------------------------------------- effects

cdef Effect *effects_push(EffectQueue *q) noexcept nogil:
    """A new, empty effect behind all others; NULL without memory."""
    cdef uint32_t size = q.mask + 1
    cdef uint32_t i
    cdef Effect *ring
    if q.ring == NULL or q.tail - q.head == size:
        size = FIRST_EFFECTS if q.ring == NULL else size * 2
        ring = <Effect *> malloc(size * sizeof(Effect))
        if ring == NULL:
            return NULL
        for i in range(q.tail - q.head):
            ring[(q.head + i) & (size - 1)] = q.ring[(q.head + i) & q.mask]
        free(q.ring)
        q.ring = ring
        q.mask = size - 1
    q.tail += 1
    memset(effects_at(q, q.tail - 1), 0, sizeof(Effect))
    return effects_at(q, q.tail - 1)
