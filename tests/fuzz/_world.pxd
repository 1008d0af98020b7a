# SPDX-License-Identifier: MIT
"""One pool with its clients and servers, as the relay sees it: no sockets.

Every client and server is a heap block of its own. Ends and releases are done as
``pooler/io/ends.pyx`` does them.
"""

from libc.stdint cimport uint8_t

from pooler.relay.common cimport Relay
from pooler.session.records cimport ClientSession, Pool, ServerSession
from tests.fuzz._checks cimport Digest, Frames

cdef enum:
    CLIENTS = 3
    SERVERS = 2

cdef struct World:
    Pool pool
    ClientSession *clients[CLIENTS]
    ServerSession *servers[SERVERS]
    Digest to_client[CLIENTS]
    Digest to_server[SERVERS]
    Frames client_frames[CLIENTS]
    Frames server_frames[SERVERS]
    Digest happened  # everything else that must not depend on how bytes are cut
    bint bytewise

# One for all inputs: that its tables are empty again after each is part of the test.
cdef Relay relay
cdef bint trace  # tell what happens, for a person

cdef void note(World *w, uint8_t what, uint8_t value) noexcept nogil
cdef void start_relay() noexcept nogil
cdef void make_client(World *w, int i) noexcept nogil
cdef void make_server(World *w, int i) noexcept nogil
cdef void free_client(World *w, int i) noexcept nogil
cdef void free_server(World *w, int i) noexcept nogil
cdef void send_to_server(World *w, ServerSession *s) noexcept nogil
cdef void send_to_client(World *w, ClientSession *c) noexcept nogil
cdef void settle(World *w, ServerSession *s) noexcept nogil
cdef void lose_client(World *w, int i) noexcept nogil
cdef void lose_server(World *w, int j) noexcept nogil
cdef void note_world(World *w) noexcept nogil
