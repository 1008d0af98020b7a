# SPDX-License-Identifier: MIT
"""Answers of a server; see ``_server.pxd``."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, strlen

from pooler.session.records cimport ServerSession
from pooler.session.requests cimport (
    REQUEST_COPY_END, REQUEST_DESCRIBE, REQUEST_NAMES, request_closes, request_is_fake,
    requests_at,
)
from pooler._wire cimport put_header
from tests.fuzz._checks cimport check

cdef enum:
    TAGS = 8
    ERRORS = 8
    STATUSES = 4
    SET_AND_TELL = 0x70  # the tag SET, behind a ParameterStatus

cdef const char *TAG_TEXTS[TAGS]
TAG_TEXTS[:] = [
    b"SELECT 1", b"PREPARE", b"DEALLOCATE", b"DEALLOCATE ALL", b"DISCARD ALL", b"BEGIN",
    b"SET", b"ALTER TABLE",
]
# Fields, each behind its letter, with # for a terminator.
cdef const char *ERROR_TEXTS[ERRORS]
ERROR_TEXTS[:] = [
    b"SERROR#VERROR#C22012#Mdivision by zero##",
    b"SERROR#VERROR#C0A000#Mresult type changed#RRevalidateCachedQuery##",
    b"SERROR#VERROR#C26000#Mno prepared statement \"p_1\"#RFetchPreparedStatement##",
    b"SERROR#VERROR#C42P05#Mprepared statement \"p_2\" already exists##",
    b"SERROR#VERROR#C26000#Mprepared statement \"p_9?\" does not exist##",
    b"SERROR#VERROR#C26000#Mprepared statement \"p_refused\" does not exist##",
    b"SERROR#VERROR#C42601#Msyntax error at or near \"p_1\"#P17##",
    b"SFATAL#VFATAL#C57P01#Mterminating connection##",
]
cdef const char *STATUS_BYTES = b"IITE"


cdef size_t put_text(
    uint8_t *p, uint8_t code, const char *body, bint terminated
) noexcept nogil:
    cdef size_t n = strlen(body)
    cdef size_t at = put_header(p, code, <uint32_t> (4 + n + terminated))
    cdef size_t i
    for i in range(n):
        p[at + i] = 0 if body[i] == c"#" else body[i]
    if terminated:
        p[at + n] = 0
    return at + n + terminated


cdef size_t put_ready(uint8_t *p, uint8_t choice) noexcept nogil:
    cdef size_t at = put_header(p, c"Z", 5)
    p[at] = STATUS_BYTES[choice >> 6]
    return at + 1


cdef size_t put_parameter(uint8_t *p, uint8_t choice) noexcept nogil:
    cdef size_t at = put_header(p, c"S", 4 + 10 + 2)
    memcpy(p + at, b"DateStyle\0x", 12)
    p[at + 10] = c"w" + (choice & 1) + (choice >> 6)
    return at + 12


cdef size_t put_async(uint8_t *p, uint8_t choice) noexcept nogil:
    """What a server says unasked."""
    if choice & 1:
        return put_text(p, c"N", b"SNOTICE#VNOTICE#C00000#Mhi##", False)
    return put_parameter(p, choice)


cdef size_t put_rows(uint8_t *p, uint8_t choice) noexcept nogil:
    """RowDescription of no column, or of one of several types."""
    cdef size_t at
    if choice & 0x18 == 0:
        return put_text(p, c"T", b"##", False)
    at = put_text(p, c"T", b"#\1name####################", False)
    p[at - 9] = choice & 0x18  # of the type
    return at


cdef size_t put_success(uint8_t *p, uint8_t request, uint8_t choice) noexcept nogil:
    cdef uint8_t code = c"E" if request == REQUEST_NAMES else request & 0x7F
    cdef const char *tag = TAG_TEXTS[(choice >> 3) % TAGS]
    cdef size_t n
    if code == c"P":
        return put_header(p, c"1", 4)
    if code == c"B":
        return put_header(p, c"2", 4)
    if code == c"C":
        return put_header(p, c"3", 4)
    if code == c"D" or code == REQUEST_DESCRIBE:
        n = put_text(p, c"t", b"##" if choice & 0x20 else b"#\1####", False)
        if choice & 0x80:
            return n + put_header(p + n, c"n", 4)
        return n + put_rows(p + n, choice)
    if code == c"S":
        return put_ready(p, choice)
    n = 0
    if choice & 0x38 == 0x38 and choice & 0x40:
        n = put_text(p, c"G", b"###", False)
        if code == c"E" or choice & 0x80:
            return n
    if choice & 0xF8 == SET_AND_TELL and code == c"Q":
        n += put_parameter(p + n, choice)
    n += put_text(p + n, c"C", tag, True)
    if code != c"E":
        n += put_ready(p + n, choice)
    return n


cdef size_t put_answers(
    uint8_t *p, ServerSession *s, const uint8_t *choices, size_t n
) noexcept nogil:
    """Room for ANSWER_BYTES for each choice; returns what was written."""
    cdef uint32_t at = s.requests.head
    cdef uint8_t request
    cdef size_t done = 0
    cdef size_t i
    cdef uint8_t choice
    for i in range(n):
        choice = choices[i]
        request = 0
        while at != s.requests.tail:
            request = requests_at(&s.requests, at)[0]
            if not request_is_fake(request) and request != REQUEST_COPY_END:
                break
            at += 1
            request = 0
        if request == 0 or choice & 7 == 7:
            done += put_async(p + done, choice)
        elif choice & 7 == 6:
            done += put_text(
                p + done, c"E", ERROR_TEXTS[(choice >> 3) % ERRORS], False
            )
            if request_closes(request) and request & 0x7F != c"S":
                done += put_ready(p + done, choice)
                at += 1
                continue
            while at != s.requests.tail and (
                requests_at(&s.requests, at)[0] & 0x7F != c"S"
            ):
                at += 1
        else:
            done += put_success(p + done, request, choice)
            at += 1
    check(done <= n * ANSWER_BYTES, "no room for the answers")
    return done
