# SPDX-License-Identifier: MIT
"""Parameters that follow a client: interned values, interned sets of values.

Tables layer, sans-IO. All sessions with equal values share one ``ParamSet``, so
"does this server have what this client wants" is one pointer comparison and a
client pays eight bytes. Values and sets are counted; the last user frees them. The
tables grow with what is in them and do not shrink: eight bytes for each of the most
values, and sets, that there ever were.

Source: PostgreSQL documentation, "Asynchronous Operations" (ParameterStatus).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from pooler.tables.custom_names cimport CustomNames

cdef enum:
    PARAM_MAX = 16  # tracked parameters
    PARAM_NAME_MAX = 63
    PARAM_VALUE_MAX = 4096

cdef struct ParamValue:
    ParamValue *next  # own list of one hash bucket
    uint32_t hash
    uint32_t refs
    uint32_t n
    uint8_t text[1]  # n bytes and a terminator

cdef struct ParamSet:
    ParamSet *next
    uint32_t hash
    uint32_t refs
    const void *verified_by  # the pool whose server has accepted all these values
    ParamSet *context  # own unless it is this set: see params_context; NULL: not asked
    ParamValue *value[PARAM_MAX]  # NULL: not known

cdef struct ParamTable:
    int count
    int label  # index of application_name, which changes no statement's meaning; or -1
    int partial  # index of DateStyle, whose value may say a part only; or -1
    int literals  # index of standard_conforming_strings; or -1
    int encoding  # index of client_encoding; or -1
    uint32_t name_n[PARAM_MAX]
    char name[PARAM_MAX][PARAM_NAME_MAX + 1]
    bint is_list[PARAM_MAX]  # reported as a quoted list, which SET would quote again
    CustomNames *custom  # own
    ParamValue **values  # own: buckets, as many as there were values at most, or more
    ParamSet **sets  # own: likewise
    uint32_t value_mask  # buckets - 1; a power of two minus one
    uint32_t set_mask
    uint32_t value_count
    uint32_t set_count

cdef int params_init(ParamTable *t) except -1
cdef void params_free(ParamTable *t) noexcept nogil
cdef int params_track(ParamTable *t, bytes name, bint is_list) except -1
cdef int params_index(const ParamTable *t, const uint8_t *name, size_t n) noexcept nogil
cdef ParamSet *params_empty(ParamTable *t) noexcept nogil
cdef ParamSet *params_with(
    ParamTable *t, ParamSet *base, int index, const uint8_t *text, size_t n
) noexcept nogil
cdef void params_unref(ParamTable *t, ParamSet *s) noexcept nogil
cdef ParamSet *params_context(ParamTable *t, ParamSet *s) noexcept nogil
cdef bint params_differ(
    const ParamTable *t, const ParamSet *want, const ParamSet *have
) noexcept nogil
cdef size_t local_set_bytes(const ParamTable *t, const ParamSet *want) noexcept nogil
cdef size_t put_local_set(
    uint8_t *p, const ParamTable *t, const ParamSet *want, const ParamSet *have,
    bint back,
) noexcept nogil
cdef size_t set_query_bytes(const ParamTable *t, const ParamSet *want) noexcept nogil
cdef size_t put_set_query(
    uint8_t *p, const ParamTable *t, const ParamSet *want, const ParamSet *have
) noexcept nogil
cdef size_t back_text_bytes(const ParamTable *t, const ParamSet *want) noexcept nogil
cdef size_t put_back_sets(
    uint8_t *p, const ParamTable *t, const ParamSet *want, uint16_t session,
    uint16_t local, uint8_t *count,
) noexcept nogil
cdef size_t put_back_text(
    uint8_t *p, const ParamTable *t, const ParamSet *want, uint16_t names,
    uint16_t local,
) noexcept nogil
cdef size_t back_query_bytes(const ParamTable *t, const ParamSet *want) noexcept nogil
cdef size_t put_back_query(
    uint8_t *p, const ParamTable *t, const ParamSet *want, const ParamSet *have,
    uint16_t local, bint doubt,
) noexcept nogil


cdef inline bint params_mean_the_same(
    const ParamTable *t, const ParamSet *a, const ParamSet *b
) noexcept nogil:
    """Whether texts mean the same under both: all but application_name is equal."""
    cdef int i
    if a == b:
        return True
    for i in range(t.count):
        if i != t.label and a.value[i] != b.value[i]:
            return False
    return True


cdef inline ParamSet *params_ref(ParamSet *s) noexcept nogil:
    s.refs += 1
    return s
