# SPDX-License-Identifier: MIT
"""Names that are too long; see ``long_name.pxd``."""

from libc.stdint cimport uint8_t
from libc.string cimport strlen

from pooler.wire.buffers cimport Output, output_add
from pooler.session.records cimport ClientSession, ServerSession
from pooler.session.requests cimport REQUEST_SKIP
from pooler.statements.effects cimport push_with_effect
from pooler.statements.install cimport OWN_NAME_BYTES, own_name, put_close, put_named
from pooler.statements.sql_name cimport SqlCommand
from pooler.statements.sql_text cimport SQL_DEALLOCATE, SQL_FORGET_ALL, SQL_PREPARE
from pooler.tables.client_names cimport ClientStatement, client_statement_find
from pooler.tables.effect_queue cimport EFFECT_NOTICES, Effect
from pooler.tables.texts cimport StatementTable, statement_executes

cdef const char *HARMLESS = b"ROLLBACK TO "  # is parsed in any state, and not run
cdef const char *NOTICE_SUFFIX = b"notice"


cdef bint is_replaced(
    const ClientSession *c, const SqlCommand *command
) noexcept nogil:
    """Whether the server does not get to see the name as the client has written it."""
    cdef const ClientStatement *entry
    if command.verb == SQL_FORGET_ALL:
        return False
    if command.verb == SQL_PREPARE:
        return True
    entry = client_statement_find(c.statements, command.name, command.name_n)
    if entry == NULL:
        return False
    return (  # of what looks at names itself nobody executes but an EXECUTE
        command.verb == SQL_DEALLOCATE or entry.statement.called == NULL
        or statement_executes(entry.statement)
    )


cdef int have_name_noticed(
    const StatementTable *t, const ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *text, const SqlCommand *command,
) noexcept nogil:
    """Have PostgreSQL read the name of a command if it is cut; -1 without memory.

    In:      text: of the Query, as far as that name at least
    """
    cdef char name[OWN_NAME_BYTES]
    cdef size_t name_n
    cdef size_t written_n = command.name_end - command.name_start
    cdef Effect *effect
    if not command.name_whole or not is_replaced(c, command):
        return 0
    name_n = own_name(t, NOTICE_SUFFIX, name)
    effect = push_with_effect(s, c"P" | REQUEST_SKIP)
    if effect == NULL or put_named(
        out, c"P", NULL, 0, name, name_n, strlen(HARMLESS) + written_n + 3
    ) < 0:
        return -1
    effect.flags = EFFECT_NOTICES
    output_add(out, <const uint8_t *> HARMLESS, strlen(HARMLESS))
    output_add(out, text + command.name_start, written_n)
    output_add(out, <const uint8_t *> b"\0\0\0", 3)
    if out.failed or push_with_effect(s, c"C" | REQUEST_SKIP) == NULL:
        return -1
    return put_close(out, c"S", name, name_n)
