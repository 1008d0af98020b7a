# SPDX-License-Identifier: MIT
"""Reading of texts for what they change; see ``sql_changes.pxd``."""

from libc.string cimport memcpy

from pooler.session.records cimport (
    CHANGE_BACK, CHANGE_CURSOR, CHANGE_FORGETS, CHANGE_FOR_GOOD, CHANGE_GIVES,
    CHANGE_HIDDEN, CHANGE_LENDS, CHANGE_LISTEN, CHANGE_LOCK, CHANGE_MEANING,
    CHANGE_RESET_SHIFT, CHANGE_SEQUENCES, CHANGE_SETTING, CHANGE_TEMPORARY,
    CHANGE_TRACKED, CHANGE_UNDOES,
)
from pooler.statements.sql_scan cimport (
    skip_blank, skip_mark, skip_parentheses, skip_word, sql_end,
)
from pooler.statements.sql_settings cimport (
    Reader, all_reset, custom_in_body, in_name, is_word, low, next_is, read_reset,
    read_set, read_set_config, read_update,
)
from pooler.statements.sql_text cimport skip_explain

cdef enum:
    HAS_SEMICOLON = 1
    HAS_PAIR = 2

# ---------------------------------------------------------------- a first look

cdef extern from *:
    """
    /* GCC's and clang's vectors: what the machine has, or as good as that. */
    typedef unsigned char Bytes16 __attribute__((vector_size(16)));

    static inline Bytes16 load_16(const unsigned char *p) {
        Bytes16 v;
        __builtin_memcpy(&v, p, 16);
        return v;
    }

    static inline int any_of_16(Bytes16 v) {
        unsigned long long half[2];
        __builtin_memcpy(half, &v, 16);
        return (half[0] | half[1]) != 0;
    }

    /* Looks at p[0:17): at 16 bytes, and the one behind each; third: the next one. */
    static inline void look_at_16(
        const unsigned char *p, Bytes16 third, Bytes16 *semicolons, Bytes16 *pairs
    ) {
        Bytes16 raw = load_16(p), one = raw | 0x20, two = load_16(p + 1) | 0x20;
        Bytes16 r = (Bytes16)(one == 'r') & (Bytes16)((third | 0x20) == 'v');
        *semicolons |= (Bytes16)(raw == ';');
        *pairs |= (Bytes16)(
            ((two == 0x7f) & ((one == 't') | (one == 'y') | (one == 'k')))
            | ((one == 'm') & (two == 'p')) | ((one == 'e') & (two == 'e'))
            | ((one == 't') & (two == 'v')))
            | (r & (Bytes16)(two == 'r'));
    }

    /* Bit 0: a semicolon, but for the last byte; bit 1: a pair. Reads text[0:n). */
    static int look_at_text(const unsigned char *text, size_t n) {
        Bytes16 semicolons = {0}, pairs = {0};
        unsigned char rest[32] = {0};
        size_t at = 0;
        for (; at + 18 <= n; at += 16)
            look_at_16(text + at, load_16(text + at + 2), &semicolons, &pairs);
        if (at + 1 < n) {  /* 17 bytes at most */
            __builtin_memcpy(rest, text + at, n - at);
            if (rest[n - at - 1] == ';')
                rest[n - at - 1] = 0;
            look_at_16(rest, load_16(rest + 2), &semicolons, &pairs);
        }
        return any_of_16(semicolons) | any_of_16(pairs) << 1;
    }
    """
    int look_at_text(const uint8_t *text, size_t n) nogil


cdef inline int look(const uint8_t *text, size_t n) noexcept nogil:
    """Whether there is a semicolon, or a part of a name that reaches into the session.

    The parts are "t_" of set_config and its like, "y_" of pg_advisory_lock, "k_" of
    dblink_connect, "mp" of temp, "ee" of setseed, "rrv" of currval, "tv" of lastval. A
    semicolon as the last byte does not count.

    In:      text[0:n) borrowed
    Cost: O(n), some twenty instructions for each 16 bytes
    """
    return look_at_text(text, n)


# ---------------------------------------------------------------- names of functions

cdef bint begins(const Reader *r, size_t start, size_t end, const char *word,
                 size_t word_n) noexcept nogil:
    return end - start >= word_n and is_word(r, start, start + word_n, word, word_n)


cdef bint holds(const Reader *r, size_t start, size_t end, const char *word,
                size_t word_n) noexcept nogil:
    while end - start >= word_n:
        if is_word(r, start, start + word_n, word, word_n):
            return True
        start += 1
    return False


cdef size_t word_before(const Reader *r, size_t at) noexcept nogil:
    """Where the word begins that stands in front of ``at``, but for blanks."""
    while at and r.text[at - 1] <= c" ":
        at -= 1
    while at and in_name(r.text[at - 1]):
        at -= 1
    return at


cdef size_t word_end(const Reader *r, size_t at) noexcept nogil:
    while at < r.n and in_name(r.text[at]):
        at += 1
    return at


cdef bint is_called(const Reader *r, size_t end) noexcept nogil:
    cdef size_t at = end
    if at < r.n and r.text[at] == c'"':
        at += 1
    at = skip_blank(r.text, r.n, at)
    return at < r.n and r.text[at] == c"("


cdef uint64_t made_temporary(const Reader *r, size_t start) noexcept nogil:
    """"temp" and "temporary", where a table is made of a query's rows."""
    cdef size_t before = word_before(r, start)
    cdef size_t end = word_end(r, before)
    if is_word(r, before, end, b"local", 5) or is_word(r, before, end, b"global", 6):
        before = word_before(r, before)
        end = word_end(r, before)
    if is_word(r, before, end, b"into", 4):
        return CHANGE_TEMPORARY | CHANGE_MEANING
    return 0


cdef uint64_t named_change(
    Reader *r, size_t start, size_t end
) noexcept nogil:
    """What follows from a name anywhere in a text."""
    if begins(r, start, end, b"set_", 4):
        if not is_called(r, end):
            return 0
        if is_word(r, start, end, b"set_config", 10):
            r.at = end
            return read_set_config(r)
        return CHANGE_SETTING | CHANGE_MEANING
    if holds(r, start, end, b"advisory_lock", 13):
        return CHANGE_LOCK if is_called(r, end) else 0
    if is_word(r, start, end, b"temp", 4) or is_word(r, start, end, b"temporary", 9):
        return made_temporary(r, start)
    if begins(r, start, end, b"pg_temp", 7):
        return CHANGE_TEMPORARY | CHANGE_MEANING
    if is_word(r, start, end, b"currval", 7) or is_word(r, start, end, b"lastval", 7):
        return CHANGE_SEQUENCES if is_called(r, end) else 0
    if is_word(r, start, end, b"setseed", 7) or (
        begins(r, start, end, b"dblink_connect", 14)
    ):
        return CHANGE_FOR_GOOD if is_called(r, end) else 0
    return 0


cdef uint64_t named_changes(Reader *r) noexcept nogil:
    """What names anywhere in a text say, in literals and comments as well."""
    cdef size_t at = 0
    cdef size_t start
    cdef uint64_t changes = 0
    while at < r.n:
        if not in_name(r.text[at]):
            at += 1
            continue
        start = at
        at = word_end(r, at)
        if at - start >= 4:
            changes |= named_change(r, start, at)
    return changes


# ---------------------------------------------------------------- other commands

cdef enum:
    ANYTHING = CHANGE_MEANING | CHANGE_HIDDEN | CHANGE_FORGETS


cdef bint read_next(Reader *r, size_t *start) noexcept nogil:
    """Go behind the command's next word, over literals, quoted names and (...)."""
    cdef size_t at = r.at
    while True:
        at = skip_blank(r.text, r.n, at)
        if at >= r.n or r.text[at] == c";":
            return False
        start[0] = at
        r.at = skip_word(r.text, r.n, at, r.flags)
        if r.at > at:
            return True
        if r.text[at] == c"(":
            at = skip_parentheses(r.text, r.n, at, r.flags)
        else:
            at = skip_mark(r.text, r.n, at, at, r.flags)


cdef uint64_t read_create(Reader *r) noexcept nogil:
    """A temporary one stays in the session, unless it goes with the transaction."""
    cdef size_t start = 0
    if next_is(r, b"database", 8):
        r.databases = True
        return CHANGE_MEANING
    if next_is(r, b"or", 2):
        next_is(r, b"replace", 7)
    if not next_is(r, b"local", 5):
        next_is(r, b"global", 6)
    if not next_is(r, b"temp", 4) and not next_is(r, b"temporary", 9):
        return CHANGE_MEANING | custom_in_body(r)  # of a function: SET my.own
    while read_next(r, &start):
        if is_word(r, start, r.at, b"as", 2):
            break
        if is_word(r, start, r.at, b"commit", 6) and next_is(r, b"drop", 4):
            return CHANGE_MEANING
    return CHANGE_MEANING | CHANGE_TEMPORARY


cdef uint64_t read_declare(Reader *r) noexcept nogil:
    """A cursor WITH HOLD outlives its transaction."""
    cdef size_t start = 0
    while read_next(r, &start):
        if is_word(r, start, r.at, b"for", 3):
            break
        if is_word(r, start, r.at, b"with", 4) and next_is(r, b"hold", 4):
            return CHANGE_CURSOR
    return 0


cdef uint64_t read_explain(Reader *r) noexcept nogil:
    """EXPLAIN ANALYZE runs what it explains."""
    return command_changes(r, skip_explain(r.text, r.n, r.at, r.flags))


cdef uint64_t read_alter(Reader *r) noexcept nogil:
    """ALTER ROLE … SET my.own has the parameter made, to look at the value."""
    r.databases |= next_is(r, b"database", 8)
    return CHANGE_MEANING | custom_in_body(r)


cdef uint64_t read_drop(Reader *r) noexcept nogil:
    r.databases |= next_is(r, b"database", 8)
    return CHANGE_MEANING


cdef uint64_t read_do(Reader *r) noexcept nogil:
    return ANYTHING | custom_in_body(r)


cdef uint64_t read_discard(Reader *r) noexcept nogil:
    if next_is(r, b"all", 3):
        return (
            CHANGE_FORGETS | CHANGE_MEANING | CHANGE_TRACKED | all_reset(r, False)
        )
    return CHANGE_MEANING


cdef uint64_t read_rollback(Reader *r) noexcept nogil:
    """ROLLBACK TO a savepoint may take a RESET back, or what has been set behind it."""
    if not next_is(r, b"work", 4):
        next_is(r, b"transaction", 11)
    return CHANGE_BACK | (
        CHANGE_GIVES | CHANGE_LENDS if next_is(r, b"to", 2) else CHANGE_UNDOES
    )


cdef uint64_t read_deallocate(Reader *r) noexcept nogil:
    next_is(r, b"prepare", 7)
    return CHANGE_FORGETS if next_is(r, b"all", 3) else 0

ctypedef uint64_t (*Read)(Reader *r) noexcept nogil

cdef enum:
    COMMANDS = 20
    WORD_BYTES = 12

cdef struct Command:  # a first word; what it changes, or who reads on
    char word[WORD_BYTES]
    uint8_t word_n
    uint64_t changes
    Read read

cdef Command COMMANDS_KNOWN[COMMANDS]
cdef uint8_t FIRST_OF[27]  # of the commands with a letter, a to z; the last is the end

# By their first letters. Every other command changes nothing but rows, or is none.
_COMMANDS = {
    b"abort": CHANGE_BACK | CHANGE_UNDOES,
    b"alter": 0,
    b"call": ANYTHING,
    b"commit": CHANGE_BACK,
    b"create": 0,
    b"deallocate": 0,
    b"declare": 0,
    b"discard": 0,
    b"do": 0,
    b"drop": 0,
    b"end": CHANGE_BACK,
    b"explain": 0,
    b"import": CHANGE_MEANING,
    b"listen": CHANGE_LISTEN,
    b"load": CHANGE_FOR_GOOD | CHANGE_MEANING,
    b"reassign": CHANGE_MEANING,
    b"reset": 0,
    b"rollback": 0,
    b"set": 0,
    b"update": 0,
}


cdef int read_by(bytes word, Read read) except -1:
    COMMANDS_KNOWN[list(_COMMANDS).index(word)].read = read
    return 0


cdef int fill_commands() except -1:
    cdef int i = 0
    cdef bytes word
    if len(_COMMANDS) != COMMANDS or sorted(_COMMANDS) != list(_COMMANDS):
        raise ImportError("COMMANDS is not their number, or they are not in order")
    for word, changes in _COMMANDS.items():
        memcpy(COMMANDS_KNOWN[i].word, <const char *> word, len(word))
        COMMANDS_KNOWN[i].word_n = <uint8_t> len(word)
        COMMANDS_KNOWN[i].changes = changes
        i += 1
    for i in range(27):
        FIRST_OF[i] = sum(1 for word in _COMMANDS if word[0] < c"a" + i)
    read_by(b"alter", read_alter)
    read_by(b"create", read_create)
    read_by(b"deallocate", read_deallocate)
    read_by(b"declare", read_declare)
    read_by(b"discard", read_discard)
    read_by(b"do", read_do)
    read_by(b"drop", read_drop)
    read_by(b"explain", read_explain)
    read_by(b"reset", read_reset)
    read_by(b"rollback", read_rollback)
    read_by(b"set", read_set)
    read_by(b"update", read_update)
    return 0

fill_commands()

cdef struct PlainWord:  # the commands with a first letter that nobody looks at
    bint any  # all of them
    uint8_t second  # else those with these letters behind it; 0: none
    uint8_t third

cdef PlainWord PLAIN[26]


cdef int fill_plain() except -1:
    """SELECT, INSERT, DELETE, and what begins with none of the other letters.

    ``sql_text`` looks at what begins with one of "pedc"; none of its words is one of
    these either.
    """
    cdef int i
    cdef bytes word
    looked_at = {word[0] for word in _COMMANDS} | set(b"pedc")
    for i in range(26):
        PLAIN[i].any = c"a" + i not in looked_at
    for word in (b"sel", b"ins", b"del"):
        if any(other.startswith(word) for other in _COMMANDS):
            raise ImportError(f"{word!r} is not plain")
        PLAIN[word[0] - c"a"].second = word[1]
        PLAIN[word[0] - c"a"].third = word[2]
    return 0

fill_plain()


cdef uint64_t command_changes(Reader *r, size_t at) noexcept nogil:
    """What the command at ``at`` changes, by its first words."""
    cdef const Command *command
    cdef uint8_t letter = low(r.text[at]) - c"a" if at < r.n else 26
    cdef size_t end
    cdef int i
    if letter >= 26:
        return 0
    for i in range(FIRST_OF[letter], FIRST_OF[letter + 1]):
        command = &COMMANDS_KNOWN[i]
        end = at + command.word_n
        if (
            end <= r.n
            and is_word(r, at, end, command.word, command.word_n)
            and (end == r.n or not in_name(r.text[end]))
        ):
            r.at = end
            return command.changes if command.read == NULL else command.read(r)
    return 0


cdef inline uint64_t and_then(uint64_t before, uint64_t changes) noexcept nogil:
    """A RESET that is rolled back is of no account; nor is what is set in front of the
    first one that is not.
    """
    if changes & CHANGE_UNDOES:
        before &= (1 << CHANGE_RESET_SHIFT) - 1
    if before >> CHANGE_RESET_SHIFT == 0 and changes >> CHANGE_RESET_SHIFT:
        before &= ~<uint64_t> (CHANGE_GIVES | CHANGE_LENDS)
    return before | changes


cdef bint sql_is_plain(const uint8_t *text, size_t n) noexcept nogil:
    """Whether a text surely changes nothing, and names no prepared statement.

    It is one command, by its first letters none that is looked at here or in
    ``sql_text``, and has no part of a name that reaches into the session. Most are.

    In:      as ``look``
    Cost:    O(n), some twenty instructions for each 16 bytes
    """
    cdef uint8_t letter = low(text[0]) - c"a" if n > 3 else 26
    if letter >= 26 or not PLAIN[letter].any and (
        low(text[1]) != PLAIN[letter].second or low(text[2]) != PLAIN[letter].third
    ):
        return False
    return look(text, n) == 0


cdef uint64_t sql_changes(
    const uint8_t *text, size_t n, const ParamTable *params, const ParamSet *reported,
    uint8_t flags,
) noexcept nogil:
    """What the commands of a text may change, or-ed ``Change``; mostly 0.

    Bit CHANGE_DATABASES_SHIFT: some of them concern whole databases.

    In:      text[0:n) borrowed; reported: what the server says of its parameters
    Cost:    O(n), no allocation: a few instructions for each 16 bytes, more where
             there are several commands or names that look suspicious
    Source:  "SET", "RESET", "DISCARD", "CREATE TABLE", "DECLARE", "SELECT INTO"
    """
    cdef Reader r
    cdef int seen = look(text, n)
    cdef size_t at = skip_blank(text, n, 0)
    cdef uint64_t changes
    r.text = text
    r.n = n
    r.at = 0
    r.params = params
    r.reported = reported
    r.flags = flags
    r.databases = False
    changes = command_changes(&r, at)
    if seen & HAS_PAIR:
        changes |= named_changes(&r)
    if seen & HAS_SEMICOLON:
        at = sql_end(text, n, at, flags)
        while at < n:
            at = skip_blank(text, n, at + 1)
            changes = and_then(changes, command_changes(&r, at))
            at = sql_end(text, n, at, flags)
    return changes | <uint64_t> r.databases << CHANGE_DATABASES_SHIFT


cdef uint64_t sql_changes_of_plan(
    const uint8_t *text, size_t n, const ParamTable *params, const ParamSet *reported,
    uint8_t flags,
) noexcept nogil:
    """As sql_changes, of a text that cannot begin with a command: what PREPARE has."""
    cdef Reader r
    if not look(text, n) & HAS_PAIR:
        return 0
    r.text = text
    r.n = n
    r.at = 0
    r.params = params
    r.reported = reported
    r.flags = flags
    r.databases = False
    return named_changes(&r)
