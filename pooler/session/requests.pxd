# SPDX-License-Identifier: MIT
"""The queue of outstanding requests of a server.

Layer session, sans-IO, hot. It holds the code of every client message that PostgreSQL
has still to answer, oldest first. REQUEST_SKIP marks a request of ours: its answers do
not reach the client. REQUEST_FAKE marks a Parse or Close that PostgreSQL never sees:
its answer is made when it is its turn.

Source: PostgreSQL documentation, "Message Flow" (Extended Query, Pipelining, COPY
Operations).
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t

cdef enum:
    REQUEST_SKIP = 0x80  # or-ed to the message code
    REQUEST_FAKE = 0x20  # or-ed to the code of Parse or Close
    REQUEST_SQL = 0x71  # "q": a Query whose SQL prepares or deallocates; has an effect
    REQUEST_DESCRIBE = 0x64  # "d": a Describe whose answer is noted; has an effect
    REQUEST_NAMES = 0x65  # "e": an Execute that prepares or deallocates; has an effect
    REQUEST_ALIGN = 0xC1  # "A", skipped: our SET in front of a client's message
    REQUEST_COPY_END = 0x59  # "Y": CopyDone or CopyFail
    REQUESTS_INLINE = 32  # a power of two
    REQUESTS_MAX = 0x1000000  # outstanding requests of one server

cdef struct RequestQueue:
    uint8_t *grown  # own: NULL while the inline ring is enough
    uint32_t mask  # size of the ring - 1; a power of two minus one
    uint32_t head
    uint32_t tail  # head == tail: empty; both run on without wrapping to 0
    uint32_t closing_count  # of these, what ReadyForQuery answers, our SETs excepted
    uint32_t closing_total  # all there ever were
    uint8_t inline_ring[REQUESTS_INLINE]

cdef extern from *:
    """
    /* What is true of a request, by its code; 128 is REQUEST_SKIP. */
    enum { CLOSES = 1, IS_QUERY = 2, IS_FAKE = 4, HAS_EFFECT = 8, IS_LOWERED = 16 };
    #define EITHER(code, bits) [code] = (bits), [(code) | 128] = (bits)
    static const unsigned char REQUEST_BITS[256] __attribute__((unused)) = {
        EITHER('S', CLOSES), EITHER('F', CLOSES),
        ['Q'] = CLOSES | IS_QUERY, ['Q' | 128] = CLOSES,
        ['q'] = CLOSES | IS_QUERY | HAS_EFFECT, ['q' | 128] = CLOSES | HAS_EFFECT,
        [0xC1] = CLOSES,  /* REQUEST_ALIGN */
        EITHER('P', HAS_EFFECT), EITHER('C', HAS_EFFECT),
        ['p'] = HAS_EFFECT | IS_FAKE, ['p' | 128] = HAS_EFFECT,
        ['c'] = HAS_EFFECT | IS_FAKE, ['c' | 128] = HAS_EFFECT,
        EITHER('d', HAS_EFFECT | IS_LOWERED), EITHER('e', HAS_EFFECT | IS_LOWERED),
    };
    #undef EITHER
    """
    enum:
        CLOSES
        IS_QUERY
        IS_FAKE
        HAS_EFFECT
        IS_LOWERED
    const uint8_t REQUEST_BITS[256]

cdef inline uint32_t requests_count(const RequestQueue *q) noexcept nogil:
    return q.tail - q.head


cdef inline uint8_t *requests_at(RequestQueue *q, uint32_t i) noexcept nogil:
    cdef uint8_t *ring = q.grown if q.grown != NULL else q.inline_ring
    return &ring[i & q.mask]


cdef inline uint8_t requests_first(RequestQueue *q) noexcept nogil:
    """Oldest outstanding request, 0 when there is none."""
    if q.head == q.tail:
        return 0
    return requests_at(q, q.head)[0]


cdef inline uint8_t requests_pop(RequestQueue *q) noexcept nogil:
    """The oldest request is answered; returns what is the oldest then, or 0.

    The end of a COPY behind it belonged to none, so PostgreSQL ignores it.
    """
    cdef uint8_t first
    while True:
        q.head += 1
        first = requests_first(q)
        if first != REQUEST_COPY_END:
            return first


cdef inline bint request_closes(uint8_t request) noexcept nogil:
    """Whether ReadyForQuery answers it, so that nothing stays open behind it."""
    return REQUEST_BITS[request] & CLOSES != 0


cdef inline bint request_is_query(uint8_t request) noexcept nogil:
    """Whether it is a simple Query of the client."""
    return REQUEST_BITS[request] & IS_QUERY != 0


cdef inline bint request_is_fake(uint8_t request) noexcept nogil:
    return REQUEST_BITS[request] & IS_FAKE != 0


cdef inline bint request_has_effect(uint8_t request) noexcept nogil:
    """Whether it has a row in ServerSession.effects, if the server is tracked."""
    return REQUEST_BITS[request] & HAS_EFFECT != 0


cdef inline bint request_is_simple(uint8_t request) noexcept nogil:
    """Whether its answer ends it, and means nothing else."""
    return REQUEST_BITS[request] & (IS_FAKE | IS_QUERY | HAS_EFFECT | CLOSES) == 0


cdef inline uint8_t request_code(uint8_t request) noexcept nogil:
    """The code of the message that PostgreSQL answers."""
    cdef uint8_t code = request & ~<uint8_t> REQUEST_SKIP
    if REQUEST_BITS[request] & IS_LOWERED:
        return code & ~<uint8_t> 0x20
    return code


cdef inline uint8_t requests_last(RequestQueue *q) noexcept nogil:
    """Newest outstanding request that is not the end of a COPY, 0 if there is none."""
    cdef uint32_t at = q.tail
    while at != q.head:
        at -= 1
        if requests_at(q, at)[0] != REQUEST_COPY_END:
            return requests_at(q, at)[0] & ~REQUEST_SKIP
    return 0

cdef int requests_grow(RequestQueue *q) noexcept nogil
cdef bint requests_may_skip(RequestQueue *q) noexcept nogil


cdef inline int requests_push(RequestQueue *q, uint8_t code) noexcept nogil:
    """-1 when there are REQUESTS_MAX already, or no memory."""
    if q.tail - q.head > q.mask and requests_grow(q) < 0:
        return -1
    requests_at(q, q.tail)[0] = code
    q.tail += 1
    if request_closes(code) and code != REQUEST_ALIGN:
        q.closing_count += 1
        q.closing_total += 1
    return 0


cdef inline uint32_t batch_number(const RequestQueue *q) noexcept nogil:
    """Number of the batch that the next request belongs to, never 0."""
    return q.closing_total + 1


cdef inline uint32_t batch_answered(const RequestQueue *q) noexcept nogil:
    """Number of the batch that PostgreSQL is at."""
    return q.closing_total - q.closing_count + 1


cdef inline bint batch_unsettled(const RequestQueue *q, uint32_t batch) noexcept nogil:
    """Whether this is an earlier batch that is not answered yet; 0 is none."""
    return (
        batch != 0 and batch != batch_number(q)
        and <int32_t> (batch - batch_answered(q)) >= 0
    )

cdef void requests_init(RequestQueue *q) noexcept nogil
cdef void requests_free(RequestQueue *q) noexcept nogil
cdef void requests_ready_any(RequestQueue *q, uint32_t *effects) noexcept nogil


cdef inline void requests_ready(RequestQueue *q, uint32_t *effects) noexcept nogil:
    """ReadyForQuery: settle everything up to the request that it answers.

    ``effects`` becomes the number of settled requests that may have one.
    """
    cdef uint8_t request = requests_first(q)
    if q.tail - q.head != 1 or q.grown != NULL:
        requests_ready_any(q, effects)
        return
    effects[0] = request_has_effect(request)
    q.head += 1
    if request_closes(request):
        q.closing_count -= request != REQUEST_ALIGN

cdef bint requests_fail(RequestQueue *q, uint32_t *effects) noexcept nogil
cdef bint requests_copy_in(RequestQueue *q, bint *syncs_ignored) noexcept nogil
