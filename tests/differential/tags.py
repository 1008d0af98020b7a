# SPDX-License-Identifier: MIT
"""What a statement reads and changes of its session, told from its text.

The patterns know the texts of ``grammar.py`` and nothing else; where they are not sure
they say that something is read, or changed.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

# State of a session that the pooler does not track -> what reads it. A table that is
# named without its schema is found by search_path, and may be a temporary one.
_TABLE = r"\b(from|into|table|update|join|exists|only|copy)\s+(t|tt)\b"
NEEDS = {
    "path": _TABLE + r"|search_path'?\)|show search_path|current_schema|public\.find_t"
    r"|public\.run\w*\(",  # as an error's context spells it
    "temp": _TABLE + r"|public\.find_t|to_regclass|\btemp\b|make_temp\(|into temp"
    r"|pg_temp|tsq",
    "role": r"current_user|show role|\b(create|drop|alter|truncate|rename)\b"
    r"|public\.(whoami|make_temp)\(",
    "float": r"float8|extra_float_digits'?\)|show extra_float",
    "bytea": r"bytea(?!_)|bytea_output'?\)|show bytea",
    "work_mem": r"show work_mem",
    "deferrable": r"show default_transaction_def|characteristics",
    "hold": r"\bhc\b|pg_cursors",
    "seq": r"currval|lastval",
    "lock": r"advisory",
    "listen": r"\b(un)?listen\b|pg_listening|notify",
    "seed": r"random\(\)",
    "custom": r"my\.var",
    "pg_temp": r"select pg_temp\.",  # is a schema that stays
    "timeout": r"statement_timeout",
    # What is raised, and what a BEGIN is.
    "messages": r"client_min_messages|\braise\b|if (not )?exists",
    "transaction": r"show transaction_|default_transaction_iso|characteristics",
}
CHANGES = {
    "path": r"set (session |local )?search_path|set_config\('search_path"
    r"|reset search_path|set_path\(",
    "temp": r"\btemp\b|make_temp\(|pg_temp",
    "role": r"set (session |local )?role|reset role|set_config\('role",
    "float": r"set (session |local )?extra_float|set_config\('extra_float"
    r"|reset extra_float",
    "bytea": r"set (session |local )?bytea_out|set_config\('bytea_out|reset bytea_out",
    "work_mem": r"set (session |local )?work_mem|set_config\('work_mem|reset work_mem",
    "deferrable": r"set (session |local )?default_transaction_def"
    r"|set_config\('default_transaction_def|reset default_transaction_def"
    r"|characteristics",
    "hold": r"with hold",
    "seq": r"nextval",
    "lock": r"advisory_(lock|unlock)",
    "listen": r"\b(un)?listen\b",
    "seed": r"setseed\(|set (session |local )?seed",
    "pg_temp": r"create function pg_temp",
    "custom": r"set (session |local )?my\.var|set_config\('my\.var|reset my\.var",
    "timeout": r"set (session |local )?statement_t|set_config\('statement_t"
    r"|reset statement_t",
    "messages": r"set (session |local )?client_min|set_config\('client_min"
    r"|reset client_min",
    "transaction": r"set (session |local )?default_transaction_iso"
    r"|set_config\('default_transaction_iso|reset default_transaction_iso"
    r"|characteristics",
}
DIMENSIONS = tuple(CHANGES)
# What the pooler cannot see: it is in a function of the user's own, or is one of a
# sequence, and stays in the session for others.
HIDDEN = r"select public\.(set_path|make_temp|run)\(|nextval"
# Only for the transaction: nothing stays.
LOCAL = r"set local|, true\)|on commit drop(?!')"
CONTROL = (
    r"\b(begin|start transaction|commit|rollback|abort|savepoint|release|end|call)\b"
)
# What takes locks that others would wait for.
EXCLUSIVE = r"\b(create|drop|alter|truncate|rename)\b(?! temp)|public\.run\w*\("
_CURSOR = re.compile(r"\b(?:fetch|move)\b.*?\b(?:from|in)\s+(\w+)", re.IGNORECASE)
_NAMED = re.compile(
    r"\b(?:execute|prepare|deallocate)\s+(?:prepare\s+)?(\w+|\"[^\"]*\")", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Tags:
    """Of one statement, or of several together."""

    needs: frozenset[str] = frozenset()
    session: frozenset[str] = frozenset()  # changed for longer than the transaction
    local: frozenset[str] = frozenset()
    hidden: frozenset[str] = frozenset()  # of session: others may meet it
    control: bool = False
    exclusive: bool = False
    names: frozenset[str] = frozenset()  # prepared statements that SQL names
    cursors: frozenset[str] = frozenset()  # portals whose rows SQL fetches

    def __or__(self, other: Tags) -> Tags:
        return Tags(
            self.needs | other.needs,
            self.session | other.session,
            self.local | other.local,
            self.hidden | other.hidden,
            self.control or other.control,
            self.exclusive or other.exclusive,
            self.names | other.names,
            self.cursors | other.cursors,
        )

    @property
    def reading(self) -> Tags:
        """Of a text that is read and not run yet."""
        return Tags(needs=self.needs, exclusive=self.exclusive)


@functools.lru_cache(maxsize=4096)
def commands(sql: str) -> tuple[Tags, ...]:
    """The tags of each command of a text."""
    return tuple(_command(command) for command in sql.split(";"))


def classify(sql: str) -> Tags:
    """The tags of a text as a whole."""
    whole = Tags()
    for tags in commands(sql):
        whole |= tags
    return whole


def _command(command: str) -> Tags:
    changed = _which(CHANGES, command)
    is_local = bool(re.search(LOCAL, command, re.I))
    is_hidden = not is_local and bool(re.search(HIDDEN, command, re.I))
    return Tags(
        needs=_which(NEEDS, command),
        session=frozenset() if is_local else changed,
        local=changed if is_local else frozenset(),
        hidden=changed if is_hidden else frozenset(),
        control=bool(re.search(CONTROL, command, re.I)),
        exclusive=bool(re.search(EXCLUSIVE, command, re.I)),
        names=frozenset(_folded(name) for name in _NAMED.findall(command)),
        cursors=frozenset(name.lower() for name in _CURSOR.findall(command)),
    )


def _folded(name: str) -> str:
    return name[1:-1] if name[0] == '"' else name.lower()


def _which(patterns: dict[str, str], command: str) -> frozenset[str]:
    return frozenset(
        name
        for name, pattern in patterns.items()
        if re.search(pattern, command, re.IGNORECASE)
    )
