# SPDX-License-Identifier: MIT
"""What the name in an EXECUTE means; see ``targets.pxd``."""

from libc.stdint cimport uint32_t, uint64_t

from pooler.session.records cimport server_has
from pooler.session.requests cimport batch_number
from pooler.statements.install cimport (
    drop, ensure_since, install, install_as, name_stands_for,
)
from pooler.tables.client_names cimport ClientStatement, client_statement_find
from pooler.tables.server_statements cimport (
    ServerStatement, server_statement_find, server_statement_named,
    server_statement_use,
)


cdef inline ClientStatement *entry_of(
    const ClientSession *c, const Statement *st
) noexcept nogil:
    """What the client calls so now; NULL: nothing, or what cannot be executed here.

    A statement whose text looks at names itself is not found by an EXECUTE.
    """
    cdef ClientStatement *entry = client_statement_find(
        c.statements, st.called, st.called_n
    )
    if entry == NULL or entry.statement.target != NULL:
        return NULL
    return entry


cdef Statement *target_meaning(
    const ClientSession *c, const Statement *st
) noexcept nogil:
    """The statement that an EXECUTE would run now, borrowed; NULL if it would fail."""
    cdef ClientStatement *entry = entry_of(c, st)
    return entry.statement if entry != NULL else NULL


cdef bint target_is_now(
    const ClientSession *c, const ServerSession *s, const Statement *st
) noexcept nogil:
    """Whether the server has by the target's name what the client means by its own."""
    cdef const ClientStatement *entry = entry_of(c, st)
    cdef uint32_t stands_for = name_stands_for(s, st.target)
    if entry == NULL:
        return stands_for == 0
    return stands_for == entry.statement.id and entry.born <= (
        server_statement_find(&s.statements, st.target).parse_number
    )


cdef int target_now(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Statement *st, bint for_query,
) noexcept nogil:
    """Have the server know what an EXECUTE looks up in the next message.

    Out:     out: what that needs in front of it; -1 without memory
    Cost:    O(1), and the text of what the server lacks
    """
    cdef Statement *meaning = target_meaning(c, st)
    cdef ServerStatement *there = server_statement_find(&s.statements, st.target)
    if not target_is_now(c, s, st):
        if meaning == NULL:
            return drop(t, s, out, there)
        if install_as(t, s, out, meaning, st.target, for_query) < 0:
            return -1
        there = server_statement_find(&s.statements, st.target)
    if meaning != NULL:
        server_statement_use(&s.statements, there)
        there.target_batch = batch_number(&s.requests)
    return 0


cdef int ensure_as_parsed(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, Statement *st,
    bint for_query, uint64_t born,
) noexcept nogil:
    """The server has an EXECUTE, and what it looks up, when the next message comes.

    Its own columns are those of its client's Parse; a Describe of it tells them, and an
    EXECUTE of it.
    """
    cdef ServerStatement *entry
    if ensure_since(t, s, out, st, for_query, born) < 0:
        return -1
    entry = server_statement_find(&s.statements, st)
    if entry == NULL:
        return -1
    entry.target_batch = batch_number(&s.requests)
    return target_now(t, c, s, out, st, for_query)


cdef int ensure_bound(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, Statement *st,
    uint64_t born,
) noexcept nogil:
    """As ``ensure_as_parsed``, for a Bind, to which its own columns mean nothing.

    One that the server lacks is parsed as its name means now: what it meant at the
    client's Parse may be a text that cannot be read any more.
    """
    cdef ServerStatement *entry
    if target_now(t, c, s, out, st, False) < 0:
        return -1
    entry = server_statement_find(&s.statements, st)
    if server_has(s, entry) and entry.parse_number >= born:
        server_statement_use(&s.statements, entry)
        return 0
    return install(t, s, out, st, False)


# ---------------------------------------------------------------- in a Query

cdef bint target_in_query(
    const ClientSession *c, const ServerSession *s, const Statement *st, bint changed
) noexcept nogil:
    """Whether an EXECUTE, executed in a Query by its own name, can find what it names.

    What is needed for it goes in front of the Query. So it cannot be where commands
    before this one have used the target's name for something else, or have changed
    names (``changed``): nothing is found then.
    """
    cdef const Statement *meaning = target_meaning(c, st)
    cdef const ServerStatement *there = server_statement_find(&s.statements, st.target)
    if meaning == NULL:
        return False
    if server_statement_named(&s.statements, there):
        return not there.closing and meaning.id == (
            there.instead if there.instead != 0 else st.target.id
        )
    return not changed or meaning == st.target


cdef int ensure_in_query(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, Statement *st,
    uint64_t born,
) noexcept nogil:
    """As ``ensure_as_parsed``, for the Query that is being read."""
    if ensure_as_parsed(t, c, s, out, st, True, born) < 0:
        return -1
    server_statement_find(&s.statements, st).named_in = s.statements.reading
    server_statement_find(&s.statements, st.target).named_in = s.statements.reading
    return 0
