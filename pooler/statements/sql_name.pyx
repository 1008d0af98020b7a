# SPDX-License-Identifier: MIT
"""Reading of names; see ``sql_name.pxd``."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

from pooler.statements.sql_scan cimport (
    SQL_SHIFTED, SQL_UTF8, is_space, is_word, skip_blank, skip_identifier, skip_word,
)

cdef extern from "<string.h>" nogil:
    void *memmem(const void *text, size_t n, const void *part, size_t part_n)

cdef enum:
    MOST_KEYWORD_BYTES = 17
    LAST_CODE_POINT = 0x10FFFF

# Names that have to be quoted: the reserved keywords, of all versions.
cdef const char *RESERVED = (
    b" all analyse analyze and any array as asc asymmetric authorization binary both"
    b" case cast check collate collation column concurrently constraint create cross"
    b" current_catalog current_date current_role current_schema current_time"
    b" current_timestamp current_user default deferrable desc distinct do else end"
    b" except false fetch for foreign freeze from full grant group having ilike in"
    b" initially inner intersect into is isnull join lateral leading left like limit"
    b" localtime localtimestamp natural not notnull null offset on only or order outer"
    b" overlaps placing primary references returning right select session_user similar"
    b" some symmetric system_user table tablesample then to trailing true union unique"
    b" user using variadic verbose when where window with "
)
cdef size_t RESERVED_BYTES = len(RESERVED)


cdef bint is_reserved(const uint8_t *name, size_t n) noexcept nogil:
    """Whether an identifier in lower case names nothing unless it is quoted."""
    cdef uint8_t word[MOST_KEYWORD_BYTES + 2]
    if n < 2 or n > MOST_KEYWORD_BYTES:
        return False
    word[0] = word[n + 1] = c" "
    memcpy(word + 1, name, n)
    return memmem(RESERVED, RESERVED_BYTES, word, n + 2) != NULL


cdef inline bint is_continuation(uint8_t byte) noexcept nogil:
    return byte & 0xC0 == 0x80


cdef void add_byte(SqlCommand *found, uint8_t byte, uint8_t flags) noexcept nogil:
    """PostgreSQL cuts a name that is too long, between two characters."""
    if found.name_n < SQL_NAME_BYTES and not found.name_whole:
        found.name[found.name_n] = byte
        found.name_n += 1
        return
    if not found.name_whole and flags & SQL_UTF8 and is_continuation(byte):
        while found.name_n and is_continuation(found.name[found.name_n - 1]):
            found.name_n -= 1
        found.name_n -= found.name_n > 0
    found.name_whole = True


# ---------------------------------------------------------------- U&"..."

cdef int hex_value(uint8_t byte) noexcept nogil:
    if c"0" <= byte <= c"9":
        return byte - c"0"
    if c"a" <= byte | 0x20 <= c"f":
        return (byte | 0x20) - c"a" + 10
    return -1


cdef bint read_hex(
    const uint8_t *text, size_t end, size_t at, size_t digits, uint32_t *value
) noexcept nogil:
    cdef size_t i
    cdef int digit
    value[0] = 0
    if at + digits > end:
        return False
    for i in range(digits):
        digit = hex_value(text[at + i])
        if digit < 0:
            return False
        value[0] = value[0] * 16 + <uint32_t> digit
    return True


cdef bint add_character(SqlCommand *found, uint32_t code, uint8_t flags) noexcept nogil:
    """As UTF-8, which the server's encoding has to be for characters beyond ASCII."""
    if code == 0 or code > LAST_CODE_POINT or (
        code > 0x7F and not flags & SQL_UTF8
    ):
        return False
    if code <= 0x7F:
        add_byte(found, <uint8_t> code, flags)
        return True
    if code <= 0x7FF:
        add_byte(found, <uint8_t> (0xC0 | code >> 6), flags)
    else:
        if code <= 0xFFFF:
            add_byte(found, <uint8_t> (0xE0 | code >> 12), flags)
        else:
            add_byte(found, <uint8_t> (0xF0 | code >> 18), flags)
            add_byte(found, <uint8_t> (0x80 | (code >> 12 & 0x3F)), flags)
        add_byte(found, <uint8_t> (0x80 | (code >> 6 & 0x3F)), flags)
    add_byte(found, <uint8_t> (0x80 | (code & 0x3F)), flags)
    return True


cdef size_t read_escape(
    const uint8_t *text, size_t end, size_t at, uint8_t escape, uint32_t *code
) noexcept nogil:
    """Behind the escape sequence at ``at``; 0 when it is none."""
    if at + 1 < end and text[at + 1] == escape:
        code[0] = escape
        return at + 2
    if at + 1 < end and text[at + 1] == c"+":
        return at + 8 if read_hex(text, end, at + 2, 6, code) else 0
    return at + 5 if read_hex(text, end, at + 1, 4, code) else 0


cdef bint add_escaped(
    const uint8_t *text, size_t at, size_t end, uint8_t escape, uint8_t flags,
    SqlCommand *found,
) noexcept nogil:
    """text[at:end) is what stands between the quotes; False if it is malformed."""
    cdef uint32_t code = 0
    cdef uint32_t high = 0  # the first half of a surrogate pair
    while at < end:
        if text[at] != escape:
            if high:
                return False
            add_byte(found, text[at], flags)
            at += 2 if text[at] == c'"' else 1
            if at > end:
                return False  # the closing quote is half of a doubled one
            continue
        at = read_escape(text, end, at, escape, &code)
        if at == 0 or (high != 0) != (0xDC00 <= code <= 0xDFFF):
            return False
        if 0xD800 <= code <= 0xDBFF:
            high = code
            continue
        if high:
            code = 0x10000 + ((high & 0x3FF) << 10) + (code & 0x3FF)
            high = 0
        if not add_character(found, code, flags):
            return False
    return high == 0


cdef bint may_escape(uint8_t byte) noexcept nogil:
    return not (
        hex_value(byte) >= 0 or byte == c"+" or byte == c"'" or byte == c'"'
        or is_space(byte)
    )


cdef bint read_unicode(
    const uint8_t *text, size_t n, size_t at, uint8_t flags, SqlCommand *found
) noexcept nogil:
    """Read the U&"..." at ``at``, and the UESCAPE behind it if there is one."""
    cdef size_t start = at + 3
    cdef size_t end = skip_identifier(text, n, at + 2)
    cdef size_t close = end - 1
    cdef size_t behind = skip_blank(text, n, end)
    cdef size_t word = skip_word(text, n, behind, flags)
    cdef uint8_t escape = c"\\"
    found.cut = word == n or (
        behind + 1 == n and (text[behind] == c"-" or text[behind] == c"/")
    )
    if is_word(text, behind, word, b"uescape"):
        behind = skip_blank(text, n, word)
        found.cut = behind + 3 >= n
        if behind + 3 > n or text[behind] != c"'" or text[behind + 2] != c"'":
            return False
        escape = text[behind + 1]
        end = behind + 3
    found.name_end = end
    return (
        close >= start and text[close] == c'"' and may_escape(escape)
        and add_escaped(text, start, close, escape, flags, found)
        and found.name_n > 0
    )


# ---------------------------------------------------------------- all names

cdef bint read_quoted(
    const uint8_t *text, size_t n, size_t at, uint8_t flags, SqlCommand *found
) noexcept nogil:
    found.cut = True
    at += 1
    while at < n:
        if text[at] == c'"':
            at += 1
            if at == n or text[at] != c'"':
                found.name_end = at
                found.cut = at == n
                return found.name_n > 0
        add_byte(found, text[at], flags)
        at += 1
    found.name_end = n
    return False


cdef bint read_name(
    const uint8_t *text, size_t n, size_t at, uint8_t flags, SqlCommand *found
) noexcept nogil:
    """Read the name at ``at`` as an identifier; False if PostgreSQL would not.

    Out:     found.name, where it stands, and whether more of the text may change it
    """
    cdef size_t i
    cdef size_t end
    cdef uint8_t byte
    found.name_start = found.name_end = at
    found.name_n = 0
    found.name_whole = False
    if at < n and text[at] == c'"':
        return read_quoted(text, n, at, flags, found)
    if at + 2 < n and memcmp(text + at + 1, b'&"', 2) == 0 and text[at] | 0x20 == c"u":
        return read_unicode(text, n, at, flags, found)
    end = skip_word(text, n, at, flags)
    found.cut = end == n or (
        at + 1 == n and (text[at] == c"-" or text[at] == c"/")
    ) or (at + 2 == n and text[at] | 0x20 == c"u" and text[at + 1] == c"&")
    i = at
    while i < end:
        byte = text[i]
        if flags & SQL_SHIFTED and byte >= 0x80 and i + 1 < end:
            add_byte(found, byte, flags)
            i += 1
            byte = text[i]
        elif c"A" <= byte <= c"Z":
            byte |= 0x20
        add_byte(found, byte, flags)
        i += 1
    found.name_end = end
    # E'...' and the like would be read in another way
    return found.name_n > 0 and not is_reserved(found.name, found.name_n) and not (
        end < n and (text[end] == c"&" or text[end] == c'"' or text[end] == c"'")
    )
