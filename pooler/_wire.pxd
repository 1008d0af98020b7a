# SPDX-License-Identifier: MIT
"""Framing: walk messages in bytes that arrived, write the few that we send ourselves.

Wire layer, sans-IO, hot. The scanner never copies and never looks past the
header of a message that nobody asked about: cost per message, not per byte.
Between two reads it remembers only how much of a body is still to come; a header
or a WHOLE message that is cut by the end of the read is given back to be held.

Source: PostgreSQL documentation, "Message Formats", "Message Flow".
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

cdef enum:
    HEADER_BYTES = 5  # type byte and length
    LENGTH_BYTES = 4  # the length counts itself
    HELD_MOST_BYTES = 65536  # of a message that is held until it is complete

cpdef enum Action:  # messages.Action, in its order
    ACTION_PASS
    ACTION_REQUEST
    ACTION_NAMED_REQUEST
    ACTION_FLUSH
    ACTION_COPY_END
    ACTION_TERMINATE
    ACTION_ATTACH
    ACTION_ATTACH_UNLESS_KNOWN
    ACTION_DROP
    ACTION_READY
    ACTION_ENDS
    ACTION_ROWS
    ACTION_TAG
    ACTION_PARAMETER_TYPES
    ACTION_ERROR
    ACTION_PARAMETER
    ACTION_COPY_IN
    ACTION_FUNCTION_CALL
    ACTIONS

cdef enum ScanStatus:
    SCAN_END = 0  # every byte belongs to a message seen so far
    SCAN_MESSAGE = 1  # a message that has an action; the scan stands behind it
    SCAN_HOLD = 2  # the bytes from pos on cannot be judged before more arrive
    SCAN_EPROTO = 3  # no such message here, or a length outside its row

cdef struct Rule:
    uint32_t min_length
    uint32_t max_length
    uint8_t action
    uint8_t ends
    bint whole

cdef struct ScanState:  # what one direction of a connection remembers
    uint32_t body_left

cdef struct Found:
    size_t start  # offset of the type byte
    uint32_t length  # as on the wire
    uint8_t code
    uint8_t action
    uint8_t ends

cdef Rule CLIENT_RULES[256]  # what a client that has a server may send
cdef Rule LONE_CLIENT_RULES[256]  # what one that has none may send
cdef Rule SERVER_RULES[256]
cdef Rule IDLE_SERVER_RULES[256]  # what a server may send that nobody asked


cdef inline uint32_t load_be32(const uint8_t *p) noexcept nogil:
    return (
        (<uint32_t> p[0] << 24)
        | (<uint32_t> p[1] << 16)
        | (<uint32_t> p[2] << 8)
        | <uint32_t> p[3]
    )


cdef inline void store_be32(uint8_t *p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t> (value >> 24)
    p[1] = <uint8_t> (value >> 16)
    p[2] = <uint8_t> (value >> 8)
    p[3] = <uint8_t> value


cdef inline ScanStatus scan_next(
    ScanState *st, const Rule *rules, const uint8_t *src, size_t n, size_t *pos,
    Found *found,
) noexcept nogil:
    """Go to the next message that has an action, passing over all others.

    In:      src[0:n) borrowed for this call; *pos <= n is where to go on
    Out:     SCAN_MESSAGE: found is filled, *pos is behind the part that is here;
             SCAN_HOLD: *pos is the first byte to keep; SCAN_END: *pos == n
    Errors:  SCAN_EPROTO: *pos and found.start are at the bad header
    Cost:    O(messages passed), no allocation
    Source:  "Message Formats"
    """
    cdef size_t at = pos[0]
    cdef size_t left
    cdef uint32_t length
    cdef const Rule *rule
    if st.body_left:
        left = n - at
        if st.body_left >= left:
            st.body_left -= <uint32_t> left
            pos[0] = n
            return SCAN_END
        at += st.body_left
        st.body_left = 0
    while True:
        left = n - at
        if left < HEADER_BYTES:
            pos[0] = at
            return SCAN_END if left == 0 else SCAN_HOLD
        length = load_be32(src + at + 1)
        rule = &rules[src[at]]
        if length < rule.min_length or length > rule.max_length:
            pos[0] = at
            found.start = at
            found.code = src[at]
            found.length = length
            return SCAN_EPROTO
        if rule.action:
            break
        # length <= 2**31 - 1 here, so the sums below cannot overflow size_t
        if left <= length:
            st.body_left = <uint32_t> (length + 1 - left)
            pos[0] = n
            return SCAN_END
        at += <size_t> length + 1
    found.start = at
    found.code = src[at]
    found.length = length
    found.action = rule.action
    found.ends = rule.ends
    if left <= length:
        if rule.whole:
            pos[0] = at
            return SCAN_HOLD
        st.body_left = <uint32_t> (length + 1 - left)
        pos[0] = n
    else:
        pos[0] = at + <size_t> length + 1
    return SCAN_MESSAGE


cdef inline void scan_undo(ScanState *st) noexcept nogil:
    """Forget the message just found: the caller keeps its bytes for later."""
    st.body_left = 0


cdef inline size_t put_header(uint8_t *p, uint8_t code, uint32_t length) noexcept nogil:
    p[0] = code
    store_be32(p + 1, length)
    return HEADER_BYTES


cdef inline size_t put_cstring(uint8_t *p, const char *text, size_t n) noexcept nogil:
    memcpy(p, text, n)
    p[n] = 0
    return n + 1

cdef int limit_rules(uint32_t max_length) except -1
cdef size_t error_response_bytes(const char *text) noexcept nogil
cdef size_t put_error_response(
    uint8_t *p, const char *severity, const char *sqlstate, const char *text
) noexcept nogil
cdef bint error_is_fatal(const uint8_t *body, size_t n) noexcept nogil
