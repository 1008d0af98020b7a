# SPDX-License-Identifier: MIT
"""Reading of SQL as far as ``sql_text.pxd`` says."""

from libc.stdint cimport uint8_t
from libc.string cimport memchr, strlen

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

cdef extern from "<string.h>" nogil:
    void *memmem(const void *text, size_t n, const void *part, size_t part_n)


cdef inline bint is_space(uint8_t byte) noexcept nogil:
    return byte == c" " or 9 <= byte <= 13


cdef inline bint starts_word(uint8_t byte) noexcept nogil:
    return (
        c"a" <= byte | 0x20 <= c"z" or byte == c"_" or byte >= 0x80
    )


cdef inline bint in_word(uint8_t byte) noexcept nogil:
    return starts_word(byte) or c"0" <= byte <= c"9" or byte == c"$"


cdef size_t skip_blank(const uint8_t *text, size_t n, size_t at) noexcept nogil:
    """Behind white space and comments; block comments nest."""
    cdef int depth
    while at < n:
        if is_space(text[at]):
            at += 1
        elif at + 1 < n and text[at] == c"-" and text[at + 1] == c"-":
            while at < n and text[at] != c"\n" and text[at] != c"\r":
                at += 1
        elif at + 1 < n and text[at] == c"/" and text[at + 1] == c"*":
            depth = 0
            while at < n:
                if at + 1 < n and text[at] == c"/" and text[at + 1] == c"*":
                    depth += 1
                    at += 2
                elif at + 1 < n and text[at] == c"*" and text[at + 1] == c"/":
                    depth -= 1
                    at += 2
                    if depth == 0:
                        break
                else:
                    at += 1
        else:
            break
    return at


cdef size_t skip_word(const uint8_t *text, size_t n, size_t at) noexcept nogil:
    if at < n and starts_word(text[at]):
        while at < n and in_word(text[at]):
            at += 1
    return at


cdef size_t skip_quoted(
    const uint8_t *text, size_t n, size_t at, bint escapes
) noexcept nogil:
    """Behind a '...' or "..." that begins at ``at``; n when it does not end."""
    cdef uint8_t quote = text[at]
    cdef const uint8_t *end
    at += 1
    while at < n:
        if not escapes:  # a value may have megabytes
            end = <const uint8_t *> memchr(text + at, quote, n - at)
            if end == NULL:
                return n
            at = <size_t> (end - text)
        if escapes and text[at] == c"\\":
            at += 2
        elif text[at] == quote:
            if at + 1 < n and text[at + 1] == quote:
                at += 2
            else:
                return at + 1
        else:
            at += 1
    return n


cdef size_t skip_dollar(const uint8_t *text, size_t n, size_t at) noexcept nogil:
    """Behind a $tag$...$tag$ that begins at ``at``; behind the $ if none does."""
    cdef size_t tag = at + 1
    cdef size_t size
    cdef const uint8_t *end
    while tag < n and in_word(text[tag]) and text[tag] != c"$":
        tag += 1
    if tag >= n or text[tag] != c"$" or (
        tag > at + 1 and c"0" <= text[at + 1] <= c"9"
    ):
        return at + 1
    tag += 1
    size = tag - at
    end = <const uint8_t *> memmem(text + tag, n - tag, text + at, size)
    return n if end == NULL else <size_t> (end - text) + size


cdef size_t skip_token(const uint8_t *text, size_t n, size_t at) noexcept nogil:
    """Behind the quoted text, comment, word or byte at ``at``."""
    cdef size_t word
    if text[at] == c"'" or text[at] == c'"':
        return skip_quoted(text, n, at, False)
    if text[at] == c"$":
        return skip_dollar(text, n, at)
    if text[at] == c"-" or text[at] == c"/":
        word = skip_blank(text, n, at)
        return word if word > at else at + 1
    if starts_word(text[at]):
        word = skip_word(text, n, at)
        if word < n and word == at + 1 and text[word] == c"'" and (
            text[at] | 0x20 == c"e"
        ):
            word = skip_quoted(text, n, word, True)
        return word
    return at + 1


cdef size_t sql_end(const uint8_t *text, size_t n, size_t at) noexcept nogil:
    """From ``at``, no part of a token, to the semicolon that ends the statement, or n.

    Cost: O(n)
    """
    while at < n and text[at] != c";":
        at = skip_token(text, n, at)
    return at if at < n else n


cdef inline bint is_word(
    const uint8_t *text, size_t start, size_t end, const char *word
) noexcept nogil:
    cdef size_t size = strlen(word)
    return (
        end - start == size
        and strncasecmp(<const char *> text + start, word, size) == 0
    )


cdef inline bint is_cut(const uint8_t *text, size_t n, size_t at) noexcept nogil:
    """Whether nothing stands at ``at`` yet but, perhaps, half of a comment's mark."""
    return at >= n or (at + 1 == n and (text[at] == c"-" or text[at] == c"/"))


cdef bint read_name(
    const uint8_t *text, size_t n, size_t at, SqlCommand *found
) noexcept nogil:
    """Read the name of a prepared statement as an identifier; False if it is none."""
    cdef size_t i
    cdef size_t end
    cdef uint8_t byte
    found.name_start = at
    found.name_n = 0
    found.cut = is_cut(text, n, at)
    if at < n and text[at] == c'"':
        end = skip_quoted(text, n, at, False)
        found.cut = end == n
        if end == n and (end < at + 2 or text[end - 1] != c'"'):
            return False
        i = at + 1
        while i < end - 1:
            if text[i] == c'"':
                i += 1
            if found.name_n < SQL_NAME_BYTES:
                found.name[found.name_n] = text[i]
                found.name_n += 1
            i += 1
        found.name_end = end
        return found.name_n > 0
    end = skip_word(text, n, at)
    found.cut = found.cut or end == n
    for i in range(at, end):
        byte = text[i]
        if c"A" <= byte <= c"Z":
            byte |= 0x20
        if found.name_n < SQL_NAME_BYTES:
            found.name[found.name_n] = byte
            found.name_n += 1
    found.name_end = end
    # U&"..." and E'...' would be read in another way
    return end > at and not (
        end < n and (text[end] == c"&" or text[end] == c'"' or text[end] == c"'")
    )


cdef size_t skip_explain(const uint8_t *text, size_t n, size_t at) noexcept nogil:
    """From behind EXPLAIN to the statement that it explains."""
    cdef size_t end
    cdef int depth = 0
    at = skip_blank(text, n, at)
    if at < n and text[at] == c"(":
        while at < n and text[at] != c";":
            if text[at] == c"(":
                depth += 1
                at += 1
            elif text[at] == c")":
                depth -= 1
                at += 1
                if depth == 0:
                    break
            else:
                at = skip_token(text, n, at)
        return skip_blank(text, n, at)
    while True:
        end = skip_word(text, n, at)
        if not (
            is_word(text, at, end, b"analyze") or is_word(text, at, end, b"analyse")
            or is_word(text, at, end, b"verbose")
        ):
            return at
        at = skip_blank(text, n, end)


cdef uint8_t read_deallocate(
    const uint8_t *text, size_t n, size_t at, SqlCommand *found
) noexcept nogil:
    """Read on from the word at ``at``, which follows DEALLOCATE."""
    cdef size_t end = skip_word(text, n, at)
    cdef bint cut = is_cut(text, n, at) or end == n
    cdef bint named
    cdef size_t behind
    if is_word(text, at, end, b"prepare"):
        behind = skip_blank(text, n, end)
        cut = is_cut(text, n, behind)
        if behind < n and (text[behind] == c'"' or starts_word(text[behind])):
            at = behind
            end = skip_word(text, n, at)
            cut = end == n
    if is_word(text, at, end, b"all"):
        found.cut = cut
        return SQL_FORGET_ALL
    named = read_name(text, n, at, found)
    found.cut = found.cut or cut
    return SQL_DEALLOCATE if named else SQL_OTHER


cdef uint8_t read_verb(
    const uint8_t *text, size_t n, size_t at, SqlCommand *found
) noexcept nogil:
    """Read one statement's keyword and name; SQL_OTHER if it is none of ours."""
    cdef size_t end = skip_word(text, n, at)
    cdef size_t name
    found.cut = is_cut(text, n, at) or end == n
    if is_word(text, at, end, b"explain"):
        at = skip_explain(text, n, end)
        end = skip_word(text, n, at)
        found.cut = is_cut(text, n, at) or end == n
        if not is_word(text, at, end, b"execute"):
            return SQL_OTHER
    name = skip_blank(text, n, end)
    if is_word(text, at, end, b"execute"):
        return SQL_EXECUTE if read_name(text, n, name, found) else SQL_OTHER
    if is_word(text, at, end, b"prepare"):
        if not read_name(text, n, name, found):
            return SQL_OTHER
        if is_word(text, name, found.name_end, b"transaction"):
            at = skip_blank(text, n, found.name_end)
            found.cut = is_cut(text, n, at)
            if at < n and (text[at] == c"'" or text[at] | 0x20 == c"e"):
                return SQL_OTHER
        return SQL_PREPARE
    if is_word(text, at, end, b"discard"):
        end = skip_word(text, n, name)
        found.cut = is_cut(text, n, name) or end == n
        return SQL_FORGET_ALL if is_word(text, name, end, b"all") else SQL_OTHER
    if is_word(text, at, end, b"deallocate"):
        return read_deallocate(text, n, name, found)
    return SQL_OTHER


cdef bint sql_first(const uint8_t *text, size_t n, SqlCommand *found) noexcept nogil:
    """Read verb and name of the first statement; False if it does not concern us.

    In:      text[0:n) borrowed; it may be the beginning of a longer one
    Out:     found, but for its end; found.cut counts when False is returned as well
    Cost:    O(what is in front of the statement), no allocation
    """
    cdef size_t at = skip_blank(text, n, 0)
    while at < n and text[at] == c";":
        at = skip_blank(text, n, at + 1)
    found.verb = read_verb(text, n, at, found)
    found.end = n
    return found.verb != SQL_OTHER


cdef bint sql_next(
    const uint8_t *text, size_t n, size_t *pos, SqlCommand *found
) noexcept nogil:
    """Go to the next statement that concerns us; False when there is none.

    A text whose first statement does not concern us is not read further.

    In:      text[0:n) borrowed; *pos is 0, or what the last call left
    Out:     found.name_start .. name_end is the name as it is written; *pos is at
             the statement's end
    Cost:    O(n), no allocation
    """
    cdef size_t at = pos[0]
    while True:
        at = skip_blank(text, n, at)
        while at < n and text[at] == c";":
            at = skip_blank(text, n, at + 1)
        if at >= n:
            return False
        found.verb = read_verb(text, n, at, found)
        if found.verb == SQL_OTHER and pos[0] == 0:
            return False
        if found.verb != SQL_OTHER and found.verb != SQL_FORGET_ALL:
            at = found.name_end
        at = sql_end(text, n, at)
        if found.verb != SQL_OTHER:
            found.end = at
            pos[0] = at
            return True


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
        end = skip_word(text, n, at)
        if is_moment(text, at, end):
            behind = skip_blank(text, n, end)
            if behind >= n or text[behind] != c"(":
                return False
        at = end
    return True
