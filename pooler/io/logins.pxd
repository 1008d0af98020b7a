# SPDX-License-Identifier: MIT
"""Logins that never leave C: of clients whose startup packet is known.

IO layer, warm. After a login that Python has led, it may leave here what the startup
packet came to (``KnownLogin``): what is asked, by which secret, which pool and values,
what the client is told. A later client that sends the same bytes, from the same address
and by the same means, is led through here: the answer to SSLRequest, the question, the
proof, one send of all that it is told. Whatever is not known, and whatever fails, is
Python's (``worker/admission``).

All of it is forgotten when anything that it depends on may have changed: a reload, what
servers say at their login, their words. One that is under way then is Python's when the
proof is given. One whose proof fails is forgotten too, so that the next attempt costs
what it costs somebody who is not known.

Source: PostgreSQL documentation, "Message Flow", "Start-up".
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from pooler.auth.secrets cimport Secret
from pooler.io.conn cimport ClientConn, KnownLogin, Loop
from pooler.session.records cimport Pool
from pooler.tables.params cimport ParamSet

cdef bint login_goes_on(Loop *L, ClientConn *cc) noexcept nogil
cdef void login_end(Loop *L, ClientConn *cc) noexcept nogil
cdef void login_forget(Loop *L, uint32_t number) noexcept nogil
cdef void logins_forget(Loop *L) noexcept nogil
cdef void logins_forget_pool(Loop *L, uint32_t pool_id) noexcept nogil
cdef void logins_free(Loop *L) noexcept nogil
cdef void count_clients(Loop *L) noexcept nogil
cdef int login_take_place(
    Loop *L, ClientConn *cc, const uint32_t *accounts, const uint64_t *limits
) noexcept nogil
cdef void login_count_for(
    Loop *L, ClientConn *cc, const uint32_t *accounts
) noexcept nogil
cdef void login_give_place(Loop *L, ClientConn *cc) noexcept nogil
cdef KnownLogin *login_known(
    const ClientConn *cc, const uint8_t *packet, size_t packet_n,
    const uint8_t *before, size_t before_n, const uint8_t *greeting, size_t greeting_n,
) noexcept nogil
cdef uint32_t login_remember(Loop *L, KnownLogin *known) noexcept nogil
cdef void admit(
    Loop *L, ClientConn *cc, Pool *p, ParamSet *values, const char *user,
    const uint8_t *key, uint8_t key_n, const uint8_t *greeting, size_t n,
) noexcept nogil
