# SPDX-License-Identifier: MIT
"""The wheel; see ``deadlines.pxd``."""

cdef extern from *:
    int ctz "__builtin_ctzll"(uint64_t value) nogil

cdef enum:
    HORIZON_TICKS = 1 << (LEVEL_BITS * LEVELS)


cdef void timer_init(
    Timer *t, Wheel *w, void *session, bint is_server
) noexcept nogil:
    """A timer whose memory is zero, of a connection that begins."""
    t.wheel = w
    t.session = session
    t.is_server = is_server


cdef void unlink(Timer *t) noexcept nogil:
    if t.link == NULL:
        return
    t.link[0] = t.next
    if t.next != NULL:
        t.next.link = t.link
    t.next = NULL
    t.link = NULL
    t.wheel.count -= 1


cdef void link_to(Timer **head, Timer *t) noexcept nogil:
    t.next = head[0]
    if t.next != NULL:
        t.next.link = &t.next
    head[0] = t
    t.link = head
    t.wheel.count += 1


cdef void timer_end(Timer *t) noexcept nogil:
    """Its connection is gone; harmless for one that never began."""
    unlink(t)


cdef void place(Timer *t) noexcept nogil:
    """Into the slot of its tick, which has not come up yet."""
    cdef Wheel *w = t.wheel
    cdef uint64_t tick = t.tick
    cdef uint64_t distance = tick - w.tick
    cdef int level = 0
    if distance >= HORIZON_TICKS:  # it will be placed again when that comes up
        tick = w.tick + HORIZON_TICKS - 1
        distance = HORIZON_TICKS - 1
    while distance >= LEVEL_SLOTS:
        distance >>= LEVEL_BITS
        level += 1
    tick = (tick >> (LEVEL_BITS * level)) & (LEVEL_SLOTS - 1)
    link_to(&w.slots[level][tick], t)
    if level == 0:
        w.occupied |= <uint64_t> 1 << tick


cdef void wheel_insert(Timer *t, uint64_t due_us) noexcept nogil:
    """Have a timer come up at a time, or at the next tick when that is over."""
    cdef Wheel *w = t.wheel
    unlink(t)
    if w.count == 0 and w.tick < w.now_us >> TICK_BITS:
        w.tick = w.now_us >> TICK_BITS
    t.tick = (due_us >> TICK_BITS) + 1
    if t.tick <= w.tick:
        t.tick = w.tick + 1
    place(t)


cdef void cascade(Wheel *w, int level) noexcept nogil:
    """The slot of a level that begins now: its timers go to the levels below."""
    cdef uint64_t slot = (w.tick >> (LEVEL_BITS * level)) & (LEVEL_SLOTS - 1)
    cdef Timer *moved = NULL
    cdef Timer *t
    if slot == 0 and level + 1 < LEVELS:
        cascade(w, level + 1)
    while w.slots[level][slot] != NULL:
        t = w.slots[level][slot]
        unlink(t)
        link_to(&moved, t)
    while moved != NULL:
        t = moved
        unlink(t)
        if t.tick <= w.tick:
            link_to(&w.expired, t)
        else:
            place(t)


cdef void advance(Wheel *w) noexcept nogil:
    """Let everything come up that is due by now."""
    cdef uint64_t now_tick = w.now_us >> TICK_BITS
    cdef uint64_t slot
    cdef Timer *t
    while w.tick < now_tick:
        if w.count == 0:
            w.tick = now_tick
            w.occupied = 0
            return
        w.tick += 1
        slot = w.tick & (LEVEL_SLOTS - 1)
        if slot == 0:
            cascade(w, 1)
        w.occupied &= ~(<uint64_t> 1 << slot)
        while w.slots[0][slot] != NULL:
            t = w.slots[0][slot]
            unlink(t)
            link_to(&w.expired, t)


cdef uint64_t first_due_us(const Timer *t, uint8_t *kind) noexcept nogil:
    """The earliest of its deadlines, and which; 0: none is running."""
    cdef uint64_t first_us = 0
    cdef uint8_t k
    for k in range(DEADLINES_OF_ONE):
        if t.due_us[k] and (first_us == 0 or t.due_us[k] < first_us):
            first_us = t.due_us[k]
            kind[0] = k
    return first_us


cdef void put_back(Timer *t) noexcept nogil:
    """A timer that has come up waits for what is still running."""
    cdef uint8_t kind
    cdef uint64_t first_us = first_due_us(t, &kind)
    if first_us == 0:
        return
    if first_us <= t.wheel.now_us:
        link_to(&t.wheel.expired, t)
    else:
        wheel_insert(t, first_us)


cdef Timer *wheel_pop(Wheel *w, uint8_t *kind) noexcept nogil:
    """The next timer of which a deadline has passed, and which; NULL: no more."""
    cdef Timer *t
    cdef uint64_t first_us
    advance(w)
    while w.expired != NULL:
        t = w.expired
        unlink(t)
        first_us = first_due_us(t, kind)
        if first_us == 0 or first_us > w.now_us:
            put_back(t)
            continue
        t.due_us[kind[0]] = 0
        put_back(t)
        return t
    return NULL


cdef uint64_t wheel_wake_us(const Wheel *w) noexcept nogil:
    """When ``wheel_pop`` may have something to do; -1 (the largest) for never."""
    cdef uint64_t next_tick
    cdef uint64_t bits
    cdef uint64_t slot
    if w.count == 0:
        return <uint64_t> -1
    next_tick = w.tick + 1
    slot = next_tick & (LEVEL_SLOTS - 1)
    bits = w.occupied >> slot
    if bits:
        next_tick += ctz(bits)
    else:  # the next cascade
        next_tick += (LEVEL_SLOTS - slot) & (LEVEL_SLOTS - 1)
    return next_tick << TICK_BITS
