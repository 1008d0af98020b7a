# SPDX-License-Identifier: MIT
"""Growth of queues and outputs: the parts of ``buffers.pxd`` that may allocate."""

from libc.string cimport memset

cdef ssize_t bytes_at_rest = 0  # of all queues of this process


cdef ssize_t queues_bytes() noexcept nogil:
    """The memory that all queues of this process have."""
    return bytes_at_rest


cdef void queue_free(Queue *q) noexcept nogil:
    """``queue_reset``, where there is something."""
    global bytes_at_rest
    bytes_at_rest -= q.cap
    free(q.data)
    q.data = NULL
    q.start = q.end = q.cap = 0


cdef int queue_add(Queue *q, const uint8_t *src, size_t n) noexcept nogil:
    """Append a copy of src[0:n); -1 if memory or its size forbids it.

    Its size does when it holds more than QUEUE_MAX_BYTES, or n > OUTPUT_MAX_BYTES.
    """
    global bytes_at_rest
    cdef size_t used = q.end - q.start
    cdef size_t want
    cdef uint8_t *data
    if used > QUEUE_MAX_BYTES or n > OUTPUT_MAX_BYTES:
        return -1
    if n > q.cap - q.end:
        if q.start:
            memmove(q.data, q.data + q.start, used)
            q.start = 0
            q.end = <uint32_t> used
        if n > q.cap - used:
            # exact at first, because most queues are filled once and drained
            want = used + n if q.cap == 0 else 2 * (used + n)
            if want > QUEUE_MAX_BYTES:
                want = max(used + n, <size_t> QUEUE_MAX_BYTES)
            data = <uint8_t *> realloc(q.data, want)
            if data == NULL:
                return -1
            bytes_at_rest += <ssize_t> want - <ssize_t> q.cap
            q.data = data
            q.cap = <uint32_t> want
    memcpy(q.data + q.end, src, n)
    q.end += <uint32_t> n
    return 0


cdef int queue_add_secret(Queue *q, const uint8_t *src, size_t n) noexcept nogil:
    """As ``queue_add``, and what moves leaves no copy behind."""
    cdef size_t used = queue_size(q)
    cdef Queue grown
    if n <= q.cap - q.end:
        return queue_add(q, src, n)
    memset(&grown, 0, sizeof(Queue))
    if (used and queue_add(&grown, q.data + q.start, used) < 0) or (
        queue_add(&grown, src, n) < 0
    ):
        queue_reset(&grown)
        return -1
    if used:
        queue_wipe(q, used)
    q[0] = grown
    return 0


cdef void queue_shrink(Queue *q) noexcept nogil:
    """Move what a queue holds, which is something, into a block of just that size."""
    global bytes_at_rest
    cdef size_t used = q.end - q.start
    cdef uint8_t *data
    memmove(q.data, q.data + q.start, used)
    q.start = 0
    q.end = <uint32_t> used
    data = <uint8_t *> realloc(q.data, used)
    if data != NULL:
        bytes_at_rest -= <ssize_t> q.cap - <ssize_t> used
        q.data = data
        q.cap = <uint32_t> used


cdef int queue_replace(Queue *q, const uint8_t *src, size_t n) noexcept nogil:
    """``queue_keep``, where there is or was something."""
    if q.data != NULL and q.data <= src <= q.data + q.end:
        queue_drop(q, <size_t> (src - q.data) - q.start)
        return 0
    queue_reset(q)
    return queue_add(q, src, n) if n else 0


cdef uint8_t *output_room(Output *o, size_t n) noexcept nogil:
    """Room for n bytes that follow what is there; they count as appended.

    NULL when there is no memory, or they would be more than OUTPUT_MAX_BYTES: the
    output is then marked failed.
    """
    cdef size_t want = o.n + n
    cdef uint8_t *grown
    cdef bint inside = o.n != 0 and o.data == o.scratch
    if want > OUTPUT_MAX_BYTES:
        o.failed = True
        return NULL
    if want > o.cap:
        want = want * 2 if want > 65536 else 65536
        grown = <uint8_t *> realloc(o.scratch, want)
        if grown == NULL:
            o.failed = True
            return NULL
        o.scratch = grown
        o.cap = want
    if not inside and o.n:
        memcpy(o.scratch, o.data, o.n)
    o.data = o.scratch
    o.n += n
    return o.scratch + o.n - n


cdef void output_join(Output *o, const uint8_t *src, size_t n) noexcept nogil:
    """Append bytes that do not follow what is there: copies both."""
    cdef uint8_t *room = output_room(o, n)
    if room != NULL:
        memcpy(room, src, n)
