# SPDX-License-Identifier: MIT
"""Prepared statements over shared servers: what becomes of a client's requests.

Statements layer, sans-IO, hot. A client's name is replaced by the statement's name on
the server, and a server that lacks the statement is given it first, in the same send.
Nothing is answered here that PostgreSQL would refuse: a name that is taken, unknown or
over a limit is sent as a request that PostgreSQL itself fails, at its place in the
stream, so that transaction and pipeline end up as they must. What is answered here is
a Parse of what the server has already, and the Close of a name; by ``alone`` the same
before there is a server. What comes in parts goes on in ``absorbed``.

Source: PostgreSQL documentation, "Extended Query", "PREPARE", "DEALLOCATE".
"""

from libc.stdint cimport uint8_t

from pooler.wire.buffers cimport Output
from pooler.session.batch cimport batch_bind
from pooler.session.counters cimport count_bind
from pooler.session.records cimport ClientSession, ServerSession
from pooler.session.requests cimport batch_unsettled
from pooler.statements.outcomes cimport PrepareResult
from pooler.statements.runs cimport runs_quietly
from pooler.tables.texts cimport Statement, StatementTable, statement_used
from pooler._wire cimport Found

cdef inline bint binds_own_unnamed(
    const ClientSession *c, ServerSession *s, const uint8_t *message
) noexcept nogil:
    """Whether a Bind is one of which nothing has to be noted but that it came.

    It binds the unnamed statement, which is the server's own, to the unnamed portal,
    and running that changes nothing. Most do that.

    In:      message is all here, of at least 12 bytes; no portal is noted
    """
    cdef Statement *st
    if message[5] or message[6] or not s.tracking.unnamed_own or c.statements == NULL:
        return False
    st = c.statements.unnamed
    if (
        st == NULL or not runs_quietly(s, st) or s.replay.unproven
        or batch_unsettled(&s.requests, c.statements.unnamed_batch)
    ):
        return False
    batch_bind(s, NULL)
    count_bind(s.pool)
    statement_used(st)
    return True

cdef PrepareResult prepare_request(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, const uint8_t *message, size_t here, size_t behind,
    size_t *taken,
) noexcept nogil
