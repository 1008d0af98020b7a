# SPDX-License-Identifier: MIT
"""The least loaded worker; see ``spread.pxd``."""

from libc.stdint cimport uint64_t

from pooler.io.conn cimport Spread
from pooler.io.syscalls cimport sys_pass_fd

cdef enum:
    # A worker whose heart, which beats three times a second, was still for so long gets
    # no sockets of others.
    FRESH_US = 1500000

cdef extern from *:
    """
    #include <stdint.h>
    static void pooler_atomic_add(uint64_t *cell, uint64_t amount)
    {
        __atomic_fetch_add(cell, amount, __ATOMIC_RELAXED);
    }
    """
    void atomic_add "pooler_atomic_add"(uint64_t *cell, uint64_t amount) nogil


cdef inline bint is_open(const Spread *sp, size_t at, uint64_t now_us) noexcept nogil:
    """Whether the worker of this row takes clients."""
    return sp.serves[at] != 0 and sp.heartbeats_us[at] + FRESH_US > now_us


cdef int spread_target(const Loop *L) noexcept nogil:
    """The worker that shall have the next client; -1: this one keeps it.

    It is passed on if with it this worker had more than 1.25 x the mean + 2. Cost:
    O(workers).
    """
    cdef const Spread *sp = &L.spread
    cdef uint64_t own = 0
    cdef uint64_t total = 1  # the client that it is about
    cdef uint64_t least = <uint64_t> -1
    cdef uint64_t load
    cdef uint64_t count = 0
    cdef int target = -1
    cdef int i
    cdef size_t at
    if not sp.on:
        return -1
    for i in range(sp.workers_count):
        at = i * sp.stride
        if i != sp.slot and not is_open(sp, at, L.relay.now_us):
            continue
        load = sp.connections[at] + sp.coming[at]
        total += load
        count += 1
        if i == sp.slot:
            own = load + 1
        elif load < least:
            least = load
            target = i
    return target if own * count * 4 > total * 5 + count * 8 else -1


cdef bint spread_pass(Loop *L, int target, int fd) noexcept nogil:
    """Put a socket into the door of another worker; False: it is still the caller's.

    The caller closes its own descriptor. It is counted first: should this worker die
    in between, the target seems to have one more until its door is empty again.
    """
    cdef Spread *sp = &L.spread
    cdef uint64_t *coming = sp.coming + target * sp.stride
    atomic_add(coming, 1)
    if sys_pass_fd(sp.doors[target], fd) < 0:
        atomic_add(coming, <uint64_t> -1)
        return False
    L.counters.passed += 1
    return True


cdef void spread_arrived(uint64_t *coming) noexcept nogil:
    """A door is empty: nothing is on its way. What is sent just now is soon seen."""
    if coming[0]:
        coming[0] = 0


cdef void spread_count(Loop *L) noexcept nogil:
    """Show on the board how many clients are connected here."""
    if L.spread.connections != NULL:
        L.spread.connections[L.spread.slot * L.spread.stride] = L.client_count
