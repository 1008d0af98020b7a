# SPDX-License-Identifier: MIT
"""The reference of the console, written from its tables. Console layer.

``python -m pooler.console.reference`` prints ``docs/console.md``. A command that has
no text here is listed with its columns alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from pooler.console.answers import Column, Type
from pooler.console.commands import SHOWS
from pooler.console.controls import CONTROLS
from pooler.console.rows import Argument, Row
from pooler.console.shows import PARAMETERS

_HEAD = """\
# Console

<!-- Written by `python -m pooler.console.reference > docs/console.md`; do not edit. -->

The console is the database `pgbouncer`: `psql -p 6432 -U admin pgbouncer`, any driver,
or `pooler console`, which needs no psql. Who is in `admin_users` may run everything,
who is in `stats_users` what is for *all* below. By the Unix socket the system's user
that runs the pooler is admin as user `pgbouncer`, without a password.

One command at a time, in any case of letters, with or without a `;`; names with other
characters than letters, digits and `_` stand in double quotes. `SELECT x` is `SHOW x`.
The simple and the extended protocol will do. What cannot be done is an ERROR, and the
session goes on. Numbers are sums, and lists are over all workers.
"""

_NOTES = """
## What to know of the rows

- `SHOW CLIENTS (id, state, addr)`: the columns that are wanted stand behind any SHOW.
- `id` counts all clients and servers of the pooler, whichever worker has them; no later
  connection gets one again. `ptr` is what the log calls the connection.
- `state` of a client: `active` with a server, `idle` without, `waiting` for one,
  `active_cancel_req` and `waiting_cancel_req` for a connection that brings a cancel
  request. Of a server: `active`, `idle`, `tested` (the reset or check query runs, or
  what a client has left is cleared away), `being_canceled`. There is no `used`: an idle
  server is checked when it is needed.
- `wait` counts while a client waits for an answer, for a server as for PostgreSQL.
- `application_name` of a client is what it has now, also after a SET.
- `query_time` is the time from a request to its answer and `xact_time` that of the
  transaction, waits for a server included, as in PgBouncer; each is noted in turns of
  the loop. Each request of a pipeline counts as a query; PgBouncer counts it once.
- Times of LATENCY are those of `wait_time`, `xact_time` and `query_time`. A percentile
  is the upper end of its bucket, of which there are four between a time and its double,
  so it is at most a quarter too large; `max` is exact. They stand in shared memory: the
  death of a worker takes nothing away. Clients that gave up waiting, replication and
  the console are not measured.
- PREPARED_STATEMENTS shows the first 512 bytes of a text, and `…` behind it if it goes
  on; different texts have different rows all the same. `uses` and `bytes` are those of
  the text, which all databases of a worker share, so they may stand in several rows.
  What nobody has any more is not there.
- Averages count from the older of two marks that are a `stats_period` apart. A worker
  that has died takes its totals with it.
- MEM has PgBouncer's rows; those of which no memory is kept apart here have size 0. FDS
  has descriptors of the workers and no secrets; they are not passed on.
- The rows `pgbouncer` of POOLS and STATS are the console's own sessions and commands.
- A cancel request (Ctrl-C in psql) ends PAUSE and WAIT_CLOSE with 57014, and what was
  being paused is resumed. What is paused stays so at a reload and in new workers.
"""

_TEXTS: Mapping[str, str] = {
    "ACTIVE_SOCKETS": "As SHOW SOCKETS, without those that are idle.",
    "CLIENTS": "Every client. `id` is what KILL_CLIENT takes.",
    "CONFIG": "Every setting: its value, its default, and whether a reload changes it.",
    "DATABASES": "Every database: where it is, its sizes and limits, what it has now.",
    "DISABLE": "New clients of the database are refused; those that are in stay.",
    "DNS_HOSTS": "Names that were looked up, and how long they are kept.",
    "DNS_ZONES": "Zones whose serial number is watched.",
    "ENABLE": "Takes DISABLE back.",
    "FDS": "Sockets for PgBouncer's online restart; for admins.",
    "HANDOVERS": "Servers that went from worker to worker, for each pool: given and"
    " received; refused (came and was closed), returned (could not be sent), closed"
    " (speaks TLS, so another one was opened there).",
    "HELP": "The list of commands, as a notice.",
    "KILL": "Drops all clients and servers of the database, or of all, and pauses it.",
    "KILL_CLIENT": "Drops one client, by its id of SHOW CLIENTS.",
    "LATENCY": "Ours: how long things take, for each database and kind, since the"
    " pooler was started: `wait` for a server (of each that was handed out, most are"
    " 0), `transaction`, `query`; microseconds.",
    "LISTS": "How many there are of everything.",
    "MEM": "Memory by kind of record.",
    "PAUSE": "No server is handed out, of one database or of any; answers when none is"
    " used. A cancel request (Ctrl-C) takes it back.",
    "PEERS": "The poolers of `[peers]`.",
    "PEER_POOLS": "Cancel requests on their way to peers.",
    "POOLS": "Every pool, one for each database and user: clients and servers by state,"
    " and how long the first of the queue has waited.",
    "PREPARED_STATEMENTS": "Ours: texts that are kept for clients, by database: how"
    " many clients have names for one (or have it unnamed), how many servers have it,"
    " how often it was bound or executed, and its memory. For admins, because texts may"
    " hold secrets.",
    "RECONNECT": "Servers are replaced as they become free, of one database or of all.",
    "RELOAD": "Reads the files again, all or nothing. Answers when all workers follow.",
    "RESUME": "Goes on after PAUSE, KILL or SUSPEND.",
    "SERVERS": "Every connection to a server.",
    "SET": "`SET key = value` or `SET key TO 'value'`: until the next reload. A setting"
    " that needs a restart is ignored.",
    "SHUTDOWN": "Ends at once; WAIT_FOR_SERVERS when all servers are free;"
    " WAIT_FOR_CLIENTS when the last client has left.",
    "SOCKETS": "Clients and servers with the state of their buffers.",
    "STATE": "Whether it runs, is paused or suspended.",
    "STATS": "Totals and averages of each database; times are microseconds.",
    "STATS_AVERAGES": "The averages alone, of the last `stats_period`.",
    "STATS_TOTALS": "The totals alone.",
    "SUSPEND": "Nothing is read any more, and nobody let in; answers when all that was"
    " read is sent (`suspend_timeout`). RESUME ends it, and so does the end of the last"
    " session of the console.",
    "TAKEOVER": "Ours: what `pooler -R` says, with the place where it waits for the"
    " listening sockets.",
    "TOTALS": "Totals and averages over all databases, one a row.",
    "USERS": "Every user that has limits or connections of its own.",
    "VERSION": "PgBouncer's version that this console is like, and our own.",
    "WAIT_CLOSE": "Answers when the servers that RECONNECT has marked are gone.",
    "WORKERS": "Ours: process, age in seconds, how long ago its loop has turned, what"
    " it has; no values for one that does not answer.",
}
_ARGUMENTS = {Argument.NONE: "", Argument.OPTIONAL: " [x]", Argument.REQUIRED: " x"}
_TYPES = {
    Type.TEXT: "",
    Type.INT4: " int4",
    Type.INT8: " int8",
    Type.NUMERIC: " numeric",
    Type.BYTEA: " bytea",
}


def render() -> str:
    """The text of ``docs/console.md``."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _HEAD
    yield from ("## Looking", "", "| Command | For | What it shows |", "|---|---|---|")
    shows = {key: row for key, row in SHOWS.items() if key.lower() not in PARAMETERS}
    for name, row in sorted(shows.items()):
        yield f"| `SHOW {name}` | {_for(row)} | {_TEXTS.get(name, '')} |"
    asked = ", ".join(f"`SHOW {name}`" for name in PARAMETERS)
    yield f"\nWhat drivers ask a server for is answered too: {asked}.\n"
    yield from ("## Changing", "", "| Command | For | What it does |", "|---|---|---|")
    for name, row in sorted(CONTROLS.items()):
        command = f"{name}{_ARGUMENTS[row.argument]}"
        yield f"| `{command}` | {_for(row)} | {_TEXTS.get(name, '')} |"
    yield _NOTES
    yield "## Columns\n"
    for name, row in sorted(shows.items()):
        if row.columns:
            yield f"`SHOW {name}`: {', '.join(map(_column, row.columns))}\n"


def _for(row: Row) -> str:
    return "admins" if row.admin else "all"


def _column(column: Column) -> str:
    return f"`{column.name}`{_TYPES[column.type]}"


if __name__ == "__main__":
    sys.stdout.write(render())
