# SPDX-License-Identifier: MIT
"""Reading of SET and its like; see ``sql_settings.pxd``."""

from libc.string cimport memchr, memcmp

from pooler.session.records cimport (
    CHANGE_FOR_GOOD, CHANGE_GIVES, CHANGE_LENDS, CHANGE_LOCAL, CHANGE_LOCAL_SHIFT,
    CHANGE_MEANING, CHANGE_RESET_SHIFT, CHANGE_SETTING, CHANGE_TRACKED,
)
from pooler.statements.sql_scan cimport skip_blank, skip_word
from pooler.tables.custom_names cimport custom_found
from pooler.tables.params cimport PARAM_NAME_MAX, params_index


cdef size_t read_word(Reader *r) noexcept nogil:
    """Go behind the next word; where it begins. Behind the last it has no bytes."""
    cdef size_t start = skip_blank(r.text, r.n, r.at)
    r.at = skip_word(r.text, r.n, start, r.flags)
    return start


cdef bint next_is(Reader *r, const char *word, size_t word_n) noexcept nogil:
    """Whether the next word is this one; then the reader stands behind it."""
    cdef size_t before = r.at
    cdef size_t start = read_word(r)
    if is_word(r, start, r.at, word, word_n):
        return True
    r.at = before
    return False

# Parameters that do not change what a text means.
cdef const char *HARMLESS[13]
HARMLESS[:] = [
    b"application_name", b"statement_timeout", b"lock_timeout", b"work_mem",
    b"idle_in_transaction_session_timeout", b"transaction_timeout",
    b"idle_session_timeout", b"synchronous_commit", b"maintenance_work_mem",
    b"client_min_messages", b"extra_float_digits", b"default_transaction_isolation",
    b"default_transaction_read_only",
]


cdef bint is_harmless(const uint8_t *name, size_t n) noexcept nogil:
    cdef Reader r
    cdef size_t size
    r.text = name
    r.n = n
    for known in HARMLESS:
        size = 0
        while known[size] != 0:
            size += 1
        if is_word(&r, 0, n, known, size):
            return True
    return False


cdef inline bint has_dot(const uint8_t *name, size_t n) noexcept nogil:
    """Whether PostgreSQL makes a parameter of this name when it is first set.

    It is there to the end of the session then: current_setting(…, true) is '' and not
    NULL, also behind DISCARD ALL.
    """
    return n != 0 and memchr(name, c".", n) != NULL


cdef uint64_t all_reset(const Reader *r, bint local) noexcept nogil:
    """Every parameter that follows its client goes back to its value at the login."""
    cdef uint64_t all = (<uint64_t> 1 << r.params.count) - 1
    return all << (CHANGE_LOCAL_SHIFT if local else CHANGE_RESET_SHIFT)


cdef uint64_t reset_of(
    const Reader *r, const char *name, size_t n, bint local
) noexcept nogil:
    cdef int index = params_index(r.params, <const uint8_t *> name, n)
    cdef int first = CHANGE_LOCAL_SHIFT if local else CHANGE_RESET_SHIFT
    return <uint64_t> 1 << (first + index) if index >= 0 else 0


cdef inline bint is_default_style(
    const Reader *r, const char *name, size_t n
) noexcept nogil:
    """Whether a DateStyle follows that PostgreSQL takes for the word: 'default'."""
    cdef size_t at = skip_blank(r.text, r.n, r.at)
    return n == 9 and memcmp(name, b"datestyle", 9) == 0 and at + 9 <= r.n and (
        r.text[at] == c"'" and r.text[at + 8] == c"'"
        and is_word(r, at + 1, at + 8, b"default", 7)
    )


cdef bint is_to_default(Reader *r, const char *name, size_t n) noexcept nogil:
    """Whether a SET ends with TO DEFAULT, or = DEFAULT."""
    cdef size_t at
    if not next_is(r, b"to", 2):
        at = skip_blank(r.text, r.n, r.at)
        if at < r.n and r.text[at] == c"=":
            r.at = at + 1
    return next_is(r, b"default", 7) or is_default_style(r, name, n)


cdef inline uint64_t gives(bint local) noexcept nogil:
    return CHANGE_LENDS if local else CHANGE_GIVES


cdef inline uint64_t local_of(uint64_t changes, bint local) noexcept nogil:
    return changes | (CHANGE_LOCAL if local and changes & CHANGE_TRACKED else 0)


cdef uint64_t set_to(
    Reader *r, const char *name, size_t n, bint local, bint default
) noexcept nogil:
    return local_of(setting_changed(r, name, n, local), local) | (
        reset_of(r, name, n, local) if default else gives(local)
    )


cdef uint64_t setting_changed(
    const Reader *r, const char *name, size_t n, bint local
) noexcept nogil:
    """What SET of a parameter changes; ``local``: for the transaction only.

    One with a dot in its name is there from then on, in both cases; whose that is has a
    place of its own, unless the name is too odd.
    """
    cdef const uint8_t *p = <const uint8_t *> name
    cdef int index = params_index(r.params, p, n)
    cdef bint harmless = is_harmless(p, n)
    if index >= 0 and r.reported != NULL and r.reported.value[index] != NULL:
        return 0 if index == r.params.label else CHANGE_TRACKED
    return (0 if harmless else CHANGE_MEANING) | (0 if local else CHANGE_SETTING) | (
        CHANGE_FOR_GOOD if has_dot(p, n) and not custom_found(r.params.custom, p, n)
        else 0
    )


cdef size_t read_parameter(Reader *r, char *name) noexcept nogil:
    """Read the name of a parameter, small; 0 when it cannot be read as one.

    Of one whose parts are quoted, or stand apart, the first and a dot.

    ``name``: room for PARAM_NAME_MAX bytes.
    """
    cdef size_t at = skip_blank(r.text, r.n, r.at)
    cdef bint quoted = at < r.n and r.text[at] == c'"'
    cdef size_t n = 0
    at += quoted
    while at < r.n and (in_name(r.text[at]) or r.text[at] == c"."):
        if n == PARAM_NAME_MAX:
            return 0
        name[n] = r.text[at] | 0x20 if c"A" <= r.text[at] <= c"Z" else r.text[at]
        n += 1
        at += 1
    if at < r.n and r.text[at] == c"&":
        return 0
    if quoted and (at >= r.n or r.text[at] != c'"'):
        return 0
    r.at = at + quoted
    at = skip_blank(r.text, r.n, r.at)
    if n and n < PARAM_NAME_MAX and at < r.n and r.text[at] == c".":
        name[n] = c"."
        n += 1
    return n


cdef uint64_t custom_in_body(Reader *r) noexcept nogil:
    """What a text makes up by SET anywhere in it: what runs later, or is validated."""
    cdef char name[PARAM_NAME_MAX]
    cdef const uint8_t *p = <const uint8_t *> name
    cdef uint64_t changes = 0
    cdef size_t start
    cdef size_t n
    while r.at < r.n:
        start = r.at
        while r.at < r.n and in_name(r.text[r.at]):
            r.at += 1
        if r.at == start:
            r.at += 1
        elif is_word(r, start, r.at, b"set", 3):
            if not next_is(r, b"local", 5):
                next_is(r, b"session", 7)
            n = read_parameter(r, name)
            if has_dot(p, n) and not custom_found(r.params.custom, p, n):
                changes |= CHANGE_FOR_GOOD
    return changes


cdef uint64_t read_set(Reader *r) noexcept nogil:
    cdef char name[PARAM_NAME_MAX]
    cdef bint local = next_is(r, b"local", 5)
    cdef size_t at
    cdef size_t n
    if not local and next_is(r, b"session", 7):
        if next_is(r, b"characteristics", 15):
            return CHANGE_SETTING
    n = read_parameter(r, name)
    if n == 11 and memcmp(name, b"transaction", 11) == 0:
        return 0
    if n == 11 and memcmp(name, b"constraints", 11) == 0:
        return 0
    if n == 4 and memcmp(name, b"time", 4) == 0:
        next_is(r, b"zone", 4)
        return set_to(
            r, b"timezone", 8, local,
            next_is(r, b"default", 7) or next_is(r, b"local", 5),
        )
    if n == 5 and memcmp(name, b"names", 5) == 0:
        at = skip_blank(r.text, r.n, r.at)
        return set_to(
            r, b"client_encoding", 15, local,
            at >= r.n or r.text[at] == c";" or next_is(r, b"default", 7),
        )
    if n == 4 and memcmp(name, b"seed", 4) == 0:
        return CHANGE_FOR_GOOD
    if n == 0:
        at = skip_blank(r.text, r.n, r.at)
        return CHANGE_MEANING | CHANGE_SETTING | gives(local) | (
            CHANGE_FOR_GOOD if at < r.n and r.text[at] != c";" else 0
        )
    return set_to(r, name, n, local, is_to_default(r, name, n))


cdef uint64_t read_reset(Reader *r) noexcept nogil:
    """What was set is as it was at the start of the session; nothing new is left."""
    cdef char name[PARAM_NAME_MAX]
    cdef size_t n
    if next_is(r, b"all", 3):
        return CHANGE_TRACKED | CHANGE_MEANING | all_reset(r, False)
    n = read_parameter(r, name)
    if n == 4 and memcmp(name, b"time", 4) == 0:
        return setting_changed(r, b"timezone", 8, True) | reset_of(
            r, b"timezone", 8, False
        )
    return reset_of(r, name, n, False) | setting_changed(
        r, name, n, not has_dot(<const uint8_t *> name, n)
    )


cdef size_t next_argument(const Reader *r, size_t at) noexcept nogil:
    """Behind the comma that ends the argument at ``at``, or at what ends the last."""
    cdef int depth = 1
    while at < r.n:
        if r.text[at] == c"(":
            depth += 1
        elif r.text[at] == c")":
            depth -= 1
            if depth == 0:
                return at
        elif r.text[at] == c"'":
            at += 1
            while at < r.n and r.text[at] != c"'":
                at += 1
        elif r.text[at] == c"," and depth == 1:
            return at + 1
        at += 1
    return r.n


cdef uint64_t value_given(
    Reader *r, const char *name, size_t n, bint local
) noexcept nogil:
    """What the second argument of set_config does: NULL is the default."""
    cdef uint64_t reset = (
        reset_of(r, name, n, local) if n else all_reset(r, local)
    )
    cdef size_t at = skip_blank(r.text, r.n, r.at)
    if next_is(r, b"null", 4) or is_default_style(r, name, n):
        return reset
    if at < r.n and r.text[at] == c"'":
        return gives(local)
    return gives(local) | reset  # nobody knows


cdef uint64_t read_set_config(Reader *r) noexcept nogil:
    """set_config(name, value, is_local): a name and a truth that are literals."""
    cdef char name[PARAM_NAME_MAX]
    cdef size_t at = skip_blank(r.text, r.n, skip_blank(r.text, r.n, r.at) + 1)
    cdef size_t value = next_argument(r, at)
    cdef size_t n = 0
    cdef size_t end
    cdef bint local
    if at < r.n and r.text[at] == c"'":
        r.at = at + 1
        n = read_parameter(r, name)
        if r.at >= r.n or r.text[r.at] != c"'":
            n = 0
    if n == 0:
        r.params.custom.by_value = True
    r.at = next_argument(r, value)
    end = next_argument(r, r.at)
    local = next_is(r, b"true", 4) and skip_blank(r.text, r.n, r.at) == end
    r.at = value
    return local_of(setting_changed(r, name, n, local), local) | value_given(
        r, name, n, local
    )


cdef uint64_t read_update(Reader *r) noexcept nogil:
    """UPDATE pg_settings is SET by another name."""
    cdef char name[PARAM_NAME_MAX]
    cdef size_t n
    next_is(r, b"only", 4)
    n = read_parameter(r, name)
    if (n == 11 and memcmp(name, b"pg_settings", 11) == 0) or (
        n == 22 and memcmp(name, b"pg_catalog.pg_settings", 22) == 0
    ):
        return (
            CHANGE_MEANING | CHANGE_SETTING | CHANGE_TRACKED | CHANGE_GIVES
            | all_reset(r, False)
        )
    return 0
