# SPDX-License-Identifier: MIT
"""What libFuzzer calls: the scanner, the relay, its SQL, TLS, proofs, and canaries.

Bytes go in as heap blocks of their exact size, so that AddressSanitizer sees the first
byte that is read behind them. A broken promise ends in ``abort``.
"""

from libc.stdint cimport uint8_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from pooler._wire cimport (
    CLIENT_RULES, Found, IDLE_SERVER_RULES, Rule, SCAN_END, SCAN_EPROTO, SCAN_HOLD,
    SCAN_MESSAGE, SERVER_RULES, ScanState, ScanStatus, scan_next,
)
from tests.fuzz._auth cimport fuzz_auth
from tests.fuzz._checks cimport Digest, check, digest
from tests.fuzz._play cimport fuzz_relay, fuzz_statements
from tests.fuzz._sql cimport fuzz_sql
from tests.fuzz._tls cimport fuzz_tls

cdef extern from *:  # Cython has no word for it
    """
    typedef volatile unsigned char volatile_byte;
    typedef void *volatile volatile_pointer;
    """
    ctypedef uint8_t volatile_byte
    ctypedef void *volatile_pointer

cdef enum:
    RULES = 3

# ------------------------------------------------------------------- the scanner

cdef struct Scanned:
    Digest events
    size_t end  # of the last whole message, or of the bad header
    bint failed


cdef void scan_all(
    const Rule *rules, const uint8_t *src, size_t n, size_t piece, Scanned *out
) noexcept nogil:
    """Scan as a connection does: what is given back comes again before the next."""
    cdef ScanState st
    cdef Found found
    cdef ScanStatus status = SCAN_END
    cdef size_t done = 0  # consumed, absolute
    cdef size_t have = 0  # received, absolute
    cdef size_t pos
    cdef size_t at
    cdef uint8_t *block
    st.body_left = 0
    memset(out, 0, sizeof(Scanned))
    while have < n and status != SCAN_EPROTO:
        have = have + piece if n - have > piece else n
        block = <uint8_t *> malloc(have - done)
        memcpy(block, src + done, have - done)
        pos = 0
        while True:
            status = scan_next(&st, rules, block, have - done, &pos, &found)
            check(pos <= have - done, "scan_next went past the end")
            if status != SCAN_MESSAGE:
                break
            check(found.length >= 4, "a length below its own four bytes")
            at = done + found.start
            digest(&out.events, <const uint8_t *> &at, sizeof(at))
            digest(&out.events, &found.code, 1)
            digest(&out.events, <const uint8_t *> &found.length, 4)
        check(status != SCAN_END or pos == have - done, "SCAN_END before the end")
        check(status != SCAN_HOLD or st.body_left == 0, "held in the middle of a body")
        done += pos
        free(block)
    out.end = done
    out.failed = status == SCAN_EPROTO


cdef int fuzz_scan(const uint8_t *src, size_t n) noexcept nogil:
    cdef Scanned whole
    cdef Scanned split
    cdef const Rule *rules
    if n < 2:
        return 0
    rules = (
        &CLIENT_RULES[0] if src[0] % RULES == 0
        else &SERVER_RULES[0] if src[0] % RULES == 1
        else &IDLE_SERVER_RULES[0]
    )
    scan_all(rules, src + 1, n - 1, n, &whole)
    scan_all(rules, src + 1, n - 1, 1, &split)
    check(whole.failed == split.failed, "scan: only one of whole and split fails")
    check(whole.end == split.end, "scan: whole and split end elsewhere")
    check(whole.events.hash == split.events.hash, "scan: whole and split differ")
    return 0


# ---------------------------------------------------------------------- canaries
# What a sanitizer or a check must find, or it is not there.

cdef int canary_heap(const uint8_t *src, size_t n) noexcept nogil:
    """Read one byte behind a block."""
    cdef uint8_t *block = <uint8_t *> malloc(n + 1)
    cdef int value
    memset(block, 0, n + 1)
    value = (<volatile_byte *> block)[n + 1]
    free(block)
    return value & 0


cdef int canary_overflow(const uint8_t *src, size_t n) noexcept nogil:
    """Overflow a signed number, which UndefinedBehaviorSanitizer alone sees."""
    cdef int value = 0x7FFFFFFF
    value += <int> (n + 1)
    return 0 if value else 0


cdef int canary_leak(const uint8_t *src, size_t n) noexcept nogil:
    """Forget a block."""
    cdef volatile_pointer block = malloc(64)
    check(block != NULL, "no memory for a canary")
    block = NULL
    return 0


cdef int canary_coverage(const uint8_t *src, size_t n) noexcept nogil:
    """Abort at four bytes that only coverage leads to."""
    cdef size_t i = 0
    while i < n and i < 4 and src[i] == (<const uint8_t *> b"PGSQ")[i]:
        i += 1
        check(i < 4, "canary: found")
    return 0


ctypedef int (*Target)(const uint8_t *, size_t) noexcept nogil
cdef Target TARGETS[10]
TARGETS[:] = [
    fuzz_scan, fuzz_relay, fuzz_statements, fuzz_sql, fuzz_tls, fuzz_auth,
    canary_heap, canary_overflow, canary_leak, canary_coverage,
]
NAMES = (
    "scan", "relay", "statements", "sql", "tls", "auth",
    "canary_heap", "canary_overflow", "canary_leak", "canary_coverage",
)


def address_of(str name):
    """The address of the function that is called with each input of a target."""
    return <uintptr_t> TARGETS[<int> NAMES.index(name)]
