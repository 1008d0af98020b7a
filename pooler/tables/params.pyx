# SPDX-License-Identifier: MIT
"""Interning of parameter values and sets, and the SET query that aligns a server."""

from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset, strlen

from pooler._wire cimport HEADER_BYTES, put_header
from pooler.tables.hashing cimport hash_bytes

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

cdef enum:
    FIRST_BUCKETS = 64  # a power of two
    SET_BYTES = 64  # more than what surrounds name and value in any form
    DATE_ORDER_BYTES = 5  # ", MDY"


cdef int params_init(ParamTable *t) except -1:
    memset(t, 0, sizeof(ParamTable))
    t.label = t.partial = t.literals = t.encoding = -1
    t.values = <ParamValue **> calloc(FIRST_BUCKETS, sizeof(ParamValue *))
    t.sets = <ParamSet **> calloc(FIRST_BUCKETS, sizeof(ParamSet *))
    t.custom = <CustomNames *> calloc(1, sizeof(CustomNames))
    t.value_mask = t.set_mask = FIRST_BUCKETS - 1
    if t.values == NULL or t.sets == NULL or t.custom == NULL:
        params_free(t)
        raise MemoryError
    return 0


cdef void params_free(ParamTable *t) noexcept nogil:
    """Free the table; no set may be used afterwards."""
    cdef uint32_t i
    cdef ParamValue *value
    cdef ParamSet *s
    for i in range(t.value_mask + 1 if t.values != NULL else 0):
        while t.values[i] != NULL:
            value = t.values[i]
            t.values[i] = value.next
            free(value)
    for i in range(t.set_mask + 1 if t.sets != NULL else 0):
        while t.sets[i] != NULL:
            s = t.sets[i]
            t.sets[i] = s.next
            free(s)
    free(t.values)
    free(t.sets)
    free(t.custom)
    memset(t, 0, sizeof(ParamTable))


cdef int params_track(ParamTable *t, bytes name, bint is_list) except -1:
    """Add a parameter to follow; ValueError when there is no room for it."""
    if t.count == PARAM_MAX:
        raise ValueError(f"more than {PARAM_MAX} tracked parameters")
    if not 0 < len(name) <= PARAM_NAME_MAX:
        raise ValueError(f"parameter name of {len(name)} bytes")
    memcpy(t.name[t.count], <const char *> name, len(name) + 1)
    t.name_n[t.count] = <uint32_t> len(name)
    t.is_list[t.count] = is_list
    if name.lower() == b"application_name":
        t.label = t.count
    if name.lower() == b"datestyle":
        t.partial = t.count
    if name.lower() == b"standard_conforming_strings":
        t.literals = t.count
    if name.lower() == b"client_encoding":
        t.encoding = t.count
    t.count += 1
    return 0


cdef int params_index(
    const ParamTable *t, const uint8_t *name, size_t n
) noexcept nogil:
    """Index of a tracked parameter, -1 when it is not tracked; names ignore case."""
    cdef int i
    for i in range(t.count):
        if t.name_n[i] == n and strncasecmp(t.name[i], <const char *> name, n) == 0:
            return i
    return -1


cdef void grow_values(ParamTable *t) noexcept nogil:
    """Twice as many buckets; without memory the chains just get longer."""
    cdef uint32_t mask = t.value_mask * 2 + 1
    cdef ParamValue **buckets = <ParamValue **> calloc(
        <size_t> mask + 1, sizeof(ParamValue *)
    )
    cdef ParamValue *v
    cdef uint32_t i
    if buckets == NULL:
        return
    for i in range(t.value_mask + 1):
        while t.values[i] != NULL:
            v = t.values[i]
            t.values[i] = v.next
            v.next = buckets[v.hash & mask]
            buckets[v.hash & mask] = v
    free(t.values)
    t.values = buckets
    t.value_mask = mask


cdef void grow_sets(ParamTable *t) noexcept nogil:
    """As grow_values."""
    cdef uint32_t mask = t.set_mask * 2 + 1
    cdef ParamSet **buckets = <ParamSet **> calloc(
        <size_t> mask + 1, sizeof(ParamSet *)
    )
    cdef ParamSet *s
    cdef uint32_t i
    if buckets == NULL:
        return
    for i in range(t.set_mask + 1):
        while t.sets[i] != NULL:
            s = t.sets[i]
            t.sets[i] = s.next
            s.next = buckets[s.hash & mask]
            buckets[s.hash & mask] = s
    free(t.sets)
    t.sets = buckets
    t.set_mask = mask


cdef ParamValue *intern_value(
    ParamTable *t, const uint8_t *text, size_t n
) noexcept nogil:
    """The value of this text; a reference the caller owns. NULL without memory."""
    cdef uint32_t h = <uint32_t> hash_bytes(text, n)
    cdef ParamValue *v = t.values[h & t.value_mask]
    while v != NULL:
        if v.hash == h and v.n == n and memcmp(v.text, text, n) == 0:
            v.refs += 1
            return v
        v = v.next
    v = <ParamValue *> malloc(sizeof(ParamValue) + n)
    if v == NULL:
        return NULL
    v.hash = h
    v.refs = 1
    v.n = <uint32_t> n
    memcpy(v.text, text, n)
    v.text[n] = 0
    if t.value_count > t.value_mask:
        grow_values(t)
    v.next = t.values[h & t.value_mask]
    t.values[h & t.value_mask] = v
    t.value_count += 1
    return v


cdef void unref_value(ParamTable *t, ParamValue *v) noexcept nogil:
    cdef ParamValue **at
    if v == NULL:
        return
    v.refs -= 1
    if v.refs:
        return
    at = &t.values[v.hash & t.value_mask]
    while at[0] != v:
        at = &at[0].next
    at[0] = v.next
    t.value_count -= 1
    free(v)


cdef ParamSet *intern_set(ParamTable *t, ParamValue **value) noexcept nogil:
    """The set of these values; takes over one reference to each of them."""
    cdef uint32_t h = <uint32_t> hash_bytes(
        <const uint8_t *> value, PARAM_MAX * sizeof(void *)
    )
    cdef ParamSet *s = t.sets[h & t.set_mask]
    cdef int i
    while s != NULL:
        if s.hash == h and memcmp(s.value, value, PARAM_MAX * sizeof(void *)) == 0:
            break
        s = s.next
    if s != NULL:
        s.refs += 1
        for i in range(t.count):
            unref_value(t, value[i])
        return s
    s = <ParamSet *> calloc(1, sizeof(ParamSet))
    if s == NULL:
        for i in range(t.count):
            unref_value(t, value[i])
        return NULL
    s.hash = h
    s.refs = 1
    memcpy(s.value, value, PARAM_MAX * sizeof(void *))
    if t.set_count > t.set_mask:
        grow_sets(t)
    s.next = t.sets[h & t.set_mask]
    t.sets[h & t.set_mask] = s
    t.set_count += 1
    return s


cdef ParamSet *params_empty(ParamTable *t) noexcept nogil:
    """The set in which nothing is known; NULL without memory."""
    cdef ParamValue *value[PARAM_MAX]
    memset(value, 0, sizeof(value))
    return intern_set(t, value)


cdef ParamSet *params_with(
    ParamTable *t, ParamSet *base, int index, const uint8_t *text, size_t n
) noexcept nogil:
    """The set that differs from ``base`` in one value.

    In:      base stays the caller's; 0 <= index < t.count; n <= PARAM_VALUE_MAX
    Out:     a reference the caller owns; NULL without memory
    """
    cdef ParamValue *value[PARAM_MAX]
    cdef int i
    memcpy(value, base.value, sizeof(value))
    value[index] = intern_value(t, text, n)
    if value[index] == NULL:
        return NULL
    for i in range(t.count):
        if i != index and value[i] != NULL:
            value[i].refs += 1
    return intern_set(t, value)


cdef void params_unref(ParamTable *t, ParamSet *s) noexcept nogil:
    cdef ParamSet **at
    cdef int i
    if s == NULL:
        return
    s.refs -= 1
    if s.refs:
        return
    at = &t.sets[s.hash & t.set_mask]
    while at[0] != s:
        at = &at[0].next
    at[0] = s.next
    t.set_count -= 1
    if s.context != s:
        params_unref(t, s.context)
    for i in range(t.count):
        unref_value(t, s.value[i])
    free(s)


cdef ParamSet *params_context(ParamTable *t, ParamSet *s) noexcept nogil:
    """The values that decide what a statement's text means: all but application_name.

    Borrowed from s, and the same for all sets that differ in nothing else. NULL
    without memory.
    """
    cdef ParamValue *value[PARAM_MAX]
    cdef int i
    if s.context == NULL:
        if t.label < 0 or s.value[t.label] == NULL:
            s.context = s
        else:
            memcpy(value, s.value, sizeof(value))
            value[t.label] = NULL
            for i in range(t.count):
                if value[i] != NULL:
                    value[i].refs += 1
            s.context = intern_set(t, value)
    return s.context


cdef size_t set_query_bytes(const ParamTable *t, const ParamSet *want) noexcept nogil:
    """Room that ``put_set_query`` may need: every byte escaped, every value set."""
    cdef size_t n = HEADER_BYTES + 1
    cdef int i
    for i in range(t.count):
        if want.value[i] != NULL:
            n += t.name_n[i] + 2 * <size_t> want.value[i].n + SET_BYTES
    return n


cdef const char *SET_BEGIN = b"SET "
cdef const char *SET_MIDDLE = b"=E'"
cdef const char *SET_END = b"';"
cdef const char *DATE_STYLES[4]
DATE_STYLES[:] = [b"ISO", b"SQL", b"German", b"Postgres"]
cdef const char *SET_DATE_DEFAULT = b"SET DateStyle TO DEFAULT;"
cdef const char *LIST_BEGIN = b"SELECT pg_catalog.set_config('"
cdef const char *LIST_MIDDLE = b"',E'"
cdef const char *LIST_END = b"',false);"


cdef inline size_t put_text(uint8_t *p, const char *text) noexcept nogil:
    cdef size_t n = strlen(text)
    memcpy(p, text, n)
    return n


cdef size_t put_escaped(uint8_t *p, const ParamValue *value) noexcept nogil:
    """A value inside E''."""
    cdef size_t n = 0
    cdef uint32_t k
    cdef uint8_t byte
    for k in range(value.n):
        byte = value.text[k]
        if byte == c"'" or byte == c"\\":
            p[n] = byte
            n += 1
        p[n] = byte
        n += 1
    return n


cdef bint is_whole_date_style(const ParamValue *v) noexcept nogil:
    """Whether it is written as a server reports it, with style and order."""
    cdef uint32_t n = v.n - DATE_ORDER_BYTES
    cdef int i
    if v.n <= DATE_ORDER_BYTES or v.text[n] != c"," or v.text[n + 1] != c" ":
        return False
    for i in range(4):
        if strlen(DATE_STYLES[i]) == n and memcmp(v.text, DATE_STYLES[i], n) == 0:
            return True
    return False


cdef size_t put_set_query(
    uint8_t *p, const ParamTable *t, const ParamSet *want, const ParamSet *have
) noexcept nogil:
    """Write one Query that gives a server the values in which it differs.

    Returns its size, or 0 when nothing differs. E'' strings mean the same whatever
    standard_conforming_strings says. Values are ASCII (the login and ParameterStatus
    paths see to that): in a multi-byte encoding a quote could hide in a character.
    A DateStyle that leaves something out is set on top of the default, as at a
    startup, and not of what the last client had.
    """
    cdef size_t n = HEADER_BYTES
    cdef int i
    for i in range(t.count):
        if want.value[i] == NULL or want.value[i] == have.value[i]:
            continue
        if i == t.partial and not is_whole_date_style(want.value[i]):
            n += put_text(p + n, SET_DATE_DEFAULT)
        n += put_text(p + n, LIST_BEGIN if t.is_list[i] else SET_BEGIN)
        memcpy(p + n, t.name[i], t.name_n[i])
        n += t.name_n[i]
        n += put_text(p + n, LIST_MIDDLE if t.is_list[i] else SET_MIDDLE)
        n += put_escaped(p + n, want.value[i])
        n += put_text(p + n, LIST_END if t.is_list[i] else SET_END)
    if n == HEADER_BYTES:
        return 0
    p[n] = 0
    n += 1
    put_header(p, c"Q", <uint32_t> (n - 1))
    return n


cdef enum:
    BACK_BYTES = 256  # more than what surrounds name and value

cdef const char *BEHIND = b";SET SESSION "
cdef const char *BEHIND_LOCAL = b";SET LOCAL "
cdef const char *BACK_LOCAL = b"',true)"
cdef const char *BACK_SESSION = b"',false)"
cdef const char *IF_RESET = (
    b" FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.<>) 'session'"
    b" AND pg_catalog.lower(name) OPERATOR(pg_catalog.=) pg_catalog.lower('"
)


cdef size_t back_query_bytes(const ParamTable *t, const ParamSet *want) noexcept nogil:
    """Room that ``put_back_query`` may need."""
    cdef size_t n = HEADER_BYTES + 1
    cdef int i
    for i in range(t.count):
        if want.value[i] != NULL:
            n += 2 * t.name_n[i] + 2 * <size_t> want.value[i].n + BACK_BYTES
    return n


cdef size_t put_back_query(
    uint8_t *p, const ParamTable *t, const ParamSet *want, const ParamSet *have,
    uint16_t local, bint doubt,
) noexcept nogil:
    """Write one Query that sets the values in which a server differs; they do.

    ``local``: bits of those that are set for the transaction only. ``doubt``: only
    what no SET has given a value. Returns its size. Source: "pg_settings"
    """
    cdef size_t n = HEADER_BYTES
    cdef int i
    for i in range(t.count):
        if want.value[i] == NULL or want.value[i] == have.value[i]:
            continue
        n += put_text(p + n, LIST_BEGIN)
        n += put_text(p + n, t.name[i])
        n += put_text(p + n, LIST_MIDDLE)
        n += put_escaped(p + n, want.value[i])
        n += put_text(p + n, BACK_LOCAL if local >> i & 1 else BACK_SESSION)
        if doubt:
            n += put_text(p + n, IF_RESET)
            n += put_text(p + n, t.name[i])
            n += put_text(p + n, b"')")
        p[n] = c";"
        n += 1
    p[n] = 0
    n += 1
    put_header(p, c"Q", <uint32_t> (n - 1))
    return n


cdef size_t back_text_bytes(const ParamTable *t, const ParamSet *want) noexcept nogil:
    """Room that ``put_back_sets`` and ``put_back_text`` may need."""
    return 2 * back_query_bytes(t, want)


cdef size_t put_back_sets(
    uint8_t *p, const ParamTable *t, const ParamSet *want, uint16_t session,
    uint16_t local, uint8_t *count,
) noexcept nogil:
    """Write commands to go behind another one of a Query, each with a semicolon before
    it; *count grows by their number. Returns their size.
    """
    cdef size_t n = 0
    cdef int i
    for i in range(2 * t.count):
        if not (session if i < t.count else local) >> i % t.count & 1:
            continue
        n += put_text(p + n, BEHIND if i < t.count else BEHIND_LOCAL)
        n += put_text(p + n, t.name[i % t.count])
        n += put_text(p + n, SET_MIDDLE)
        n += put_escaped(p + n, want.value[i % t.count])
        p[n] = c"'"
        n += 1
        count[0] += 1
    return n


cdef size_t put_back_text(
    uint8_t *p, const ParamTable *t, const ParamSet *want, uint16_t names,
    uint16_t local,
) noexcept nogil:
    """Write one command that sets these, ``local`` ones for the transaction only.

    Returns its size, with a terminator.
    """
    cdef size_t n = put_text(p, SELECT)
    cdef int i
    for i in range(t.count):
        if not names >> i & 1:
            continue
        n += put_text(p + n, PUT)
        n += put_text(p + n, t.name[i])
        n += put_text(p + n, LIST_MIDDLE)
        n += put_escaped(p + n, want.value[i])
        n += put_text(p + n, BACK_LOCAL if local >> i & 1 else BACK_SESSION)
        p[n] = c","
        n += 1
    p[n - 1] = 0  # in the place of the last comma
    return n


# ---------------------------------------------------------------- for one statement

cdef const char *SELECT = b"SELECT "
cdef const char *KEEP = b"pg_catalog.set_config('pooler.v"
cdef const char *KEPT = b"',pg_catalog.current_setting('"
cdef const char *KEEP_END = b"'),true),"
cdef const char *PUT = b"pg_catalog.set_config('"
cdef const char *BACK = b"',pg_catalog.current_setting('pooler.v"
cdef const char *BACK_END = b"'),true)"
cdef const char *PUT_END = b"',true)"

cdef enum:
    LOCAL_SET_BYTES = 192  # more than what surrounds names and value


cdef inline bint is_to_be_set(
    const ParamTable *t, const ParamSet *want, const ParamSet *have, int i
) noexcept nogil:
    return (
        i != t.label and want.value[i] != NULL
        and (have == NULL or want.value[i] != have.value[i])
    )


cdef bint params_differ(
    const ParamTable *t, const ParamSet *want, const ParamSet *have
) noexcept nogil:
    """Whether a text would be read otherwise; have NULL: what there is is not known."""
    cdef int i
    for i in range(t.count):
        if is_to_be_set(t, want, have, i):
            return True
    return False


cdef size_t local_set_bytes(const ParamTable *t, const ParamSet *want) noexcept nogil:
    """Room that ``put_local_set`` may need."""
    cdef size_t n = 8
    cdef int i
    for i in range(t.count):
        if want.value[i] != NULL:
            n += 3 * <size_t> t.name_n[i] + 2 * <size_t> want.value[i].n
            n += LOCAL_SET_BYTES
    return n


cdef size_t put_local_set(
    uint8_t *p, const ParamTable *t, const ParamSet *want, const ParamSet *have,
    bint back,
) noexcept nogil:
    """Write a SELECT that sets values for the transaction, or puts them ``back``.

    What there was is kept in settings of our own meanwhile, so nobody need know it.
    Returns its size, with a terminator. Source: "System Administration Functions"
    """
    cdef size_t n = put_text(p, SELECT)
    cdef int i
    cdef uint8_t digit
    for i in range(t.count):
        if not is_to_be_set(t, want, have, i):
            continue
        digit = <uint8_t> (c"a" + i)
        if not back:
            n += put_text(p + n, KEEP)
            p[n] = digit
            n += 1
            n += put_text(p + n, KEPT)
            n += put_text(p + n, t.name[i])
            n += put_text(p + n, KEEP_END)
        n += put_text(p + n, PUT)
        n += put_text(p + n, t.name[i])
        if back:
            n += put_text(p + n, BACK)
            p[n] = digit
            n += 1
            n += put_text(p + n, BACK_END)
        else:
            n += put_text(p + n, LIST_MIDDLE)
            n += put_escaped(p + n, want.value[i])
            n += put_text(p + n, PUT_END)
        p[n] = c","
        n += 1
    p[n - 1] = 0  # in the place of the last comma
    return n
