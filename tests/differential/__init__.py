# SPDX-License-Identifier: MIT
"""Random exchanges, held with PostgreSQL straight and through the pooler; compared.

Sharing must not show: each client of the pooler must be answered as if it had a
session of its own. So each client has one straight connection as well, and says the
same on both. Both ways lead to the same PostgreSQL, each to a database of its own.

**What is compared.** Every message of the server, in its order, but for ``ALLOWED``
(``compare.py``). Clients take turns: an exchange is answered on both ways before the
next one is begun, so everything is deterministic. A client may hold a transaction (or
a batch without its Sync) over many exchanges, and others work meanwhile, as long as a
server of the pool is left for them, and nobody waits for a lock.

**What is fair.** In transaction mode a client does not keep what it leaves behind on
its session outside the tracked parameters and its prepared statements: search_path,
role, temporary tables, cursors WITH HOLD. It may find it again (it gets the server
that it has changed, if that is still there) or not (somebody else needed the server,
and it was cleaned first). But *others* must never see it. Therefore:

- Each kind of state that a session has and the pooler does not track is a *dimension*
  (``tags.DIMENSIONS``). What a statement reads of them (``needs``) and what it
  changes is told from its text (``tags.classify``). The texts are those of
  ``grammar.py``, which the patterns there know; this is no reading of arbitrary SQL.
- A dimension is *unsure* for a client from the end of the transaction in which it has
  changed it for its session. Nothing that needs an unsure dimension is sent. Within a
  transaction that has set it, it is *known* again, until the transaction ends or a
  savepoint is rolled back to.
- SET LOCAL, and what is rolled back, leaves nothing; a change for the session that is
  rolled back counts as one all the same, because the pooler may clean the server
  then, or not.
- The straight side's session is cleaned when a transaction ends that has changed
  something (``bed.CLEANING``): all that DISCARD ALL does but for the prepared
  statements and the tracked parameters, which the client keeps on either way. It is
  sent by the extended protocol, because a Query would end the unnamed statement, and
  without DISCARD PLANS, because that would have prepared texts read anew. For what is
  generated it makes no difference (nothing that needs an unsure dimension is sent);
  it keeps a gap in the patterns from being called a difference.
- Statements are sent to other clients without a thought: for them every dimension is
  as new. But for what a function of the user's own has changed in a SELECT, and for
  ``currval`` behind a ``nextval``: nobody can see these (``tags.HIDDEN``), and from
  then on the dimension is unsure for everybody.

**What is legal.** ``referee.py`` decides it for the generator and, when the shrinker
has left out a BEGIN, for a replay: a client needs a server of the pool (no more than
``pool_size`` clients hold one), DDL on shared tables runs only while nobody else is
in a transaction, and nobody else is heard until it is committed. Rows of shared
tables belong to the client that has written them, so nobody waits for a row.

A client may leave (``messages.Leave``) at any time, also inside a transaction; somebody
new takes its place on both ways, for whom everything is as new.

**Determinism.** One integer makes a whole run. Each scenario begins with new tables,
new clients and new servers (those of the pool are terminated), so it can be held
again by itself.

``python -m tests.differential --help`` runs it by hand; a difference is made small
(``shrink.py``) and printed as Python, which ``--replay`` and a regression test
understand.
"""
