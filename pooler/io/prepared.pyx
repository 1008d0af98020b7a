# SPDX-License-Identifier: MIT
"""Prepared statements and who has them; see ``prepared.pxd``."""

import hashlib

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memchr

from pooler.io.conn cimport ClientConn, Conn, KIND_CLIENT, KIND_SERVER, ServerConn
from pooler.session.records cimport ClientSession, Pool, ServerSession
from pooler.tables.client_names cimport ClientStatement, ClientStatements
from pooler.tables.server_statements cimport ServerStatement
from pooler.tables.texts cimport Statement, StatementTable

cdef enum:
    SHOWN_TEXT_BYTES = 512
    PIECE_BYTES = 1048576  # of texts that are looked at without a turn in between
    SERVER_BIT = 32  # of a count: clients below, servers above


cdef int hold(
    dict holders, const Pool *p, const Statement *st, uint64_t one
) except -1:
    cdef object key = (<uint64_t> p.id << 32) | st.id
    holders[key] = holders.get(key, 0) + one
    return 0


cdef uint32_t client_holds(const ClientSession *c, dict holders) except? 0xFFFFFFFF:
    """Count what a client has names for; returns how much was looked at."""
    cdef const ClientStatements *names = c.statements
    cdef const ClientStatement *entry
    cdef uint32_t i
    if names == NULL or c.pool == NULL:
        return 0
    if names.unnamed != NULL:
        hold(holders, c.pool, names.unnamed, 1)
    for i in range(names.mask + 1):
        entry = names.buckets[i]
        while entry != NULL:
            hold(holders, c.pool, entry.statement, 1)
            entry = entry.next
    return names.mask


cdef uint32_t server_holds(const ServerSession *s, dict holders) except? 0xFFFFFFFF:
    """Count what a server has for sure; returns how much was looked at."""
    cdef const ServerStatement *entry = s.statements.newest
    while entry != NULL:
        if entry.generation == s.statements.generation and entry.instead == 0:
            hold(holders, s.pool, entry.statement, <uint64_t> 1 << SERVER_BIT)
        entry = entry.older
    return s.statements.count


cdef uint32_t count_holders(
    const Loop *L, uint32_t first, uint32_t most, dict holders
):
    """Count who has which statement, from a place of the table of connections on.

    ``holders``: by pool << 32 | id of the statement, clients + (servers << 32). Returns
    where to go on, 0: that was all. ``most``: about as many places and entries.
    """
    cdef const Conn *conn
    cdef uint32_t i
    cdef uint64_t seen = 0
    for i in range(first, L.slot_count):
        if seen >= most:
            return i
        conn = L.slots[i].conn
        seen += 1
        if conn == NULL:
            continue
        if conn.kind == KIND_CLIENT:
            seen += client_holds(&(<const ClientConn *> conn).session, holders)
        elif conn.kind == KIND_SERVER:
            seen += server_holds(&(<const ServerConn *> conn).session, holders)
    return 0


cdef object text_row(const Statement *st):
    """(text, of which more than this the digest, bytes, uses)."""
    cdef const uint8_t *end = <const uint8_t *> memchr(st.text, 0, st.n)
    cdef size_t n = st.n if end == NULL else end - st.text
    cdef bytes text = <bytes> st.text[:min(n, <size_t> SHOWN_TEXT_BYTES)]
    digest = b""
    if n > SHOWN_TEXT_BYTES:
        digest = hashlib.blake2b(<bytes> st.text[:n], digest_size=16).digest()
    return text, digest, sizeof(Statement) + st.n, st.uses


cdef uint32_t list_statements(
    const Loop *L, uint32_t first, uint32_t most, dict found
):
    """Rows of statements by their ids, from a bucket of the table on; as above.

    The table may grow in between: what was there all the time is found all the same,
    and maybe twice. Of what is known by its name alone there is no row.
    """
    cdef const StatementTable *t = &L.relay.statements
    cdef const Statement *st
    cdef uint32_t i
    cdef uint64_t seen = 0
    cdef uint64_t seen_bytes = 0
    for i in range(first, t.mask + 1):
        if seen >= most or seen_bytes >= PIECE_BYTES:
            return i
        st = t.buckets[i]
        seen += 1
        while st != NULL:
            if st.text != NULL:  # else it came with a server: another worker has it
                found[st.id] = text_row(st)
            seen += 1
            seen_bytes += st.n
            st = st.next
    return 0
