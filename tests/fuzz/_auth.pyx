# SPDX-License-Identifier: MIT
"""The proof of a client: what anybody may send before a login, measured in C.

The first byte has options, the rest is what the client sends: whole, and then byte by
byte, which must come to the same. With ``RightBit`` the proof in a client-final-message
is replaced by the right one, so that what is behind it is met, too.

Promises: nobody is let in without the right proof, password or hash, nor with a secret
that is doomed; what is sent fits; nothing is said after the end.
"""

from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from pooler.auth.crypto cimport (
    EVP_Digest, EVP_EncodeBlock, EVP_MD, EVP_sha256,
)
from pooler.auth.exchange cimport (
    ANSWER_MAX_BYTES, ASK_MD5, ASK_PASSWORD, ASK_SCRAM, Exchange, MESSAGE_HEAD_BYTES,
    PROOF_ANSWERED, PROOF_CODES, PROOF_GIVEN, PROOF_MORE, Question,
    RANDOM_BYTES, SASL_MAX_BYTES, STEP_SASL_FINAL, exchange_begin, exchange_end,
    exchange_take,
)
from pooler.auth.secrets cimport (
    FORM_MD5, FORM_PLAIN, FORM_SCRAM, KEY_BYTES, Secret, secret_new, secret_unref,
)
from tests.fuzz._checks cimport Digest, check, digest, same

# Not by the way that the pooler goes, which this is to be compared with.
cdef extern from "<openssl/hmac.h>" nogil:
    unsigned char *HMAC(
        const EVP_MD *md, const void *key, int key_n, const unsigned char *src,
        size_t n, unsigned char *out, unsigned *out_n,
    )

cdef enum Option:
    QuestionBits = 3
    BindingBit = 4
    DoomedBit = 8
    RightBit = 16
    OtherFormBit = 32  # a password that is measured by a hash, a long salt

cdef enum:
    PROOF_BYTES = 44
    LONG_SALT_BYTES = 1024

cdef struct Outcome:
    Digest said  # by us
    int code
    size_t used
    int ended

cdef uint8_t CLIENT_KEY[KEY_BYTES]
cdef uint8_t SALT[LONG_SALT_BYTES]
cdef uint8_t ZEROS[RANDOM_BYTES]
memset(CLIENT_KEY, 1, KEY_BYTES)
memset(SALT, 2, LONG_SALT_BYTES)


cdef Secret *make_secret(uint8_t options) noexcept nogil:
    cdef uint8_t question = options & QuestionBits
    cdef bint other = options & OtherFormBit
    cdef Secret *s
    if question == ASK_PASSWORD and not other:
        s = secret_new(FORM_PLAIN, <const uint8_t *> b"secret", 6, ZEROS, 0)
    elif question == ASK_PASSWORD or question == ASK_MD5:
        s = secret_new(
            FORM_MD5, <const uint8_t *> b"0123456789abcdef0123456789abcdef", 32,
            <const uint8_t *> b"joe", 3,
        )
    else:
        s = secret_new(FORM_SCRAM, SALT, LONG_SALT_BYTES if other else 16, ZEROS, 0)
        s.iterations = 0x7FFFFFFF if other else 4096
        EVP_Digest(CLIENT_KEY, KEY_BYTES, s.stored_key, NULL, EVP_sha256(), NULL)
    s.doomed = (options & DoomedBit) != 0
    return s


cdef void right_proof(
    const Exchange *x, const uint8_t *without, size_t n, uint8_t *out
) noexcept nogil:
    """Base64 of the proof that belongs to a client-final-message; out has 45 bytes."""
    cdef uint8_t signature[KEY_BYTES]
    cdef size_t all_n = x.said_n + 1 + n
    cdef uint8_t *all = <uint8_t *> malloc(all_n)
    cdef int i
    memcpy(all, x.said, x.said_n)
    all[x.said_n] = c","
    memcpy(all + x.said_n + 1, without, n)
    HMAC(EVP_sha256(), x.secret.stored_key, KEY_BYTES, all, all_n, signature, NULL)
    free(all)
    for i in range(KEY_BYTES):
        signature[i] ^= CLIENT_KEY[i]
    EVP_EncodeBlock(out, signature, KEY_BYTES)


cdef size_t up_to_last_comma(const uint8_t *body, size_t n) noexcept nogil:
    """How many bytes stand before it; n: there is none."""
    cdef size_t at = n
    while at and body[at - 1] != c",":
        at -= 1
    return at - 1 if at else n


cdef size_t make_right(
    const Exchange *x, const uint8_t *src, size_t n, uint8_t *out
) noexcept nogil:
    """A client-final-message with the right proof in the place of its own.

    Returns its size; 0: it is not whole, has no fields, or would be too long.
    """
    cdef size_t body_n
    cdef size_t kept
    cdef size_t m
    if n < MESSAGE_HEAD_BYTES or src[0] != c"p" or src[1] or src[2]:
        return 0
    body_n = <size_t> src[3] << 8 | src[4]
    if body_n < 4 or body_n + 1 > n or body_n + PROOF_BYTES > SASL_MAX_BYTES:
        return 0
    body_n -= 4
    kept = up_to_last_comma(src + MESSAGE_HEAD_BYTES, body_n)
    if kept == body_n:
        return 0
    m = MESSAGE_HEAD_BYTES + kept
    memcpy(out, src, m)
    memcpy(out + m, b",p=", 3)
    right_proof(x, src + MESSAGE_HEAD_BYTES, kept, out + m + 3)
    m += 3 + PROOF_BYTES
    out[3], out[4] = <uint8_t> ((m - 1) >> 8), <uint8_t> (m - 1)
    return m


cdef int take(
    Exchange *x, const uint8_t *src, size_t n, bint right, size_t *used
) noexcept nogil:
    """``exchange_take`` of a block of just that size."""
    cdef uint8_t *given = <uint8_t *> malloc(n + SASL_MAX_BYTES + 8)
    cdef bint is_final = x.step == STEP_SASL_FINAL
    cdef size_t m = make_right(x, src, n, given) if right and is_final else 0
    cdef size_t theirs = (<size_t> src[3] << 8 | src[4]) + 1 if m else 0
    cdef int code
    if m == 0:
        m = n
        memcpy(given, src, n)
    given = <uint8_t *> realloc(given, m if m else 1)
    code = exchange_take(x, given, m, used)
    check(used[0] <= m, "auth: more is consumed than there was")
    check(x.answer_n <= ANSWER_MAX_BYTES, "auth: an answer that is too long")
    if code == PROOF_GIVEN:
        check(not x.secret.doomed, "auth: let in with a secret that is doomed")
        judge(x, given, used[0], is_final)
    free(given)
    if theirs and used[0]:
        used[0] = theirs
    return code


cdef void judge(
    const Exchange *x, const uint8_t *src, size_t n, bint is_final
) noexcept nogil:
    """Who is let in has sent what only he can know."""
    cdef uint8_t proof[PROOF_BYTES + 1]
    cdef size_t kept
    if x.question == ASK_SCRAM:
        check(is_final, "auth: let in before the proof")
        n -= MESSAGE_HEAD_BYTES
        src += MESSAGE_HEAD_BYTES
        kept = up_to_last_comma(src, n)
        check(n - kept == 3 + PROOF_BYTES, "auth: a proof of another length")
        right_proof(x, src, kept, proof)
        check(memcmp(src + kept + 3, proof, PROOF_BYTES) == 0, "auth: a wrong proof")
    elif x.secret.form == FORM_PLAIN:
        check(
            n == 12 and memcmp(src + MESSAGE_HEAD_BYTES, b"secret", 7) == 0,
            "auth: a wrong password",
        )


cdef void play(
    const uint8_t *src, size_t n, uint8_t options, size_t piece, Outcome *out
) noexcept nogil:
    """One client, whose bytes come in pieces."""
    cdef Exchange x
    cdef Secret *secret = make_secret(options)
    cdef uint8_t question = options & QuestionBits
    cdef size_t at = 0
    cdef size_t have = 0
    cdef size_t used = 0
    memset(out, 0, sizeof(Outcome))
    check(
        exchange_begin(
            &x, ASK_SCRAM if question > ASK_SCRAM else <Question> question, secret,
            SALT, 32 if options & BindingBit else 0, ZEROS,
        ),
        "auth: a question that does not fit",
    )
    digest(&out.said, x.answer, x.answer_n)
    out.code = PROOF_MORE
    while out.code == PROOF_MORE and have < n:
        have = have + piece if n - have > piece else n
        while True:
            out.code = take(&x, src + at, have - at, options & RightBit, &used)
            check(0 <= out.code < PROOF_CODES, "auth: a code that is none")
            at += used
            if out.code == PROOF_ANSWERED or out.code == PROOF_GIVEN:
                digest(&out.said, x.answer, x.answer_n)
            if out.code != PROOF_ANSWERED:
                break
    out.used = at
    if out.code == PROOF_GIVEN:
        out.ended = exchange_take(&x, src, n, &used)
        check(out.ended != PROOF_GIVEN and used == 0, "auth: it goes on after the end")
    exchange_end(&x)
    secret_unref(secret)


cdef int fuzz_auth(const uint8_t *src, size_t n) noexcept nogil:
    cdef Outcome whole
    cdef Outcome split
    if n < 2:
        return 0
    play(src + 1, n - 1, src[0], n, &whole)
    play(src + 1, n - 1, src[0], 1, &split)
    check(whole.code == split.code, "auth: whole and split come to something else")
    check(whole.used == split.used, "auth: whole and split end elsewhere")
    check(same(&whole.said, &split.said), "auth: whole and split are told other things")
    return 0
