# SPDX-License-Identifier: MIT
"""Names of prepared statements that stand in SQL: PREPARE, EXECUTE, DEALLOCATE.

Statements layer, sans-IO. They are the same names as those of the extended protocol, so
a client may PREPARE by SQL what it Binds later, and the other way round. In a Query
they are replaced where they stand (``sql_query``). A Parse whose text is one of these
commands becomes a statement with a ``target``, whose name stands in its text for good.
What EXECUTE finds by the name is seen to when it is bound and run (``targets``); what
PREPARE and DEALLOCATE do to the client's names they do when they are run
(``run_names``).

Source: PostgreSQL documentation, "PREPARE", "EXECUTE", "DEALLOCATE".
"""

from libc.stdint cimport uint8_t, uint32_t

from pooler.session.records cimport ClientSession
from pooler.statements.sql_name cimport SqlCommand
from pooler.statements.outcomes cimport Refusal
from pooler.tables.client_names cimport ClientStatements
from pooler.tables.texts cimport Statement, StatementTable

cdef void forget_names(StatementTable *t, ClientSession *c) noexcept nogil
cdef ClientStatements *names_of(ClientSession *c) noexcept nogil
cdef bint is_stable(const StatementTable *t, Statement *st) noexcept nogil
cdef Refusal over_limit(
    const StatementTable *t, const ClientStatements *names, size_t n
) noexcept nogil
cdef uint8_t sql_flags(const StatementTable *t, const ClientSession *c) noexcept nogil
cdef Statement *intern(
    StatementTable *t, ClientSession *c, uint8_t kind, const uint8_t *text, size_t n
) noexcept nogil
cdef Statement *intern_sql(
    StatementTable *t, ClientSession *c, const uint8_t *text,
    const SqlCommand *command,
) noexcept nogil
cdef uint32_t count_characters(
    const uint8_t *text, size_t n, uint8_t flags
) noexcept nogil
cdef Statement *own_copy(StatementTable *t, const Statement *st) noexcept nogil
cdef Statement *intern_parse(
    StatementTable *t, ClientSession *c, const uint8_t *text, size_t n,
    size_t query_n, bint named,
) noexcept nogil
cdef bint query_names(const uint8_t *text, size_t n) noexcept nogil
cdef bint query_has_name(const uint8_t *text, size_t n) noexcept nogil
