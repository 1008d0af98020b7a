# SPDX-License-Identifier: MIT
"""Growth of the queue; see ``effect_queue.pxd``."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc

cdef enum:
    FIRST_EFFECTS = 32  # a power of two


cdef int effects_grow(EffectQueue *q) noexcept nogil:
    """Room for more effects; -1 without memory."""
    cdef uint32_t size = FIRST_EFFECTS if q.ring == NULL else (q.mask + 1) * 2
    cdef uint32_t i
    cdef Effect *ring = <Effect *> malloc(size * sizeof(Effect))
    if ring == NULL:
        return -1
    for i in range(q.tail - q.head):
        ring[(q.head + i) & (size - 1)] = q.ring[(q.head + i) & q.mask]
    free(q.ring)
    q.ring = ring
    q.mask = size - 1
    return 0
