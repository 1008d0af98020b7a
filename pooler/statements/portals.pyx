# SPDX-License-Identifier: MIT
"""Portals with SQL that looks at names; see ``portals.pxd``."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from pooler.tables.client_names cimport STATEMENT_NAME_BYTES
from pooler.tables.texts cimport TARGET_NONE, statement_ref, statement_unref


cdef inline size_t told_apart(size_t n) noexcept nogil:
    """PostgreSQL cuts names of portals as well (MAX_PORTALNAME_LEN)."""
    return n if n < STATEMENT_NAME_BYTES else STATEMENT_NAME_BYTES


cdef Portal *portal_find(
    const ServerSession *s, const uint8_t *name, size_t n
) noexcept nogil:
    """The portal of this name if it was noted, or NULL. Cost: O(noted portals)"""
    cdef Portal *portal = s.portals
    n = told_apart(n)
    while portal != NULL:
        if portal.name_n == n and memcmp(portal.name, name, n) == 0:
            break
        portal = portal.next
    return portal


cdef inline uint32_t portals_count(const ServerSession *s) noexcept nogil:
    cdef const Portal *portal = s.portals
    cdef uint32_t count = 0
    while portal != NULL:
        count += 1
        portal = portal.next
    return count


cdef bint portal_bind(
    StatementTable *t, ServerSession *s, const uint8_t *name, size_t n, Statement *st
) noexcept nogil:
    """A portal that is not noted is made of ``st``, which may be NULL.

    If nothing is under way and no transaction is open, there are no portals but this.
    False: there are too many, or there is no memory.
    Cost: nothing for a statement that looks at no names
    """
    cdef Portal *portal
    if st == NULL or st.target_use == TARGET_NONE:
        return True
    if s.xact_status == c"I" and not s.batch.open and (
        s.requests.head == s.requests.tail
    ):
        portals_free(t, s)
    n = told_apart(n)
    portal = <Portal *> malloc(sizeof(Portal) + n)
    if portal == NULL or portals_count(s) >= PORTALS_MOST:
        free(portal)
        return False
    portal.statement = statement_ref(st)
    portal.runs = 0
    t.portal_count += 1
    portal.number = t.portal_count
    portal.name_n = <uint8_t> n
    memcpy(portal.name, name, n)
    portal.next = s.portals
    s.portals = portal
    return True


cdef void portal_runs(Portal *portal, const Statement *st) noexcept nogil:
    """What ``st`` may change is noted; NULL: the portal executes nothing."""
    portal.runs = st.id if st != NULL else 0


cdef void unlink(StatementTable *t, ServerSession *s, Portal *gone) noexcept nogil:
    cdef Portal **at = &s.portals
    while at[0] != gone:
        at = &at[0].next
    at[0] = gone.next
    statement_unref(t, gone.statement)
    free(gone)


cdef void portal_forget(
    StatementTable *t, ServerSession *s, const uint8_t *name, size_t n
) noexcept nogil:
    """The portal of this name, if it was noted, is made of something else."""
    cdef Portal *gone = portal_find(s, name, n)
    if gone != NULL:
        unlink(t, s, gone)


cdef void portal_closed(
    StatementTable *t, ServerSession *s, uint64_t number
) noexcept nogil:
    """PostgreSQL has closed a portal, which may have been forgotten already."""
    cdef Portal *portal = s.portals
    while portal != NULL and portal.number != number:
        portal = portal.next
    if portal != NULL:
        unlink(t, s, portal)


cdef void portals_free(StatementTable *t, ServerSession *s) noexcept nogil:
    """There are none any more."""
    cdef Portal *portal = s.portals
    cdef Portal *following
    while portal != NULL:
        following = portal.next
        statement_unref(t, portal.statement)
        free(portal)
        portal = following
    s.portals = NULL
