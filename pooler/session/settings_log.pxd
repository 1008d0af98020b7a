# SPDX-License-Identifier: MIT
"""What a client has set in its session beyond what follows it: commands to run again.

Layer session, sans-IO, hot. Writes ``ClientSession.settings``. The commands stand in
the order in which they were carried out, each with a terminator, so that running them
on a fresh server brings back what they have set, unless ``partial`` says that something
else has changed as well. Only clients that SET something have a log.

Source: PostgreSQL documentation, "SET".
"""

from libc.stdint cimport uint8_t

from pooler.session.records cimport ClientSession
from pooler.wire.buffers cimport queue_add, queue_reset, queue_size

cdef enum:
    SETTINGS_MAX_BYTES = 4096  # of one client; what would be more makes it partial


cdef inline void settings_unknown(ClientSession *c) noexcept nogil:
    """Something changes that no text here would bring back."""
    c.settings.partial = True


cdef inline void settings_sent(
    ClientSession *c, const uint8_t *text, size_t n
) noexcept nogil:
    """A SET goes out: text[0:n), borrowed."""
    if (
        queue_size(&c.settings.texts) + n + 1 > SETTINGS_MAX_BYTES
        or queue_add(&c.settings.texts, text, n) < 0
        or queue_add(&c.settings.texts, <const uint8_t *> b"\0", 1) < 0
    ):
        settings_unknown(c)


cdef inline void settings_answered(ClientSession *c, bint done) noexcept nogil:
    """What was sent is carried out for good; or some of it failed or was rolled back.

    Then nobody knows which: none of it is kept.
    """
    cdef size_t n = queue_size(&c.settings.texts)
    if n == c.settings.sure_bytes:
        return
    if done:
        c.settings.sure_bytes = n
        return
    c.settings.partial = True
    if c.settings.sure_bytes == 0:
        queue_reset(&c.settings.texts)
    else:
        c.settings.texts.end = c.settings.texts.start + c.settings.sure_bytes


cdef inline void settings_forgotten(ClientSession *c) noexcept nogil:
    """DISCARD ALL, or the end of the client."""
    queue_reset(&c.settings.texts)
    c.settings.sure_bytes = 0
    c.settings.partial = False
