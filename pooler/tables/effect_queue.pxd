# SPDX-License-Identifier: MIT
"""What outstanding requests do to the maps of prepared statements, as a queue.

Sans-IO, hot.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from pooler.tables.client_names cimport ClientStatement
from pooler.tables.query_names cimport QueryNames
from pooler.tables.texts cimport Statement

cdef enum EffectFlag:
    EFFECT_ADDS_NAME = 1  # entry: borrow, in the client's map
    EFFECT_DROPS_NAME = 2  # entry: own, taken out of it
    EFFECT_DUPLICATE = 4  # entry: own, a name that was taken; an error is due
    EFFECT_REFUSED = 8  # made to fail; the error is replaced by ours
    EFFECT_UNNAMED = 16  # changes the client's unnamed statement
    EFFECT_FAILED = 32  # of a Query: it has answered with an error
    EFFECT_DESCRIBES = 64  # installed is being described; entry: borrow, or NULL
    EFFECT_STREAMS = 128  # of a PREPARE whose text is coming; nothing else is set yet
    EFFECT_EXECUTES = 256  # of one EXECUTE of what is there; of a Query, entry: borrow
    EFFECT_FORGETS = 1024  # entry: own, a list of all names that the client had
    EFFECT_STANDS_IN = 512  # the server gets another text under the name of installed
    EFFECT_NOTICES = 2048  # of a Parse of ours: the client is told its notices
    EFFECT_LIMITED = 4096  # a name that it finds taken is one too many: so is the error
    EFFECT_TELLS_TYPES = 8192  # of a Describe of an EXECUTE, not of a portal with one

cdef struct Effect:  # of a request, taken back if PostgreSQL never carries it out
    Statement *installed  # own: one reference
    Statement *removed
    Statement *unnamed_before
    uint64_t born_before  # of it
    ClientStatement *entry
    ClientStatement *called  # own: of what the client's name in SQL is not the server's
    uint64_t portal  # of a Close: the number of the portal; 0: it was not noted
    QueryNames *query  # own: of a Query with several commands; NULL: of any other
    uint16_t flags
    uint8_t refusal  # Refusal
    uint32_t moved_from  # of its text: characters behind this were moved by so many
    int32_t moved_by

cdef struct EffectQueue:  # one for each request with request_has_effect
    Effect *ring  # own
    uint32_t mask
    uint32_t head
    uint32_t tail

cdef int effects_grow(EffectQueue *q) noexcept nogil


cdef inline Effect *effects_at(EffectQueue *q, uint32_t i) noexcept nogil:
    return &q.ring[i & q.mask]


cdef inline Effect *effects_push(EffectQueue *q) noexcept nogil:
    """A new, empty effect behind all others; NULL without memory."""
    cdef Effect *effect
    if (q.ring == NULL or q.tail - q.head > q.mask) and effects_grow(q) < 0:
        return NULL
    effect = effects_at(q, q.tail)
    q.tail += 1
    memset(effect, 0, sizeof(Effect))
    return effect
