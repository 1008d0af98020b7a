# SPDX-License-Identifier: MIT
"""Reading of SQL as far as ``sql_text.pxd`` says."""

from libc.stdint cimport uint8_t
from libc.string cimport memchr

from pooler.statements.sql_name cimport read_name
from pooler.statements.sql_scan cimport (
    is_space, is_word, skip_blank, skip_mark, skip_parentheses, skip_word, sql_end,
    starts_word,
)

cdef extern from *:
    """
    typedef unsigned char Bytes16 __attribute__((vector_size(16)));

    /* From at to where the next 16 bytes begin with a semicolon among them behind which
       a blank stands, a comment, or a letter that begins one of our commands; or to the
       last bytes of a text, which are not looked at. */
    static size_t next_suspect(const unsigned char *text, size_t n, size_t at) {
        for (; at + 17 <= n; at += 16) {
            Bytes16 one, two, low, hit;
            unsigned long long half[2];
            __builtin_memcpy(&one, text + at, 16);
            __builtin_memcpy(&two, text + at + 1, 16);
            low = two | 0x20;
            hit = (Bytes16)((one == ';') & (
                (two <= ' ') | (two == '-') | (two == '/') | (low == 'c')
                | (low == 'd') | (low == 'e') | (low == 'p')));
            __builtin_memcpy(half, &hit, 16);
            if (half[0] | half[1])
                break;
        }
        return at;
    }
    """
    size_t next_suspect(const uint8_t *text, size_t n, size_t at) nogil

cdef enum CreateKind:
    CREATE_OTHER
    CREATE_TABLE
    CREATE_ROUTINE

cdef struct Create:  # a walk over a CREATE, token by token
    const uint8_t *text  # borrow
    size_t n
    size_t at
    size_t floor  # as skip_mark wants it
    int depth  # of parentheses
    int blocks  # BEGIN ATOMIC and CASE whose END is to come
    bint named  # the next word is no keyword: AS or a dot stands before it
    uint8_t flags


cdef inline bint is_cut(const uint8_t *text, size_t n, size_t at) noexcept nogil:
    """Whether nothing stands at ``at`` yet but, perhaps, half of a comment's mark."""
    return at >= n or (at + 1 == n and (text[at] == c"-" or text[at] == c"/"))


cdef size_t skip_explain(
    const uint8_t *text, size_t n, size_t at, uint8_t flags
) noexcept nogil:
    """From behind EXPLAIN to the statement that it explains."""
    cdef size_t end
    at = skip_blank(text, n, at)
    if at < n and text[at] == c"(":
        return skip_blank(text, n, skip_parentheses(text, n, at, flags))
    while True:
        end = skip_word(text, n, at, flags)
        if not (
            is_word(text, at, end, b"analyze") or is_word(text, at, end, b"analyse")
            or is_word(text, at, end, b"verbose")
        ):
            return at
        at = skip_blank(text, n, end)


# ---------------------------------------------------------------- CREATE

cdef inline bint is_adjective(
    const uint8_t *text, size_t at, size_t end
) noexcept nogil:
    """What may stand between CREATE and what it creates."""
    return (
        is_word(text, at, end, b"or") or is_word(text, at, end, b"replace")
        or is_word(text, at, end, b"temp") or is_word(text, at, end, b"temporary")
        or is_word(text, at, end, b"local") or is_word(text, at, end, b"global")
        or is_word(text, at, end, b"unlogged")
    )


cdef CreateKind read_kind(
    const uint8_t *text, size_t n, size_t *at, uint8_t flags, bint *cut
) noexcept nogil:
    """What a CREATE makes; *at goes from behind CREATE to behind that word."""
    cdef size_t end
    while True:
        at[0] = skip_blank(text, n, at[0])
        end = skip_word(text, n, at[0], flags)
        cut[0] = is_cut(text, n, at[0]) or end == n
        if not is_adjective(text, at[0], end):
            break
        at[0] = end
    if is_word(text, at[0], end, b"table"):
        at[0] = end
        return CREATE_TABLE
    if is_word(text, at[0], end, b"function") or (
        is_word(text, at[0], end, b"procedure")
    ):
        at[0] = end
        return CREATE_ROUTINE
    return CREATE_OTHER


cdef void begin_create(
    Create *w, const uint8_t *text, size_t n, size_t at, uint8_t flags
) noexcept nogil:
    w.text = text
    w.n = n
    w.at = w.floor = at
    w.depth = w.blocks = 0
    w.named = False
    w.flags = flags


cdef size_t next_word(Create *w) noexcept nogil:
    """Go to the next word; its end. 0, and *at is the end, when the command ends."""
    cdef uint8_t byte
    while w.at < w.n:
        byte = w.text[w.at]
        if starts_word(byte):
            w.floor = w.at
            return skip_word(w.text, w.n, w.at, w.flags)
        if byte == c";" and w.depth == 0 and w.blocks == 0:
            return 0
        if c"0" <= byte <= c"9":
            w.at += 1
            continue
        if byte == c"(":
            w.depth += 1
        elif byte == c")":
            w.depth -= w.depth > 0
        elif byte == c".":
            w.named = True
        if byte == c"'" or byte == c'"' or byte == c"$" or byte == c"-" or byte == c"/":
            w.at = skip_mark(w.text, w.n, w.at, w.floor, w.flags)
        else:
            w.at += 1
        w.floor = w.at
    w.at = w.n
    return 0


cdef uint8_t read_create_table(
    Create *w, SqlCommand *found
) noexcept nogil:
    """CREATE TABLE ... AS EXECUTE: its first AS outside of parentheses."""
    cdef size_t end = next_word(w)
    cdef size_t name
    while end and not (w.depth == 0 and is_word(w.text, w.at, end, b"as")):
        w.at = end
        end = next_word(w)
    if end == 0:
        found.end = w.at
        found.cut = w.at == w.n
        return SQL_OTHER
    w.at = skip_blank(w.text, w.n, end)
    end = skip_word(w.text, w.n, w.at, w.flags)
    found.end = w.at
    found.cut = is_cut(w.text, w.n, w.at) or end == w.n
    if not is_word(w.text, w.at, end, b"execute"):
        return SQL_OTHER
    name = skip_blank(w.text, w.n, end)
    return SQL_EXECUTE if read_name(w.text, w.n, name, w.flags, found) else SQL_OTHER


cdef size_t routine_end(Create *w) noexcept nogil:
    """The semicolon behind CREATE FUNCTION: those in BEGIN ATOMIC ... END are its."""
    cdef size_t end = next_word(w)
    cdef size_t start
    while end:
        start = w.at
        w.at = end
        if w.named:
            w.named = False
        elif w.blocks == 0 and w.depth == 0 and is_word(w.text, start, end, b"begin"):
            start = skip_blank(w.text, w.n, end)
            end = skip_word(w.text, w.n, start, w.flags)
            if is_word(w.text, start, end, b"atomic"):
                w.blocks = 1
                w.at = end
        elif w.blocks and is_word(w.text, start, end, b"case"):
            w.blocks += 1
        elif w.blocks and is_word(w.text, start, end, b"end"):
            w.blocks -= 1
        else:
            w.named = is_word(w.text, start, end, b"as")
        end = next_word(w)
    return w.at


cdef uint8_t read_create(
    const uint8_t *text, size_t n, size_t at, uint8_t flags, SqlCommand *found
) noexcept nogil:
    """Read on from behind CREATE."""
    cdef Create walk
    cdef bint cut = False
    cdef CreateKind kind = read_kind(text, n, &at, flags, &cut)
    found.cut = cut
    found.end = at
    if kind == CREATE_OTHER:
        return SQL_OTHER
    begin_create(&walk, text, n, at, flags)
    if kind == CREATE_TABLE:
        return read_create_table(&walk, found)
    found.end = routine_end(&walk)
    return SQL_OTHER


# ---------------------------------------------------------------- one command

cdef uint8_t read_deallocate(
    const uint8_t *text, size_t n, size_t at, uint8_t flags, SqlCommand *found
) noexcept nogil:
    """Read on from the word at ``at``, which follows DEALLOCATE."""
    cdef size_t end = skip_word(text, n, at, flags)
    cdef bint cut = is_cut(text, n, at) or end == n
    cdef bint named
    cdef size_t behind
    if is_word(text, at, end, b"prepare"):
        behind = skip_blank(text, n, end)
        cut = is_cut(text, n, behind)
        if behind < n and (text[behind] == c'"' or starts_word(text[behind])):
            at = behind
            end = skip_word(text, n, at, flags)
            cut = end == n
    if is_word(text, at, end, b"all"):
        found.cut = cut
        return SQL_FORGET_ALL
    named = read_name(text, n, at, flags, found)
    found.cut = found.cut or cut
    return SQL_DEALLOCATE if named else SQL_OTHER


cdef uint8_t read_prepare(
    const uint8_t *text, size_t n, size_t at, uint8_t flags, SqlCommand *found
) noexcept nogil:
    """Read on from what follows PREPARE: a name, or TRANSACTION and a literal."""
    if not read_name(text, n, at, flags, found):
        return SQL_OTHER
    if is_word(text, at, found.name_end, b"transaction"):
        at = skip_blank(text, n, found.name_end)
        found.cut = is_cut(text, n, at)
        if at < n and (
            text[at] == c"'" or text[at] | 0x20 == c"e" or text[at] | 0x20 == c"u"
            or text[at] == c"$"
        ):
            return SQL_OTHER
    return SQL_PREPARE


cdef uint8_t read_verb(
    const uint8_t *text, size_t n, size_t at, uint8_t flags, SqlCommand *found
) noexcept nogil:
    """Read one statement's keyword and name; SQL_OTHER if it is none of ours.

    ``found.end`` becomes a place in front of its end that is in the midst of no token.
    """
    cdef size_t end = skip_word(text, n, at, flags)
    cdef size_t name
    found.cut = is_cut(text, n, at) or end == n
    found.end = at
    if is_word(text, at, end, b"explain"):
        at = skip_explain(text, n, end, flags)
        end = skip_word(text, n, at, flags)
        found.cut = is_cut(text, n, at) or end == n
        if not (
            is_word(text, at, end, b"execute") or is_word(text, at, end, b"create")
        ):
            return SQL_OTHER
    if is_word(text, at, end, b"create"):
        return read_create(text, n, end, flags, found)
    name = skip_blank(text, n, end)
    if is_word(text, at, end, b"execute"):
        return SQL_EXECUTE if read_name(text, n, name, flags, found) else SQL_OTHER
    if is_word(text, at, end, b"prepare"):
        return read_prepare(text, n, name, flags, found)
    if is_word(text, at, end, b"discard"):
        end = skip_word(text, n, name, flags)
        found.cut = is_cut(text, n, name) or end == n
        return SQL_FORGET_ALL if is_word(text, name, end, b"all") else SQL_OTHER
    if is_word(text, at, end, b"deallocate"):
        return read_deallocate(text, n, name, flags, found)
    return SQL_OTHER


cdef inline size_t skip_empty(const uint8_t *text, size_t n, size_t at) noexcept nogil:
    """To the next command: behind blanks, comments and semicolons."""
    at = skip_blank(text, n, at)
    while at < n and text[at] == c";":
        at = skip_blank(text, n, at + 1)
    return at


cdef inline bint may_begin(const uint8_t *text, size_t n, size_t at) noexcept nogil:
    """Whether one of our commands, or a comment in front of one, may begin here."""
    cdef uint8_t first = text[at] | 0x20
    cdef uint8_t second = text[at + 1] | 0x20 if at + 1 < n else 0
    return (
        (first == c"e" and second == c"x")
        or (first == c"d" and (second == c"e" or second == c"i"))
        or (second == c"r" and (first == c"p" or first == c"c"))
        or text[at] == c"-" or text[at] == c"/"
    )


cdef bint sql_has_more(const uint8_t *text, size_t n) noexcept nogil:
    """Whether one of our commands may follow a semicolon, wherever that stands.

    In:      text[0:n) borrowed, all of it
    Cost:    that of memchr up to the first; then O(n), a few instructions for each 16
             bytes, and more only for a semicolon with what may begin one behind it
    """
    cdef size_t at = 0
    cdef size_t end
    cdef const uint8_t *found = <const uint8_t *> memchr(text, c";", n)
    if found == NULL:
        return False
    at = <size_t> (found - text)
    while at < n:
        at = next_suspect(text, n, at)
        end = at + 16 if at + 16 < n else n
        found = <const uint8_t *> memchr(text + at, c";", end - at)
        if found == NULL:
            at = end
            continue
        at = <size_t> (found - text) + 1
        while at < n and is_space(text[at]):
            at += 1
        if at < n and may_begin(text, n, at):
            return True
    return False


cdef bint sql_first(
    const uint8_t *text, size_t n, uint8_t flags, SqlCommand *found
) noexcept nogil:
    """Read verb and name of the first command; False if it does not concern us.

    In:      text[0:n) borrowed; it may be the beginning of a longer one
    Out:     found, but for its end; found.cut counts when False is returned as well
    Cost:    O(what is in front of the statement), of a CREATE TABLE or FUNCTION O(n);
             no allocation
    """
    cdef size_t at = skip_empty(text, n, 0)
    found.index = 0
    found.verb = read_verb(text, n, at, flags, found)
    found.end = n
    return found.verb != SQL_OTHER


cdef bint sql_next(SqlText *walk, SqlCommand *found) noexcept nogil:
    """Go to the next command that concerns us; False when there is none.

    Out:     found.name_start .. name_end is the name as it is written; the walk stands
             at the command's end
    Cost:    O(n), no allocation
    """
    cdef const uint8_t *text = walk.text
    cdef size_t n = walk.n
    cdef size_t at = walk.at
    while True:
        at = skip_empty(text, n, at)
        if at >= n:
            walk.at = n
            return False
        found.verb = read_verb(text, n, at, walk.flags, found)
        found.index = walk.commands
        walk.commands += 1
        at = found.end
        if found.verb != SQL_OTHER and found.verb != SQL_FORGET_ALL:
            at = found.name_end
        at = sql_end(text, n, at, walk.flags)
        if found.verb != SQL_OTHER:
            found.end = walk.at = at
            return True


# ---------------------------------------------------------------- stability

cdef bint is_moment(const uint8_t *text, size_t at, size_t end) noexcept nogil:
    cdef size_t word = end
    end = at
    while end < word and c"a" <= text[end] | 0x20 <= c"z":  # 'today10:00' is one, too
        end += 1
    return (
        is_word(text, at, end, b"now") or is_word(text, at, end, b"today")
        or is_word(text, at, end, b"tomorrow") or is_word(text, at, end, b"yesterday")
    )


cdef bint sql_is_stable(const uint8_t *text, size_t n) noexcept nogil:
    """Whether reading this text twice surely gives the same statement.

    It does not where a literal is turned into a moment as it is read: 'now', 'today',
    'tomorrow', 'yesterday'. These words count wherever they stand, but for now().
    Source: "Special Date/Time Inputs"
    """
    cdef size_t at = 0
    cdef size_t end
    cdef size_t behind
    while at < n:
        if not starts_word(text[at]):
            at += 1
            continue
        end = skip_word(text, n, at, 0)
        if is_moment(text, at, end):
            behind = skip_blank(text, n, end)
            if behind >= n or text[behind] != c"(":
                return False
        at = end
    return True
