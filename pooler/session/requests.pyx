# SPDX-License-Identifier: MIT
"""The queue of outstanding requests; see ``requests.pxd``."""

from libc.stdlib cimport free, malloc
from libc.string cimport memset


cdef void requests_init(RequestQueue *q) noexcept nogil:
    memset(q, 0, sizeof(RequestQueue))
    q.mask = REQUESTS_INLINE - 1


cdef void requests_free(RequestQueue *q) noexcept nogil:
    free(q.grown)
    requests_init(q)


cdef int requests_grow(RequestQueue *q) noexcept nogil:
    cdef uint32_t size = q.mask + 1
    cdef uint32_t i
    cdef uint32_t n = q.tail - q.head
    cdef uint8_t *ring
    if size >= REQUESTS_MAX:
        return -1
    ring = <uint8_t *> malloc(size * 4)
    if ring == NULL:
        return -1
    for i in range(n):
        ring[(q.head + i) & (size * 4 - 1)] = requests_at(q, q.head + i)[0]
    free(q.grown)
    q.grown = ring
    q.mask = size * 4 - 1
    return 0


cdef bint requests_may_skip(RequestQueue *q) noexcept nogil:
    """Whether a request is outstanding that has PostgreSQL skip what is sent next.

    An extended message that fails does, up to a Sync. Cost: O(requests behind it)
    """
    cdef uint32_t at = q.tail
    cdef uint8_t request
    while at != q.head:
        at -= 1
        request = requests_at(q, at)[0]
        if request & ~<uint8_t> REQUEST_SKIP == c"S":
            return False
        if not (
            request_closes(request) or request_is_fake(request)
            or request == REQUEST_COPY_END
        ):
            return True
    return False


cdef void requests_ready_any(RequestQueue *q, uint32_t *effects) noexcept nogil:
    """``requests_ready``, whatever there is."""
    cdef uint8_t request = requests_first(q)
    cdef uint8_t following
    effects[0] = 0
    while q.head != q.tail:
        effects[0] += request_has_effect(request)
        following = requests_pop(q)
        if request_closes(request):
            q.closing_count -= request != REQUEST_ALIGN
            break
        request = following
    if q.head == q.tail and q.grown != NULL:  # the numbers of its batches go on
        free(q.grown)
        q.grown = NULL
        q.mask = REQUESTS_INLINE - 1


cdef bint requests_fail(RequestQueue *q, uint32_t *effects) noexcept nogil:
    """ErrorResponse: PostgreSQL skips to the next Sync after a failed extended message.

    Returns True when that Sync was not sent yet, so whatever comes before it will
    be skipped as well. A failed simple Query or FunctionCall skips nothing.
    ``effects`` becomes the number of skipped requests that may have one.
    """
    cdef uint8_t request = requests_first(q)
    effects[0] = 0
    if request == 0 or (request_closes(request) and request & 0x7F != c"S"):
        return False
    while q.head != q.tail:
        request = requests_at(q, q.head)[0]
        if request & ~<uint8_t> REQUEST_SKIP == c"S":
            return False
        effects[0] += request_has_effect(request)
        if request_closes(request) and request != REQUEST_ALIGN:
            q.closing_count -= 1  # a Query that was skipped as well
        q.head += 1
    return True


cdef bint requests_copy_in(RequestQueue *q, bint *syncs_ignored) noexcept nogil:
    """CopyInResponse: forget what PostgreSQL ignores until the COPY ends.

    Syncs that were sent behind the COPY and before its CopyDone / CopyFail get no
    answer, unless the COPY fails before it has come to them. Returns True when the
    client has still to end the COPY.
    """
    cdef uint32_t at = q.head
    cdef uint32_t kept = q.head
    cdef uint8_t code
    cdef bint open = True
    while at != q.tail:
        code = requests_at(q, at)[0]
        at += 1
        if open and kept != q.head:
            if code == REQUEST_COPY_END:
                open = False
                continue
            if code & ~REQUEST_SKIP == c"S":
                syncs_ignored[0] = True
                q.closing_count -= 1
                continue
        requests_at(q, kept)[0] = code
        kept += 1
    q.tail = kept
    return open
