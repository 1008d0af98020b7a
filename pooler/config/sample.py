# SPDX-License-Identifier: MIT
"""The sample configuration, written from the table of settings. Config layer.

``python -m pooler.config.sample`` prints ``packaging/pooler.ini``. Every setting is
there, with its default behind a ``;``; what a package needs is set.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Mapping

from pooler.config.kinds import Reload, Row, format_value
from pooler.config.settings import Database, Peer, Settings, Table, User, rows

WIDTH = 88
# What the sample says instead of a default: it must start, and let nobody in.
CHOSEN: Mapping[str, str] = {
    "auth_file": "/etc/pooler/userlist.txt",
    "auth_type": "scram-sha-256",
    "listen_addr": "127.0.0.1",
    "unix_socket_dir": "/run/pooler",
}

_HEAD = """\
; The configuration of pooler, with every setting and its default.
; Written by `python -m pooler.config.sample > packaging/pooler.ini`.
;
; A line that begins with ";" or "#" says nothing. Times are seconds, or have a unit
; (us, ms, s, min, h, d), sizes are bytes, or have one (kB, MB, GB, TB). Switches are 0
; or 1, no or yes, off or on. `%include FILE` reads another file in its place.
;
; Try a change with `pooler check FILE`; `systemctl reload pooler` or `pooler reload`
; takes it over as a whole, or not at all.
"""

_ENTRIES: tuple[tuple[str, Table, str], ...] = (
    (
        "databases",
        Database,
        "; name = key=value key='quoted ''value'''\n"
        ";shop = host=127.0.0.1 port=5432 dbname=shop\n"
        ";* = host=127.0.0.1\n"
        ";\n; The keys:\n",
    ),
    ("users", User, ";alice = pool_mode=session\n;\n; The keys:\n"),
    ("peers", Peer, ";1 = host=10.0.0.1\n;\n; The keys:\n"),
)


def render() -> str:
    """The text of ``packaging/pooler.ini``."""
    return "\n".join(_parts())


def _parts() -> Iterator[str]:
    yield _HEAD
    for section, table, examples in _ENTRIES:
        keys = "".join(
            f";   {_comment(_key_text(row), '     ')}\n" for row in rows(table)
        )
        yield f"[{section}]\n{examples}{keys}"
    yield "[pgbouncer]"
    for row in rows(Settings):
        yield _setting(row)


def _key_text(row: Row) -> str:
    return f"{row.name}: {row.doc}{_choices(row)}"


def _setting(row: Row) -> str:
    restart = " Needs a restart." if row.reload is Reload.RESTART else ""
    unit = f" [{row.unit}]" if row.unit else ""
    text = _comment(f"{row.doc}{_choices(row)}{restart}{unit}", "")
    default = format_value(row, row.default)
    line = f";{row.name} = {default}".rstrip()
    if row.name in CHOSEN:
        line += f"\n{row.name} = {CHOSEN[row.name]}"
    return f"; {text}\n{line}\n"


def _choices(row: Row) -> str:
    return "" if row.choices is None else f" One of {', '.join(row.choices)}."


def _comment(text: str, indent: str) -> str:
    lines = textwrap.wrap(
        text.replace("`", ""),
        WIDTH - 2 - len(indent),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return f"\n; {indent}".join(lines)


if __name__ == "__main__":
    sys.stdout.write(render())
