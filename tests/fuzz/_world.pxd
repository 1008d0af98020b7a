# SPDX-License-Identifier: MIT
"""One pool with its clients and servers, driven by the step: no sockets.

Every client and server is a heap block of its own. ``carry_out`` does what the io
layer does with orders; what is decided is decided by the product.
"""

from libc.stdint cimport uint8_t, uint64_t

from pooler.relay.shared cimport Relay
from pooler.session.records cimport ClientSession, Pool, ServerSession
from tests.fuzz._checks cimport Digest, Frames

cdef enum:
    CLIENTS = 3
    SERVERS = 2
    DEAD_MAX = 64

cdef struct World:
    Pool *pool  # of the relay
    ClientSession *clients[CLIENTS]
    ServerSession *servers[SERVERS]
    void *dead[DEAD_MAX]  # own: closed by the step under way
    int dead_count
    int cancels[SERVERS]  # cancel requests under way
    uint64_t numbers[CLIENTS]  # of all clients that there ever were
    uint64_t last_number
    uint64_t left_by[SERVERS]  # the number of who has left something there; 0: nobody
    bint slow[CLIENTS]  # takes nothing: what is sent is queued
    bint broken[CLIENTS]  # what is sent fails
    Digest to_client[CLIENTS]
    Digest to_server[SERVERS]
    Frames client_frames[CLIENTS]
    Frames server_frames[SERVERS]
    Digest happened  # everything else that must not depend on how bytes are cut
    bint bytewise
    bint launching  # servers are wanted
    bint incomparable  # something depends on when a read ended, by design

# One for all inputs: that its tables are empty again after each is part of the test.
cdef Relay relay
cdef bint trace  # tell what happens, for a person

cdef void note(World *w, uint8_t what, uint8_t value) noexcept nogil
cdef void start_relay(World *w) noexcept nogil
cdef void end_relay(World *w) noexcept nogil
cdef void make_client(World *w, int i) noexcept nogil
cdef void make_server(World *w, int i) noexcept nogil
cdef void carry_out(World *w) noexcept nogil
cdef void drain(World *w) noexcept nogil
cdef void finish_cancels(World *w) noexcept nogil
cdef void set_time(uint64_t now_us) noexcept nogil
cdef void take_in(World *w, int i) noexcept nogil
cdef void note_world(World *w) noexcept nogil
