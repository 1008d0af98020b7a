# SPDX-License-Identifier: MIT
"""What all steps of one worker share: outputs, tables, pools, orders.

Relay layer, sans-IO, hot. Bytes of one read and the session they belong to go in;
decisions come out as ``Orders``, which the io layer carries out. Nothing here waits,
logs or touches Python.

Source: PostgreSQL documentation, "Message Flow".
"""

from libc.stdint cimport uint32_t, uint64_t

from pooler.relay.orders cimport Orders
from pooler.session.deadlines cimport Wheel
from pooler.session.records cimport ClientSession, Pool, Script, ServerSession
from pooler.session.sharing cimport RowSet
from pooler.tables.params cimport ParamTable
from pooler.tables.texts cimport StatementTable
from pooler.wire.buffers cimport Output, Queue

cdef enum RelayStatus:  # how the walk over what one read has brought ended
    RELAY_OK
    RELAY_HOLD  # a message is given back until more of it is here
    RELAY_WAIT  # the client now waits for a server; hold what was not consumed
    RELAY_ALIGN  # hold the rest until the server has answered what was sent now
    RELAY_TERMINATE  # the client said goodbye
    RELAY_CLIENT_PROTO  # the client sent what no client may send
    RELAY_CLIENT_QUERY  # the client sent a Query, which is not wanted
    RELAY_SERVER_PROTO  # the server sent what no server may send
    RELAY_SERVER_DEAD  # an idle server said that it goes away
    RELAY_ALIGN_FAILED  # the server refused the client's parameters; it was told
    RELAY_TEST_FAILED  # the server answered one of our own queries with an error
    RELAY_STATEMENT_XACT  # a transaction block was opened in statement mode
    RELAY_NO_MEMORY
    RELAY_STATUSES

cdef struct Pending:  # what is to be decided when all orders are carried out
    ClientSession *resume  # borrow: its held bytes may go on
    ServerSession *settle  # borrow: it may be free
    ClientSession *leave  # borrow: it has said goodbye
    Queue block  # own: held bytes that outputs borrow from

cdef struct Relay:  # one per worker, lent to every call
    Output to_client
    Output to_server
    ParamTable params
    StatementTable statements
    Orders orders
    Pending pending
    Wheel wheel
    uint64_t now_us
    uint64_t login_limit_us  # of a client's login; 0: none
    uint64_t client_total  # that have ever logged in
    bint resume  # the client's held bytes may go on
    Script rollback  # own
    Script deallocate  # own
    Script discard  # own
    Pool **pools  # own, index is the pool's id; NULL: it has gone
    uint32_t pool_count
    uint32_t *spare_ids  # own, as long as pools: of those that have gone
    uint32_t spare_count
    RowSet shunned  # rows of workers that no pool puts servers aside for
    Pool *wakes  # borrow: pools with an idle server and a waiting client, maybe
