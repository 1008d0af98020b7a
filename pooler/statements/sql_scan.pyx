# SPDX-License-Identifier: MIT
"""Ends of tokens and commands; see ``sql_scan.pxd``."""

from libc.stdint cimport uint8_t
from libc.string cimport memchr, strlen

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

cdef extern from "<string.h>" nogil:
    void *memmem(const void *text, size_t n, const void *part, size_t part_n)

# Bytes at which a walk over a command has to look; it runs over all others.
cdef uint8_t STOPS[256]


cdef int fill_stops() except -1:
    for byte in b"'\"$-/;()":
        STOPS[<int> byte] = 1
    return 0

fill_stops()


cdef bint is_word(
    const uint8_t *text, size_t start, size_t end, const char *word
) noexcept nogil:
    cdef size_t size = strlen(word)
    return (
        end - start == size
        and strncasecmp(<const char *> text + start, word, size) == 0
    )


cdef size_t skip_comment(const uint8_t *text, size_t n, size_t at) noexcept nogil:
    """Behind the comment that begins at ``at``; there when none does. Blocks nest."""
    cdef int depth = 0
    if at + 1 >= n:
        return at
    if text[at] == c"-" and text[at + 1] == c"-":
        while at < n and text[at] != c"\n" and text[at] != c"\r":
            at += 1
        return at
    if text[at] != c"/" or text[at + 1] != c"*":
        return at
    while at + 1 < n:
        if text[at] == c"/" and text[at + 1] == c"*":
            depth += 1
            at += 2
        elif text[at] == c"*" and text[at + 1] == c"/":
            depth -= 1
            at += 2
            if depth == 0:
                return at
        else:
            at += 1
    return n


cdef size_t skip_blank(const uint8_t *text, size_t n, size_t at) noexcept nogil:
    """Behind white space and comments."""
    cdef size_t end
    while at < n:
        if is_space(text[at]):
            at += 1
            continue
        if text[at] != c"-" and text[at] != c"/":
            break
        end = skip_comment(text, n, at)
        if end == at:
            break
        at = end
    return at


cdef size_t skip_word(
    const uint8_t *text, size_t n, size_t at, uint8_t flags
) noexcept nogil:
    """Behind the keyword or name that begins at ``at``; there when none does."""
    if at < n and starts_word(text[at]):
        while at < n and in_word(text[at]):
            at += 1 + (flags & SQL_SHIFTED != 0 and text[at] >= 0x80)
    return at if at < n else n


cdef size_t skip_quoted(
    const uint8_t *text, size_t n, size_t at, bint escapes, uint8_t flags
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
        if escapes and (
            text[at] == c"\\" or (text[at] >= 0x80 and flags & SQL_SHIFTED)
        ):
            at += 2
        elif text[at] == quote:
            if at + 1 < n and text[at + 1] == quote:
                at += 2
            else:
                return at + 1
        else:
            at += 1
    return n


cdef size_t continues(const uint8_t *text, size_t n, size_t at) noexcept nogil:
    """Where a literal that has ended at ``at`` goes on, on another line; or 0.

    In between only blanks and comments to the end of a line may stand.
    """
    cdef bint other_line = False
    while at < n:
        if is_space(text[at]):
            other_line = other_line or text[at] == c"\n" or text[at] == c"\r"
            at += 1
        elif at + 1 < n and text[at] == c"-" and text[at + 1] == c"-":
            at = skip_comment(text, n, at)
        else:
            break
    return at if other_line and at < n and text[at] == c"'" else 0


cdef size_t skip_identifier(const uint8_t *text, size_t n, size_t at) noexcept nogil:
    """Behind the "..." that begins at ``at``; n when it does not end."""
    return skip_quoted(text, n, at, False, 0)


cdef size_t word_before(
    const uint8_t *text, size_t at, size_t floor
) noexcept nogil:
    """Where the word begins that stands directly before ``at``; ``at`` if none does.

    Nothing in front of ``floor`` belongs to it, nor do the digits of a number.
    """
    cdef size_t start = at
    while start > floor and in_word(text[start - 1]):
        start -= 1
    while start < at and c"0" <= text[start] <= c"9":
        start += 1
    return start


cdef size_t skip_string(
    const uint8_t *text, size_t n, size_t at, size_t floor, uint8_t flags
) noexcept nogil:
    """Behind the '...' at ``at``: what stands before it says how it is read."""
    cdef bint escapes = flags & SQL_BACKSLASHES != 0
    cdef uint8_t kind
    if at > floor:
        kind = text[at - 1] | 0x20
        if (kind == c"e" or kind == c"b" or kind == c"x") and (
            word_before(text, at, floor) == at - 1
        ):
            escapes = kind == c"e"
    while True:
        floor = skip_quoted(text, n, at, escapes, flags)
        at = continues(text, n, floor)
        if at == 0:
            return floor


cdef size_t skip_dollar(
    const uint8_t *text, size_t n, size_t at, size_t floor
) noexcept nogil:
    """Behind the $tag$...$tag$ or $1 at ``at``; else behind the $."""
    cdef size_t tag = at + 1
    cdef size_t size
    cdef const uint8_t *end
    if at > floor and word_before(text, at, floor) != at:
        return tag  # it belongs to a name
    while tag < n and c"0" <= text[tag] <= c"9":
        tag += 1
    if tag > at + 1:
        return tag
    while tag < n and in_word(text[tag]) and text[tag] != c"$":
        tag += 1
    if tag >= n or text[tag] != c"$":
        return at + 1
    tag += 1
    size = tag - at
    end = <const uint8_t *> memmem(text + tag, n - tag, text + at, size)
    return n if end == NULL else <size_t> (end - text) + size


cdef size_t skip_mark(
    const uint8_t *text, size_t n, size_t at, size_t floor, uint8_t flags
) noexcept nogil:
    """Behind the literal, comment or single byte at ``at``.

    ``floor``: behind the token before it, or farther back if that is a word or number.
    """
    cdef size_t end
    cdef uint8_t byte = text[at]
    if byte == c"'":
        return skip_string(text, n, at, floor, flags)
    if byte == c'"':
        return skip_identifier(text, n, at)
    if byte == c"$":
        return skip_dollar(text, n, at, floor)
    end = skip_comment(text, n, at)
    return end if end > at else at + 1


cdef size_t skip_until(
    const uint8_t *text, size_t n, size_t at, bint parentheses, uint8_t flags
) noexcept nogil:
    """See ``sql_end``, ``skip_parentheses``."""
    cdef size_t floor = at
    cdef size_t end
    cdef int depth = 0
    while True:
        while at < n and not STOPS[text[at]]:
            at += 1
        if at >= n:
            return n
        end = at + 1
        if text[at] == c";":
            if depth == 0:
                return at
        elif text[at] == c"(":
            depth += 1
        elif text[at] == c")":
            depth -= depth > 0
            if parentheses and depth == 0:
                return end
        else:
            end = skip_mark(text, n, at, floor, flags)
            if text[at] == c"$" and end == at + 1:  # perhaps in the midst of a name
                at = end
                continue
        at = floor = end


cdef size_t sql_end(
    const uint8_t *text, size_t n, size_t at, uint8_t flags
) noexcept nogil:
    """From ``at``, no part of a token, to the semicolon that ends the command, or n.

    In:      text[0:n) borrowed
    Cost:    O(n); literals pass at the speed of memchr
    """
    return skip_until(text, n, at, False, flags)


cdef size_t skip_parentheses(
    const uint8_t *text, size_t n, size_t at, uint8_t flags
) noexcept nogil:
    """Behind the (...) that begins at ``at``; n when it does not end."""
    return skip_until(text, n, at, True, flags)
