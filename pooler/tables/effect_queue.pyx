# SPDX-License-Identifier: MIT
"""Growth of the queue; see ``effect_queue.pxd``."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cdef enum:
    FIRST_EFFECTS = 32  # a power of two


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
