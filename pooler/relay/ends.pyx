# SPDX-License-Identifier: MIT
"""How clients and servers end; see ``ends.pxd``."""

from pooler.relay.align cimport client_params_end
from pooler.relay.clean cimport clean_kept, close_server, take_over
from pooler.relay.injected cimport inject_flush
from pooler.relay.orders cimport order_close_client
from pooler.session.deadlines cimport timer_end
from pooler.session.pool cimport pool_remove_client
from pooler.session.records cimport (
    CLIENT_ACTIVE, CLIENT_CLOSED, CLIENT_LOGIN, CLOSE_CLIENT_REQUEST,
    CLOSE_SERVER_CRASHED, CLOSE_SERVER_EOF, COPY_IN_OPEN, set_client_state,
)
from pooler.wire.buffers cimport queue_reset, queue_size, queue_wipe
from pooler.session.settings_log cimport settings_forgotten
from pooler.statements.sql_names cimport forget_names


cdef void close_client(
    Relay *r, ClientSession *c, CloseReason reason, bint tell
) noexcept nogil:
    """Close a client in whatever state; idempotent.

    With ``tell`` it gets FATAL and the reason first, unless it is in the middle of a
    message from its server. A server that its client has left is cleaned.
    """
    if c.state == CLIENT_CLOSED:
        return
    if c.server != NULL and c.server.scan.body_left:
        tell = False
    order_close_client(&r.orders, c, reason, tell)
    if c.state == CLIENT_ACTIVE:
        take_over(r, c, reason)
    if c.kept != NULL:  # its locks, and whatever else it has left, end with it
        clean_kept(r, c.kept)
    if c.state == CLIENT_LOGIN:
        if c.stream.held.cap:
            queue_wipe(&c.stream.held, queue_size(&c.stream.held))
        set_client_state(c, CLIENT_CLOSED)
    else:
        pool_remove_client(c.pool, c)
    timer_end(&c.timer)
    queue_reset(&c.stream.held)
    forget_names(&r.statements, c)
    settings_forgotten(c)
    client_params_end(r, c)
    if r.pending.resume == c:
        r.pending.resume = NULL
    if r.pending.leave == c:
        r.pending.leave = NULL


cdef void lose_server(Relay *r, ServerSession *s, CloseReason reason) noexcept nogil:
    """Close a server for its own fault; its client goes with it, and is told why.

    A client that already has the server's own FATAL message is told nothing more,
    nor one that is in the middle of a message.
    """
    cdef ClientSession *c = s.client
    cdef bint tell = not s.fate.fatal_seen and s.scan.body_left == 0
    close_server(r, s, reason)
    if c != NULL:
        close_client(
            r, c, CLOSE_SERVER_CRASHED if reason == CLOSE_SERVER_EOF else reason, tell
        )


cdef void note_goodbye(ClientSession *c) noexcept nogil:
    """There is a Terminate in what a client has sent."""
    c.leaving = True


cdef void say_goodbye(Relay *r, ClientSession *c) noexcept nogil:
    """A client has sent Terminate: nothing that it sends behind it counts.

    What it left in an open batch is answered as far as PostgreSQL has got, for it may
    have asked for that by a Flush; the batch itself is never committed.
    """
    note_goodbye(c)
    queue_reset(&c.stream.held)
    if c.server != NULL and c.server.batch.open and not c.server.batch.failed:
        inject_flush(r, c.server)
    r.pending.leave = c


cdef void let_leave(Relay *r, ClientSession *c) noexcept nogil:
    """Close a client that has said goodbye, once it has its answers.

    PostgreSQL reads Terminate behind the requests before it, so these are answered;
    but for a COPY from this client, which will not come.
    """
    cdef const ServerSession *s = c.server
    if s == NULL or s.copy.state != COPY_IN_OPEN:
        if c.stream.out.cap:
            return
        if s != NULL and (s.scan.body_left or s.requests.head != s.requests.tail):
            return
    close_client(r, c, CLOSE_CLIENT_REQUEST, False)
