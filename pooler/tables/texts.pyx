# SPDX-License-Identifier: MIT
"""Shared texts; see ``texts.pxd``."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from pooler.tables.hashing cimport hash_behind, hash_bytes
from pooler.tables.params cimport params_ref, params_unref
from pooler.tables.text_names cimport (
    SERVER_NAME_BYTES, name_forms_init, put_counted_name, put_text_name,
)

cdef enum:
    FIRST_STATEMENTS = 1024  # buckets; a power of two
    LONG_QUERY_BYTES = 1048576

cdef uint64_t RECENT_FACTOR = 0x9E3779B97F4A7C15u  # an odd number without a pattern


cdef int statements_init(
    StatementTable *t, ParamTable *params, bytes prefix
) except -1:
    """Make an empty table; names on servers are ``prefix`` and a number."""
    memset(t, 0, sizeof(StatementTable))
    name_forms_init(&t.forms, prefix)
    t.params = params
    t.schema_cell = &t.schema_own
    t.parse_cell = &t.parse_own
    t.databases_cell = &t.databases_own
    t.long_query_bytes = LONG_QUERY_BYTES
    t.buckets = <Statement **> calloc(FIRST_STATEMENTS, sizeof(Statement *))
    t.texts = <Statement **> calloc(FIRST_STATEMENTS, sizeof(Statement *))
    t.seen = <uint64_t *> calloc(SEEN_TEXTS, sizeof(uint64_t))
    t.mask = FIRST_STATEMENTS - 1
    if t.buckets == NULL or t.texts == NULL or t.seen == NULL:
        statements_free(t)
        raise MemoryError
    return 0


cdef void statements_free(StatementTable *t) noexcept nogil:
    """Free the table; sessions have given their statements back."""
    free(t.buckets)
    free(t.texts)
    free(t.seen)
    t.buckets = t.texts = NULL
    t.seen = NULL


cdef uint64_t statement_hash(
    const ParamSet *context, uint8_t kind, const uint8_t *text, size_t n
) noexcept nogil:
    """Hash of a shared statement's identity."""
    return hash_behind(<uint64_t> context ^ (<uint64_t> kind << 56), text, n)


cdef void grow_table(StatementTable *t) noexcept nogil:
    """Twice as many buckets; without memory the chains just get longer."""
    cdef uint32_t size = (t.mask + 1) * 2
    cdef Statement **buckets = <Statement **> calloc(size, sizeof(Statement *))
    cdef Statement **texts = <Statement **> calloc(size, sizeof(Statement *))
    cdef Statement *st
    cdef uint32_t i
    if buckets == NULL or texts == NULL:
        free(buckets)
        free(texts)
        return
    for i in range(t.mask + 1):
        while t.buckets[i] != NULL:
            st = t.buckets[i]
            t.buckets[i] = st.next
            st.next = buckets[st.hash & (size - 1)]
            buckets[st.hash & (size - 1)] = st
        while t.texts[i] != NULL:
            st = t.texts[i]
            t.texts[i] = st.next_text
            st.next_text = texts[st.text_hash & (size - 1)]
            texts[st.text_hash & (size - 1)] = st
    free(t.buckets)
    free(t.texts)
    t.buckets = buckets
    t.texts = texts
    t.mask = size - 1


cdef inline bint is_of(
    const Statement *st, const ParamSet *context, uint8_t kind, const uint8_t *text,
    size_t n,
) noexcept nogil:
    """Whether it is the shared statement with this text."""
    return (
        st.n == n and st.kind == kind and st.context == context
        and not st.is_private and memcmp(st.text, text, n) == 0
    )


cdef Statement *statement_find(
    const StatementTable *t, const ParamSet *context, uint8_t kind,
    const uint8_t *text, size_t n, uint64_t h,
) noexcept nogil:
    """The shared statement with this text, borrowed; NULL when there is none."""
    cdef Statement *st = t.texts[h & t.mask]
    while st != NULL and not (st.text_hash == h and is_of(st, context, kind, text, n)):
        st = st.next_text
    return st


cdef inline uint8_t recent_at(const uint8_t *text, size_t n) noexcept nogil:
    """Where a text stands among the recent ones: by its length and a few of its bytes.

    Whose texts meet at one place has each hashed, as without it.
    """
    cdef uint64_t middle = 0
    cdef uint64_t end = 0
    if n >= 24:
        memcpy(&middle, text + n // 2, 8)
        memcpy(&end, text + n - 16, 8)
    return <uint8_t> (((middle + n) * RECENT_FACTOR ^ end) * RECENT_FACTOR >> 56)


cdef Statement *statement_known(
    StatementTable *t, ParamSet *context, uint8_t kind, const uint8_t *text, size_t n
) noexcept nogil:
    """The shared statement with this text, made when there is none.

    In, Out: as statement_intern
    Cost: one comparison of the text if it is among the recent ones, else its hash
    """
    cdef uint8_t at = recent_at(text, n)
    cdef Statement *st = t.recent[at]
    if st != NULL and is_of(st, context, kind, text, n):
        return statement_ref(st)
    st = statement_intern(
        t, context, kind, text, n, statement_hash(context, kind, text, n), True
    )
    if st != NULL:
        st.recent_at = at
        t.recent[at] = st
    return st


cdef Statement *find_called(
    const StatementTable *t, const uint8_t *name, size_t n, uint64_t h
) noexcept nogil:
    cdef Statement *st = t.buckets[h & t.mask]
    while st != NULL and not (
        st.hash == h and st.name_n == n and memcmp(st.name, name, n) == 0
    ):
        st = st.next
    return st


cdef void name_by_number(StatementTable *t, Statement *st) noexcept nogil:
    """The next number whose name is not taken, be it by another worker."""
    cdef const uint8_t *name = <const uint8_t *> st.name
    while True:
        t.next_id += 1
        st.id = t.next_id
        st.name_n = put_counted_name(&t.forms, st.id, st.name)
        st.hash = st.text_hash = hash_bytes(name, st.name_n)
        if find_called(t, name, st.name_n, st.hash) == NULL:
            return


cdef Statement *statement_draft(
    StatementTable *t, ParamSet *context, uint8_t kind, size_t n
) noexcept nogil:
    """A statement with room for a text of n bytes, which nobody shall share.

    It has a name and is counted, but is in no table before ``statement_publish``.

    In:      n < 2**31
    Out:     refs is 1; NULL when memory or max_bytes forbids it
    """
    cdef size_t size = sizeof(Statement) + n
    cdef Statement *st
    if t.max_bytes and t.bytes + size > t.max_bytes:
        return NULL
    st = <Statement *> malloc(size)
    if st == NULL:
        return NULL
    memset(st, 0, sizeof(Statement))
    st.context = params_ref(context)
    st.refs = 1
    st.n = <uint32_t> n
    st.text = <uint8_t *> (st + 1)
    st.kind = kind
    st.is_private = True
    name_by_number(t, st)
    t.bytes += size
    return st


cdef void link_text(StatementTable *t, Statement *st, uint64_t h) noexcept nogil:
    """From now on it is found by its text."""
    st.text_hash = h
    st.next_text = t.texts[h & t.mask]
    t.texts[h & t.mask] = st


cdef void link_statement(StatementTable *t, Statement *st) noexcept nogil:
    if t.count > t.mask:
        grow_table(t)
    st.next = t.buckets[st.hash & t.mask]
    t.buckets[st.hash & t.mask] = st
    t.count += 1


cdef Statement *statement_publish(
    StatementTable *t, Statement *draft, size_t n
) noexcept nogil:
    """Put a draft into the table; of its text the first n bytes count.

    Returns it; it may have moved, so nobody may have a reference but the caller.
    """
    cdef Statement *st = draft
    if n < draft.n:
        t.bytes -= draft.n - n
        draft.n = <uint32_t> n
        st = <Statement *> realloc(draft, sizeof(Statement) + n)
        if st == NULL:
            st = draft
        st.text = <uint8_t *> (st + 1)
    link_statement(t, st)
    return st


cdef void statement_discard(StatementTable *t, Statement *draft) noexcept nogil:
    """Give up a draft."""
    t.bytes -= sizeof(Statement) + draft.n
    params_unref(t.params, draft.context)
    free(draft)


cdef Statement *statement_called(
    StatementTable *t, const uint8_t *name, size_t n
) noexcept nogil:
    """What servers know by this name: if there is none, one without a text is made.

    In:      0 < n < SERVER_NAME_BYTES
    Out:     a reference the caller owns; NULL when memory or max_bytes forbids it
    """
    cdef uint64_t h = hash_bytes(name, n)
    cdef Statement *st = find_called(t, name, n, h)
    if st != NULL:
        return statement_ref(st)
    if t.max_bytes and t.bytes + sizeof(Statement) > t.max_bytes:
        return NULL
    st = <Statement *> calloc(1, sizeof(Statement))
    if st == NULL:
        return NULL
    st.refs = 1
    t.next_id += 1
    st.id = t.next_id
    st.name_n = <uint8_t> n
    memcpy(st.name, name, n)
    st.hash = h
    t.bytes += sizeof(Statement)
    link_statement(t, st)
    return st


cdef int learn_text(
    StatementTable *t, Statement *st, ParamSet *context, uint8_t kind,
    const uint8_t *text, size_t n, uint64_t h,
) noexcept nogil:
    """Somebody has prepared what was known by its name alone; -1 without memory."""
    if t.max_bytes and t.bytes + n > t.max_bytes:
        return -1
    st.text = <uint8_t *> malloc(n + 1)
    if st.text == NULL:
        return -1
    memcpy(st.text, text, n)
    st.n = <uint32_t> n
    st.kind = kind
    st.context = params_ref(context)
    t.bytes += n
    link_text(t, st, h)
    return 0


cdef void share(
    StatementTable *t, Statement *st, const char *name, uint8_t name_n, uint64_t h
) noexcept nogil:
    """A statement that is not linked yet is anybody's; name_n 0: it keeps its name."""
    st.is_private = False
    if name_n:
        memcpy(st.name, name, name_n + 1)
        st.name_n = name_n
        st.hash = hash_bytes(<const uint8_t *> name, name_n)
    link_text(t, st, h)


cdef Statement *statement_intern(
    StatementTable *t, ParamSet *context, uint8_t kind, const uint8_t *text, size_t n,
    uint64_t h, bint shared,
) noexcept nogil:
    """The statement with this text, made when there is none or it is not shared.

    In:      text borrowed; n < 2**31; shared: h = statement_hash of the same
    Out:     a reference the caller owns; NULL when memory or max_bytes forbids it

    One that is not shared has a hash of its own: nobody looks for it by its text, of
    which there may be thousands.
    """
    cdef char name[SERVER_NAME_BYTES]
    cdef uint8_t name_n = 0
    cdef Statement *st = NULL
    if shared:
        st = statement_find(t, context, kind, text, n, h)
        if st != NULL:
            return statement_ref(st)
    if shared and t.forms.by_text:
        name_n = put_text_name(&t.forms, t.params, context, kind, text, n, name)
        st = find_called(
            t, <const uint8_t *> name, name_n,
            hash_bytes(<const uint8_t *> name, name_n),
        )
        if st != NULL and st.text == NULL:
            if learn_text(t, st, context, kind, text, n, h) < 0:
                return NULL
            return statement_ref(st)
        shared = st == NULL  # two texts with one name will not be; nor would it matter
    st = statement_draft(t, context, kind, n)
    if st == NULL:
        return NULL
    memcpy(st.text, text, n)
    if shared:
        share(t, st, name, name_n, h)
    link_statement(t, st)
    return st


cdef void statement_types(
    const StatementTable *t, Statement *st, uint64_t parameters, const uint8_t *types,
    size_t n,
) noexcept nogil:
    """Somebody is told what parameters it has.

    In:      types[0:n) borrowed: a ParameterDescription, ``parameters`` as a number
    Cost:    O(n) if they are not those that were told last
    """
    cdef Told *told = st.told
    if told == NULL or told.parameters != parameters:
        told = <Told *> realloc(told, sizeof(Told) + n)
        if told == NULL:
            return  # what was told before is still there
        st.told = told
        told.parameters = parameters
        told.shape = 0
        memcpy(told.types, types, n)
    told.at = schema_count(t)


cdef void statement_free(StatementTable *t, Statement *st) noexcept nogil:
    """Nobody has this statement any more."""
    cdef Statement **at = &t.buckets[st.hash & t.mask]
    cdef Statement *target = st.target
    while at[0] != st:
        at = &at[0].next
    at[0] = st.next
    if st.text != NULL and not st.is_private:
        at = &t.texts[st.text_hash & t.mask]
        while at[0] != st:
            at = &at[0].next_text
        at[0] = st.next_text
    if t.recent[st.recent_at] == st:
        t.recent[st.recent_at] = NULL
    t.count -= 1
    t.bytes -= sizeof(Statement) + st.n
    params_unref(t.params, st.context)
    if st.text != <uint8_t *> (st + 1):
        free(st.text)
    free(st.called)
    free(st.told)
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
