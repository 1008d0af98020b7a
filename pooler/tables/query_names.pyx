# SPDX-License-Identifier: MIT
"""Names of one Query; see ``query_names.pxd``."""

from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset


cdef void query_names_begin(QueryNames *q, QueryNamesRoom *room) noexcept nogil:
    """Nothing is noted yet; the room has to outlive what is."""
    memset(q, 0, sizeof(QueryNames))
    q.rows = room.rows
    q.row_cap = ROWS_INLINE
    q.steps = room.steps
    q.step_cap = STEPS_INLINE
    q.bytes = room.bytes
    q.byte_cap = BYTES_INLINE


cdef void *grown(
    void *p, const void *inline_p, uint32_t *cap, uint32_t want, size_t size
) noexcept nogil:
    """An array with room for ``want`` rows or more; NULL without memory."""
    cdef uint32_t rows = cap[0]
    cdef void *more
    if want <= rows:
        return p
    if want > <uint32_t> -1 / 2:
        return NULL
    while rows < want:
        rows = rows * 2 if rows else want
    if p == inline_p:
        more = malloc(rows * size)
        if more != NULL and p != NULL:
            memcpy(more, p, cap[0] * size)
    else:
        more = realloc(p, rows * size)
    if more != NULL:
        cap[0] = rows
    return more


cdef RenamedName *query_names_row(
    QueryNames *q, const QueryNamesRoom *room
) noexcept nogil:
    """A new row behind all others; NULL without memory."""
    cdef void *rows = grown(
        q.rows, room.rows if room != NULL else NULL, &q.row_cap, q.row_n + 1,
        sizeof(RenamedName),
    )
    if rows == NULL:
        return NULL
    q.rows = <RenamedName *> rows
    q.row_n += 1
    return &q.rows[q.row_n - 1]


cdef NameStep *query_names_step(
    QueryNames *q, const QueryNamesRoom *room
) noexcept nogil:
    """A new step behind all others; NULL without memory."""
    cdef void *steps = grown(
        q.steps, room.steps if room != NULL else NULL, &q.step_cap, q.step_n + 1,
        sizeof(NameStep),
    )
    if steps == NULL:
        return NULL
    q.steps = <NameStep *> steps
    q.step_n += 1
    return &q.steps[q.step_n - 1]


cdef uint8_t *query_names_bytes(
    QueryNames *q, const QueryNamesRoom *room, size_t n
) noexcept nogil:
    """Room for n bytes at ``byte_n``, not counted yet; NULL without memory.

    n is the size of a name.
    """
    cdef void *bytes_ = grown(
        q.bytes, room.bytes if room != NULL else NULL, &q.byte_cap,
        q.byte_n + <uint32_t> n, 1,
    )
    if bytes_ == NULL:
        return NULL
    q.bytes = <uint8_t *> bytes_
    return q.bytes + q.byte_n


cdef QueryNames *query_names_keep(
    QueryNames *q, const QueryNamesRoom *room
) noexcept nogil:
    """The same in memory of its own, which replaces q; NULL without memory."""
    cdef QueryNames *kept = <QueryNames *> malloc(sizeof(QueryNames))
    cdef bint failed = kept == NULL
    if q.rows == room.rows and not failed:
        q.rows = <RenamedName *> malloc(q.row_cap * sizeof(RenamedName))
        failed = q.rows == NULL
        if not failed:
            memcpy(q.rows, room.rows, q.row_n * sizeof(RenamedName))
    if q.steps == room.steps and not failed:
        q.steps = <NameStep *> malloc(q.step_cap * sizeof(NameStep))
        failed = q.steps == NULL
        if not failed:
            memcpy(q.steps, room.steps, q.step_n * sizeof(NameStep))
    if q.bytes == room.bytes and not failed:
        q.bytes = <uint8_t *> malloc(q.byte_cap)
        failed = q.bytes == NULL
        if not failed:
            memcpy(q.bytes, room.bytes, q.byte_n)
    if failed:  # the connection goes
        free(kept)
        return NULL
    kept[0] = q[0]
    return kept


cdef void query_names_end(QueryNames *q, const QueryNamesRoom *room) noexcept nogil:
    """Free what has outgrown the room; steps must have been taken care of."""
    if q.rows != room.rows:
        free(q.rows)
    if q.steps != room.steps:
        free(q.steps)
    if q.bytes != room.bytes:
        free(q.bytes)


cdef void query_names_free(QueryNames *q) noexcept nogil:
    """Free what ``query_names_keep`` has made; its steps are settled or undone."""
    if q != NULL:
        free(q.rows)
        free(q.steps)
        free(q.bytes)
        free(q)
