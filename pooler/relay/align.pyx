# SPDX-License-Identifier: MIT
"""Parameters follow the client; see ``align.pxd``."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memchr, memcmp

from pooler.relay.cancels cimport cancel_if_late
from pooler.relay.inquire cimport words_learned
from pooler.relay.shared cimport RELAY_ALIGN, RELAY_NO_MEMORY, RELAY_OK
from pooler.session.changes cimport (
    reset_may_fail, reset_seen, resets_go_on, resets_over, resets_reached,
)
from pooler.session.custom cimport custom_lacked, custom_put
from pooler.session.records cimport CHANGE_TRACKED
from pooler.session.requests cimport REQUEST_ALIGN, requests_first, requests_push
from pooler.tables.custom_names cimport custom_query_bytes, put_custom_query
from pooler.tables.params cimport (
    PARAM_VALUE_MAX, ParamValue, back_query_bytes, params_index, params_ref,
    params_unref, params_with, put_back_query, put_set_query, set_query_bytes,
)
from pooler.wire.buffers cimport output_room
from pooler._wire cimport HEADER_BYTES, put_cstring, put_header


cdef void client_params_begin(ClientSession *c, ParamSet *values) noexcept nogil:
    """What a client has asked for at its login; takes the caller's reference."""
    c.params = values
    c.asked = params_ref(values)


cdef void client_params_end(Relay *r, ClientSession *c) noexcept nogil:
    params_unref(&r.params, c.params)
    params_unref(&r.params, c.asked)
    c.params = c.asked = NULL


cdef void server_params_begin(ServerSession *s, ParamSet *values) noexcept nogil:
    """What a server has reported at its login; takes the caller's reference."""
    s.params = values
    s.defaults = params_ref(values)


cdef void server_params_go_on(
    ServerSession *s, ParamSet *defaults, ParamSet *values
) noexcept nogil:
    """As above, of a server from another worker; takes both references."""
    s.params = values
    s.defaults = defaults


cdef void server_params_end(Relay *r, ServerSession *s) noexcept nogil:
    params_unref(&r.params, s.params)
    params_unref(&r.params, s.defaults)
    s.params = s.defaults = NULL


cdef void stop_aligning(ClientSession *c) noexcept nogil:
    """Its server is gone, or it is: nothing will answer."""
    c.aligning = c.in_doubt = False


cdef RelayStatus align_server(
    Relay *r, ClientSession *c, ServerSession *s
) noexcept nogil:
    """Give a server that was just attached the parameters its client expects.

    The SET travels in front of the client's message in the same send when a server
    of this pool has accepted these values before. Otherwise the message must wait:
    it may not run under values that the server is about to refuse.
    """
    cdef size_t n
    cdef uint8_t *room
    if c.params == s.params:
        return RELAY_OK
    n = set_query_bytes(&r.params, c.params)
    room = output_room(&r.to_server, n)
    if room == NULL:
        return RELAY_NO_MEMORY
    r.to_server.n -= n
    n = put_set_query(room, &r.params, c.params, s.params)
    r.to_server.n += n
    if n == 0:  # the client has no opinion on what differs
        params_unref(&r.params, c.params)
        c.params = params_ref(s.params)
        return RELAY_OK
    if requests_push(&s.requests, REQUEST_ALIGN) < 0:
        return RELAY_NO_MEMORY
    if c.params.verified_by != c.pool:
        c.aligning = True
        return RELAY_ALIGN
    return RELAY_OK


cdef int make_custom(Relay *r, ServerSession *s) noexcept nogil:
    """A server was just attached that lacks parameters which its client has made up on
    others: it makes them in front of the first message. -1 without memory.
    """
    cdef uint64_t names = custom_lacked(s)
    cdef size_t n
    cdef uint8_t *room
    n = custom_query_bytes(r.params.custom, names)
    room = output_room(&r.to_server, n)
    if room == NULL:
        return -1
    put_custom_query(room, r.params.custom, names)
    custom_put(s, names)
    return requests_push(&s.requests, REQUEST_ALIGN)


cdef void tell_parameter(
    Relay *r, int index, const ParamSet *values
) noexcept nogil:
    """Put a ParameterStatus into the client's stream."""
    cdef uint32_t name_n = r.params.name_n[index]
    cdef uint32_t value_n = values.value[index].n
    cdef size_t n = HEADER_BYTES + name_n + 1 + value_n + 1
    cdef uint8_t *room = output_room(&r.to_client, n)
    if room == NULL:
        return
    room += put_header(room, c"S", <uint32_t> (n - 1))
    room += put_cstring(room, r.params.name[index], name_n)
    put_cstring(room, <const char *> values.value[index].text, value_n)


cdef void server_aligned(Relay *r, ServerSession *s, ClientSession *c) noexcept nogil:
    """The server has accepted the client's parameters.

    It may have put a value into its own words (``ISO`` becomes ``ISO, MDY``). The
    client takes these over and is told, else every transaction would SET again.
    """
    cdef int i
    c.params.verified_by = s.pool
    s.params.verified_by = s.pool
    if c.params != s.params:
        for i in range(r.params.count):
            if s.params.value[i] != NULL and c.params.value[i] != s.params.value[i]:
                tell_parameter(r, i, s.params)
        params_unref(&r.params, c.params)
        c.params = params_ref(s.params)
    c.in_doubt = False
    if c.aligning:
        c.aligning = False
        r.resume = True
    if requests_first(&s.requests) != REQUEST_ALIGN:
        cancel_if_late(r, s)


cdef void note_words(Relay *r, ServerSession *s, int index) noexcept nogil:
    """A server has a new value. If our SET asked for it, others will ask so, too.

    Not of a DateStyle: PostgreSQL may complete that of a login in another way. Nor
    what has been in doubt: our Query has asked for another value than the client has.
    """
    cdef const ParamValue *asked
    if s.client == NULL or s.client.in_doubt or s.fate.obsolete or (
        requests_first(&s.requests) != REQUEST_ALIGN
        or index == r.params.partial or index == r.params.label
    ):
        return
    asked = s.client.params.value[index]
    if asked != NULL and asked != s.params.value[index]:
        words_learned(r, s.pool, index, asked, s.params.value[index])


cdef bint note_parameter(
    Relay *r, ServerSession *s, bint for_client, const uint8_t *body, size_t n
) noexcept nogil:
    """A server's ParameterStatus: it, and the client it works for, have a new value.

    False when the body is malformed or memory is short.
    """
    cdef const uint8_t *end = <const uint8_t *> memchr(body, 0, n)
    cdef const uint8_t *value
    cdef ParamSet *new
    cdef size_t value_n
    cdef size_t k
    cdef int index
    if end == NULL:
        return False
    index = params_index(&r.params, body, <size_t> (end - body))
    value = end + 1
    value_n = n - <size_t> (value - body)
    if value_n == 0 or value[value_n - 1] != 0:
        return False
    value_n -= 1
    if index < 0:
        return True
    if value_n > PARAM_VALUE_MAX:
        return True
    for k in range(value_n):
        if value[k] >= 0x80:  # cannot be put into a SET safely: not followed
            return True
    new = params_with(&r.params, s.params, index, value, value_n)
    if new == NULL:
        return False
    params_unref(&r.params, s.params)
    s.params = new
    note_words(r, s, index)
    if for_client:
        new = params_with(&r.params, s.client.params, index, value, value_n)
        if new == NULL:
            return False
        params_unref(&r.params, s.client.params)
        s.client.params = new
        new.verified_by = s.pool
    return True


# ---------------------------------------------------------------- RESET

cdef inline bint is_value(
    const ParamValue *value, const uint8_t *text, size_t n
) noexcept nogil:
    """Whether text[0:n), with its terminator, is this value."""
    return value != NULL and n == value.n + 1 and memcmp(value.text, text, n) == 0


cdef bint is_going_back(
    const Relay *r, ServerSession *s, const uint8_t *body, size_t n
) noexcept nogil:
    """Whether a ParameterStatus tells a default of the server's, by a RESET.

    To its client the default is what it had at its login: it will hear of that. Where
    that is the same it hears of it at once, in PostgreSQL's order. A RESET that no text
    has told of was hidden in a function.
    """
    cdef const uint8_t *end
    cdef const ParamValue *asked
    cdef int index
    if s.client == NULL:
        return False
    end = <const uint8_t *> memchr(body, 0, n)
    if end == NULL:
        return False
    index = params_index(&r.params, body, <size_t> (end - body))
    if index < 0:
        return False
    asked = s.client.asked.value[index]
    if asked == NULL or asked == s.defaults.value[index] or not is_value(
        s.defaults.value[index], end + 1, n - <size_t> (end + 1 - body)
    ):
        return False
    # of the label no text is told that it sets it
    if not s.changes.pending & CHANGE_TRACKED and index != r.params.label:
        reset_seen(s, index)
    return resets_reached(s) and (
        (s.changes.reset | s.changes.reset_local) >> index & 1 != 0
    )


cdef uint16_t resets_told(const Relay *r, const ServerSession *s) noexcept nogil:
    """Parameters whose values tell whether they were reset: what the client had is not
    the server's own.
    """
    cdef uint16_t sure = 0
    cdef int i
    for i in range(r.params.count if s.client != NULL else 0):
        if s.client.params.value[i] != s.defaults.value[i]:
            sure |= <uint16_t> (1 << i)
    return sure


cdef void resets_failed(Relay *r, ServerSession *s) noexcept nogil:
    """A request has failed: PostgreSQL may have taken a RESET back, or skipped it."""
    if resets_reached(s):
        reset_may_fail(s, resets_told(r, s))


cdef RelayStatus resets_answered(
    Relay *r, ServerSession *s, ClientSession *c, uint8_t status
) noexcept nogil:
    """The batch is answered that resets parameters, or a later one of its transaction.

    In a failed transaction nothing can be done; it may yet go on from a savepoint.
    """
    cdef uint16_t sure = resets_told(r, s)
    if status != c"E" and params_go_back(r, s, c) < 0:
        return RELAY_NO_MEMORY
    if status == c"I":
        resets_over(s)
    else:
        resets_go_on(s, sure)
    return RELAY_OK


cdef int put_back(
    Relay *r, ServerSession *s, const ParamSet *want, uint16_t local, bint doubt
) noexcept nogil:
    """Have the server SET what it has not; ``local``: for the transaction only.

    In doubt PostgreSQL decides: it knows what was reset and what was set. -1 without
    memory. Source: "pg_settings"
    """
    cdef size_t n = back_query_bytes(&r.params, want)
    cdef uint8_t *room = output_room(&r.to_server, n)
    if room == NULL:
        return -1
    r.to_server.n -= n
    r.to_server.n += put_back_query(
        room, &r.params, want, s.params, local, doubt
    )
    return requests_push(&s.requests, REQUEST_ALIGN)


cdef int params_go_back(
    Relay *r, ServerSession *s, ClientSession *c
) noexcept nogil:
    """Parameters were reset: give the client those again that it had at its login.

    It is told what has changed, and held until the server has them; in doubt it is
    told then. -1 without memory. Source: "RESET"
    """
    cdef ParamSet *want = params_ref(s.params)
    cdef ParamSet *new
    cdef const ParamValue *asked
    cdef bint open = s.xact_status != c"I"
    cdef bint doubt = s.changes.reset_doubt or (open and s.changes.reset_open)
    cdef uint16_t local = s.changes.reset_local if open else 0
    cdef uint16_t back = s.changes.reset | s.changes.reset_local
    cdef int i
    for i in range(r.params.count):
        asked = c.asked.value[i]
        if not (s.changes.reset | local) >> i & 1 or asked == NULL or (
            want.value[i] == NULL or want.value[i] != s.defaults.value[i]
        ):
            continue  # or something else has been set behind the RESET
        if asked != want.value[i]:
            new = params_with(&r.params, want, i, asked.text, asked.n)
            params_unref(&r.params, want)
            if new == NULL:
                return -1
            want = new
    if want != s.params:
        if put_back(r, s, want, local & ~s.changes.reset, doubt) < 0:
            params_unref(&r.params, want)
            return -1
        c.aligning = True
        if doubt:
            c.in_doubt = True
            params_unref(&r.params, want)
            return 0
    for i in range(r.params.count):
        if back >> i & 1 and want.value[i] != c.params.value[i]:
            tell_parameter(r, i, want)
    params_unref(&r.params, c.params)
    c.params = want
    return 0
