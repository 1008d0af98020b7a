# SPDX-License-Identifier: MIT
"""Fill the scanner's rule arrays from ``messages.py``; write and read a few bodies."""

from libc.string cimport memcmp, memchr, strlen

from pooler.wire.messages import MESSAGES, Phase, Sender
from pooler.wire.messages import Action as MessageAction


if {f"ACTION_{row.name}": int(row) for row in MessageAction} != {
    row.name: int(row) for row in Action if row.name != "ACTIONS"
}:
    raise ImportError("messages.Action and _wire.Action differ")


cdef void set_rule(Rule *rule, object row, object action) except *:
    rule.min_length = row.min_length
    rule.max_length = row.max_length
    rule.action = action
    rule.ends = ord(row.ends) if row.ends else 0
    rule.whole = row.whole


cdef void fill_rules() except *:
    cdef int code
    cdef Rule none
    none.min_length = 0xFFFFFFFF  # no length is right
    none.max_length = 0
    none.action = ACTION_PASS
    none.ends = 0
    none.whole = False
    for code in range(256):
        CLIENT_RULES[code] = LONE_CLIENT_RULES[code] = none
        SERVER_RULES[code] = none
        IDLE_SERVER_RULES[code] = none
    for row in MESSAGES:
        if row.sender is Sender.CLIENT and row.phase & Phase.READY:
            set_rule(&CLIENT_RULES[<int> row.byte], row, row.action)
            set_rule(&LONE_CLIENT_RULES[<int> row.byte], row, row.without_server)
        if row.sender is Sender.SERVER and row.phase & Phase.READY:
            set_rule(&SERVER_RULES[<int> row.byte], row, row.action)
        if row.sender is Sender.SERVER and row.phase & Phase.ASYNC:
            set_rule(&IDLE_SERVER_RULES[<int> row.byte], row, row.action)

fill_rules()


cdef int limit_rules(uint32_t max_length) except -1:
    """Fill the rules again, no message being longer than this (``max_packet_size``)."""
    cdef int code
    fill_rules()
    for code in range(256):
        CLIENT_RULES[code].max_length = min(CLIENT_RULES[code].max_length, max_length)
        LONE_CLIENT_RULES[code].max_length = CLIENT_RULES[code].max_length
        SERVER_RULES[code].max_length = min(SERVER_RULES[code].max_length, max_length)
    return 0


cdef size_t error_response_bytes(const char *text) noexcept nogil:
    """Room that ``put_error_response`` needs for this text."""
    return 48 + strlen(text)


cdef size_t put_error_response(
    uint8_t *p, const char *severity, const char *sqlstate, const char *text
) noexcept nogil:
    """Write ErrorResponse with fields S, V, C, M; returns its size.

    In:      p has room for error_response_bytes(text); severity <= 8 bytes
    Source:  "Error and Notice Message Fields"
    """
    cdef size_t n = HEADER_BYTES
    p[n] = c"S"
    n += 1 + put_cstring(p + n + 1, severity, strlen(severity))
    p[n] = c"V"
    n += 1 + put_cstring(p + n + 1, severity, strlen(severity))
    p[n] = c"C"
    n += 1 + put_cstring(p + n + 1, sqlstate, strlen(sqlstate))
    p[n] = c"M"
    n += 1 + put_cstring(p + n + 1, text, strlen(text))
    p[n] = 0
    n += 1
    put_header(p, c"E", <uint32_t> (n - 1))
    return n


cdef bint error_is_fatal(const uint8_t *body, size_t n) noexcept nogil:
    """Whether an ErrorResponse body says that its sender closes the connection.

    Looks for field V, which unlike S is never translated (PostgreSQL 9.6 on).
    A body that is cut or malformed counts as not fatal.
    """
    cdef size_t at = 0
    cdef const uint8_t *end
    while at < n and body[at] != 0:
        end = <const uint8_t *> memchr(body + at, 0, n - at)
        if end == NULL:
            return False
        if body[at] == c"V":  # both words have five letters
            return end - body - at == 6 and (
                memcmp(body + at + 1, b"FATAL", 5) == 0
                or memcmp(body + at + 1, b"PANIC", 5) == 0
            )
        at = <size_t> (end - body) + 1
    return False
