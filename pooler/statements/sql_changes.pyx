# SPDX-License-Identifier: MIT
"""Reading of texts for what they change; see ``sql_changes.pxd``."""

from libc.string cimport memchr, memcmp, memcpy

from pooler.session.records cimport (
    CHANGE_BACK, CHANGE_CLEANS, CHANGE_CURSOR, CHANGE_FORGETS, CHANGE_FOR_GOOD,
    CHANGE_HIDDEN, CHANGE_LISTEN, CHANGE_LOCAL, CHANGE_LOCK, CHANGE_MEANING,
    CHANGE_RESET_SHIFT, CHANGE_SETTING, CHANGE_TEMPORARY, CHANGE_TRACKED,
)
from pooler.statements.sql_scan cimport (
    skip_blank, skip_mark, skip_parentheses, skip_word, sql_end,
)
from pooler.statements.sql_text cimport skip_explain
from pooler.tables.params cimport PARAM_NAME_MAX, params_index

cdef enum:
    HAS_SEMICOLON = 1
    HAS_PAIR = 2

cdef struct Reader:  # of one command
    const uint8_t *text
    size_t n
    size_t at  # behind the words that were read
    const ParamTable *params
    const ParamSet *reported
    uint8_t flags  # SqlFlag


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

    /* Looks at p[0:17): at 16 bytes, and the one behind each. */
    static inline void look_at_16(
        const unsigned char *p, Bytes16 *semicolons, Bytes16 *pairs
    ) {
        Bytes16 raw = load_16(p), one = raw | 0x20, two = load_16(p + 1) | 0x20;
        *semicolons |= (Bytes16)(raw == ';');
        *pairs |= (Bytes16)(
            ((two == 0x7f) & ((one == 't') | (one == 'y') | (one == 'k')))
            | ((one == 'm') & (two == 'p')) | ((one == 'e') & (two == 'e')));
    }

    /* Bit 0: a semicolon, but for the last byte; bit 1: a pair. */
    static int look_at_text(const unsigned char *text, size_t n) {
        Bytes16 semicolons = {0}, pairs = {0};
        unsigned char tail[32] = {0};
        size_t at = 0;
        for (; at + 17 <= n; at += 16)
            look_at_16(text + at, &semicolons, &pairs);
        if (at + 1 < n) {
            if (n >= 17) {
                look_at_16(text + n - 17, &semicolons, &pairs);
            } else {
                __builtin_memcpy(tail, text, n);
                tail[n - 1] = tail[n - 1] == ';' ? 0 : tail[n - 1];
                look_at_16(tail, &semicolons, &pairs);
            }
        }
        return any_of_16(semicolons) | any_of_16(pairs) << 1;
    }
    """
    int look_at_text(const uint8_t *text, size_t n) nogil


cdef inline uint8_t low(uint8_t byte) noexcept nogil:
    """A letter as a small one; "_" becomes 0x7f."""
    return byte | 0x20


cdef inline int look(const uint8_t *text, size_t n) noexcept nogil:
    """Whether there is a semicolon, or a part of a name that reaches into the session.

    The parts are "t_" of set_config and its like, "y_" of pg_advisory_lock, "k_" of
    dblink_connect, "mp" of temp, "ee" of setseed. A semicolon as the last byte does not
    count.

    Cost: O(n), some twenty instructions for each 16 bytes
    """
    return look_at_text(text, n)


# ---------------------------------------------------------------- names of functions

cdef inline bint in_name(uint8_t byte) noexcept nogil:
    return (
        c"a" <= low(byte) <= c"z" or byte == c"_" or c"0" <= byte <= c"9"
        or byte == c"$" or byte >= 0x80
    )


cdef bint is_word(const Reader *r, size_t start, size_t end, const char *word,
                  size_t word_n) noexcept nogil:
    """Whether text[start:end) is this word, which is given in small letters."""
    cdef size_t i
    if end - start != word_n:
        return False
    for i in range(word_n):
        if r.text[start + i] | (0x20 if word[i] != c"_" else 0) != <uint8_t> word[i]:
            return False
    return True


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


cdef uint32_t made_temporary(const Reader *r, size_t start) noexcept nogil:
    """"temp" and "temporary", where a table is made of a query's rows."""
    cdef size_t before = word_before(r, start)
    cdef size_t end = word_end(r, before)
    if is_word(r, before, end, b"local", 5) or is_word(r, before, end, b"global", 6):
        before = word_before(r, before)
        end = word_end(r, before)
    if is_word(r, before, end, b"into", 4):
        return CHANGE_TEMPORARY | CHANGE_MEANING
    return 0


cdef uint32_t named_change(
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
    if is_word(r, start, end, b"setseed", 7) or (
        begins(r, start, end, b"dblink_connect", 14)
    ):
        return CHANGE_FOR_GOOD if is_called(r, end) else 0
    return 0


cdef uint32_t named_changes(Reader *r) noexcept nogil:
    """What names anywhere in a text say, in literals and comments as well."""
    cdef size_t at = 0
    cdef size_t start
    cdef uint32_t changes = 0
    while at < r.n:
        if not in_name(r.text[at]):
            at += 1
            continue
        start = at
        at = word_end(r, at)
        if at - start >= 4:
            changes |= named_change(r, start, at)
    return changes


# ---------------------------------------------------------------- SET and RESET

cdef size_t read_word(Reader *r) noexcept nogil:
    """Go behind the next word; where it begins. Behind the last it has no bytes."""
    cdef size_t start = skip_blank(r.text, r.n, r.at)
    r.at = skip_word(r.text, r.n, start, r.flags)
    return start


cdef bint next_is(Reader *r, const char *word, size_t word_n) noexcept nogil:
    """Whether the next word is this one; then the reader stands behind it."""
    cdef size_t before = r.at
    cdef size_t start = read_word(r)
    if is_word(r, start, r.at, word, word_n):
        return True
    r.at = before
    return False


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

# Parameters that do not change what a text means.
cdef const char *HARMLESS[13]
HARMLESS[:] = [
    b"application_name", b"statement_timeout", b"lock_timeout", b"work_mem",
    b"idle_in_transaction_session_timeout", b"transaction_timeout",
    b"idle_session_timeout", b"synchronous_commit", b"maintenance_work_mem",
    b"client_min_messages", b"extra_float_digits", b"default_transaction_isolation",
    b"default_transaction_read_only",
]


cdef bint is_harmless(const uint8_t *name, size_t n) noexcept nogil:
    cdef Reader r
    cdef size_t size
    r.text = name
    r.n = n
    for known in HARMLESS:
        size = 0
        while known[size] != 0:
            size += 1
        if is_word(&r, 0, n, known, size):
            return True
    return False


cdef inline bint has_dot(const uint8_t *name, size_t n) noexcept nogil:
    """Whether PostgreSQL makes a parameter of this name when it is first set.

    It is there to the end of the session then: current_setting(…, true) is '' and not
    NULL, also behind DISCARD ALL.
    """
    return n != 0 and memchr(name, c".", n) != NULL


cdef uint32_t all_reset(const Reader *r) noexcept nogil:
    """Every parameter that follows its client goes back to its value at the login."""
    return ((<uint32_t> 1 << r.params.count) - 1) << CHANGE_RESET_SHIFT


cdef uint32_t reset_of(const Reader *r, const char *name, size_t n) noexcept nogil:
    cdef int index = params_index(r.params, <const uint8_t *> name, n)
    return <uint32_t> 1 << (CHANGE_RESET_SHIFT + index) if index >= 0 else 0


cdef bint is_to_default(Reader *r) noexcept nogil:
    """Whether a SET ends with TO DEFAULT, or = DEFAULT."""
    cdef size_t at
    if not next_is(r, b"to", 2):
        at = skip_blank(r.text, r.n, r.at)
        if at < r.n and r.text[at] == c"=":
            r.at = at + 1
    return next_is(r, b"default", 7)


cdef inline uint32_t local_of(uint32_t changes, bint local) noexcept nogil:
    return changes | (CHANGE_LOCAL if local and changes & CHANGE_TRACKED else 0)


cdef uint32_t set_to(
    Reader *r, const char *name, size_t n, bint local, bint default
) noexcept nogil:
    return local_of(setting_changed(r, name, n, local), local) | (
        reset_of(r, name, n) if default and not local else 0
    )


cdef uint32_t setting_changed(
    const Reader *r, const char *name, size_t n, bint local
) noexcept nogil:
    """What SET of a parameter changes; ``local``: for the transaction only."""
    cdef const uint8_t *p = <const uint8_t *> name
    cdef int index = params_index(r.params, p, n)
    cdef bint harmless = is_harmless(p, n)
    if index >= 0 and r.reported != NULL and r.reported.value[index] != NULL:
        return 0 if index == r.params.label else CHANGE_TRACKED
    return (0 if harmless else CHANGE_MEANING) | (
        0 if local else CHANGE_SETTING | (CHANGE_FOR_GOOD if has_dot(p, n) else 0)
    )


cdef size_t read_parameter(Reader *r, char *name) noexcept nogil:
    """Read the name of a parameter, small; 0 when it cannot be read as one.

    ``name``: room for PARAM_NAME_MAX bytes.
    """
    cdef size_t at = skip_blank(r.text, r.n, r.at)
    cdef bint quoted = at < r.n and r.text[at] == c'"'
    cdef size_t n = 0
    at += quoted
    while at < r.n and (in_name(r.text[at]) or r.text[at] == c"."):
        if n == PARAM_NAME_MAX:
            return 0
        name[n] = r.text[at] | 0x20 if c"A" <= r.text[at] <= c"Z" else r.text[at]
        n += 1
        at += 1
    if quoted and (at >= r.n or r.text[at] != c'"'):
        return 0
    r.at = at + quoted
    return n


cdef uint32_t read_set(Reader *r) noexcept nogil:
    cdef char name[PARAM_NAME_MAX]
    cdef bint local = next_is(r, b"local", 5)
    cdef size_t at
    cdef size_t n
    if not local and next_is(r, b"session", 7):
        if next_is(r, b"characteristics", 15):
            return CHANGE_SETTING
    n = read_parameter(r, name)
    if n == 11 and memcmp(name, b"transaction", 11) == 0:
        return 0
    if n == 11 and memcmp(name, b"constraints", 11) == 0:
        return 0
    if n == 4 and memcmp(name, b"time", 4) == 0:
        next_is(r, b"zone", 4)
        return set_to(
            r, b"timezone", 8, local,
            next_is(r, b"default", 7) or next_is(r, b"local", 5),
        )
    if n == 5 and memcmp(name, b"names", 5) == 0:
        at = skip_blank(r.text, r.n, r.at)
        return set_to(
            r, b"client_encoding", 15, local,
            at >= r.n or r.text[at] == c";" or next_is(r, b"default", 7),
        )
    if n == 4 and memcmp(name, b"seed", 4) == 0:
        return CHANGE_FOR_GOOD
    if n == 0:
        return CHANGE_MEANING | CHANGE_SETTING
    return set_to(r, name, n, local, is_to_default(r))


cdef uint32_t read_reset(Reader *r) noexcept nogil:
    """What was set is as it was at the start of the session; nothing new is left."""
    cdef char name[PARAM_NAME_MAX]
    cdef size_t n
    if next_is(r, b"all", 3):
        return CHANGE_TRACKED | CHANGE_MEANING | all_reset(r)
    n = read_parameter(r, name)
    if n == 4 and memcmp(name, b"time", 4) == 0:
        return setting_changed(r, b"timezone", 8, True) | reset_of(r, b"timezone", 8)
    if has_dot(<const uint8_t *> name, n):
        return CHANGE_FOR_GOOD | CHANGE_MEANING
    return setting_changed(r, name, n, True) | reset_of(r, name, n)


cdef uint32_t read_set_config(Reader *r) noexcept nogil:
    """set_config(name, value, is_local): a name and a truth that are literals."""
    cdef char name[PARAM_NAME_MAX]
    cdef size_t at = skip_blank(r.text, r.n, skip_blank(r.text, r.n, r.at) + 1)
    cdef size_t last = at
    cdef size_t n = 0
    cdef int depth = 1
    cdef bint local
    if at < r.n and r.text[at] == c"'":
        r.at = at + 1
        n = read_parameter(r, name)
        if r.at >= r.n or r.text[r.at] != c"'":
            n = 0
    while at < r.n:
        if r.text[at] == c"(":
            depth += 1
        elif r.text[at] == c")":
            depth -= 1
            if depth == 0:
                break
        elif r.text[at] == c"'":
            at += 1
            while at < r.n and r.text[at] != c"'":
                at += 1
        elif r.text[at] == c"," and depth == 1:
            last = at + 1
        at += 1
    r.at = last
    local = next_is(r, b"true", 4) and skip_blank(r.text, r.n, r.at) == at
    return local_of(setting_changed(r, name, n, local), local)


# ---------------------------------------------------------------- other commands

cdef uint32_t read_create(Reader *r) noexcept nogil:
    """A temporary one stays in the session, unless it goes with the transaction."""
    cdef size_t start = 0
    if next_is(r, b"or", 2):
        next_is(r, b"replace", 7)
    if not next_is(r, b"local", 5):
        next_is(r, b"global", 6)
    if not next_is(r, b"temp", 4) and not next_is(r, b"temporary", 9):
        return CHANGE_MEANING
    while read_next(r, &start):
        if is_word(r, start, r.at, b"as", 2):
            break
        if is_word(r, start, r.at, b"commit", 6) and next_is(r, b"drop", 4):
            return CHANGE_MEANING
    return CHANGE_MEANING | CHANGE_TEMPORARY


cdef uint32_t read_declare(Reader *r) noexcept nogil:
    """A cursor WITH HOLD outlives its transaction."""
    cdef size_t start = 0
    while read_next(r, &start):
        if is_word(r, start, r.at, b"for", 3):
            break
        if is_word(r, start, r.at, b"with", 4) and next_is(r, b"hold", 4):
            return CHANGE_CURSOR
    return 0


cdef uint32_t read_explain(Reader *r) noexcept nogil:
    """EXPLAIN ANALYZE runs what it explains."""
    return command_changes(r, skip_explain(r.text, r.n, r.at, r.flags))


cdef uint32_t read_discard(Reader *r) noexcept nogil:
    if next_is(r, b"all", 3):
        return (
            CHANGE_CLEANS | CHANGE_FORGETS | CHANGE_MEANING | CHANGE_TRACKED
            | all_reset(r)
        )
    return CHANGE_MEANING


cdef uint32_t read_deallocate(Reader *r) noexcept nogil:
    next_is(r, b"prepare", 7)
    return CHANGE_FORGETS if next_is(r, b"all", 3) else 0

ctypedef uint32_t (*Read)(Reader *r) noexcept nogil

cdef enum:
    COMMANDS = 19
    WORD_BYTES = 12

cdef struct Command:  # a first word; what it changes, or who reads on
    char word[WORD_BYTES]
    uint8_t word_n
    uint32_t changes
    Read read

cdef Command COMMANDS_KNOWN[COMMANDS]
cdef uint8_t FIRST_OF[27]  # of the commands with a letter, a to z; the last is the end

# By their first letters. Every other command changes nothing but rows, or is none.
_ANYTHING = CHANGE_MEANING | CHANGE_HIDDEN | CHANGE_FORGETS
_COMMANDS = {
    b"abort": CHANGE_BACK,
    b"alter": CHANGE_MEANING,
    b"call": _ANYTHING,
    b"commit": CHANGE_BACK,
    b"create": 0,
    b"deallocate": 0,
    b"declare": 0,
    b"discard": 0,
    b"do": _ANYTHING,
    b"drop": CHANGE_MEANING,
    b"end": CHANGE_BACK,
    b"explain": 0,
    b"import": CHANGE_MEANING,
    b"listen": CHANGE_LISTEN,
    b"load": CHANGE_FOR_GOOD | CHANGE_MEANING,
    b"reassign": CHANGE_MEANING,
    b"reset": 0,
    b"rollback": CHANGE_BACK,
    b"set": 0,
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
    read_by(b"create", read_create)
    read_by(b"deallocate", read_deallocate)
    read_by(b"declare", read_declare)
    read_by(b"discard", read_discard)
    read_by(b"explain", read_explain)
    read_by(b"reset", read_reset)
    read_by(b"set", read_set)
    return 0

fill_commands()


cdef uint32_t command_changes(Reader *r, size_t at) noexcept nogil:
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


cdef uint32_t sql_changes(
    const uint8_t *text, size_t n, const ParamTable *params, const ParamSet *reported,
    uint8_t flags,
) noexcept nogil:
    """What the commands of a text may change, or-ed ``Change``; mostly 0.

    In:      text[0:n) borrowed; reported: what the server says of its parameters
    Cost:    O(n), no allocation: a few instructions for each 16 bytes, more where
             there are several commands or names that look suspicious
    Source:  "SET", "RESET", "DISCARD", "CREATE TABLE", "DECLARE", "SELECT INTO"
    """
    cdef Reader r
    cdef int seen = look(text, n)
    cdef size_t at = skip_blank(text, n, 0)
    cdef uint32_t changes
    r.text = text
    r.n = n
    r.at = 0
    r.params = params
    r.reported = reported
    r.flags = flags
    changes = command_changes(&r, at)
    if seen & HAS_PAIR:
        changes |= named_changes(&r)
    if seen & HAS_SEMICOLON:
        at = sql_end(text, n, at, flags)
        while at < n:
            at = skip_blank(text, n, at + 1)
            changes |= command_changes(&r, at)
            at = sql_end(text, n, at, flags)
    return changes


cdef uint32_t sql_changes_of_plan(
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
    return named_changes(&r)
