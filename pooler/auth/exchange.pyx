# SPDX-License-Identifier: MIT
"""The proof of one client; see ``exchange.pxd``."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy, memset, strlen

from pooler.auth.crypto cimport (
    CRYPTO_memcmp, EVP_Digest, EVP_EncodeBlock, EVP_MD, EVP_md5, EVP_sha256, HMAC,
    OPENSSL_cleanse,
)
from pooler.auth.secrets cimport (
    FORM_ELSEWHERE, FORM_MD5, FORM_PLAIN, FORM_SCRAM, MD5_HEX_BYTES, secret_ref,
    secret_unref,
)

cdef enum:
    AUTH_PASSWORD = 3
    AUTH_MD5 = 5
    AUTH_SASL = 10
    AUTH_SASL_CONTINUE = 11
    AUTH_SASL_FINAL = 12
    PROOF_TEXT_BYTES = 44  # 32 bytes in base64
    MD5_BYTES = 16
    HEADER_MAX_BYTES = 32  # of GS2, before the binding
    BOUND_TEXT_BYTES = 132  # of header and binding in base64, and a terminator
    MD5_ANSWER_BYTES = 35

cdef uint32_t NO_DATA = 0xFFFFFFFF  # the length of what a client holds back

cdef const char *PLAIN_NAME = b"SCRAM-SHA-256"
cdef const char *PLUS_NAME = b"SCRAM-SHA-256-PLUS"
cdef const char *PLUS_FLAG = b"p=tls-server-end-point"

cdef struct Span:  # a part of a message
    const uint8_t *p
    size_t n


# ---------------------------------------------------------------- small things

cdef inline void put32(uint8_t *p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t> (value >> 24)
    p[1] = <uint8_t> (value >> 16)
    p[2] = <uint8_t> (value >> 8)
    p[3] = <uint8_t> value


cdef inline uint32_t get32(const uint8_t *p) noexcept nogil:
    return (
        (<uint32_t> p[0] << 24) | (<uint32_t> p[1] << 16) | (<uint32_t> p[2] << 8)
        | p[3]
    )


cdef inline bint is_text(Span s, const char *text) noexcept nogil:
    return s.n == strlen(text) and memcmp(s.p, text, s.n) == 0


cdef uint32_t encode64(uint8_t *out, const uint8_t *src, size_t n) noexcept nogil:
    """Base64 with padding; out has room for it and a terminator."""
    return <uint32_t> EVP_EncodeBlock(out, src, <int> n)


cdef inline int value64(uint8_t byte) noexcept nogil:
    if c"A" <= byte <= c"Z":
        return byte - c"A"
    if c"a" <= byte <= c"z":
        return byte - c"a" + 26
    if c"0" <= byte <= c"9":
        return byte - c"0" + 52
    return 62 if byte == c"+" else 63 if byte == c"/" else -1


cdef bint decode_key(Span text, uint8_t *out) noexcept nogil:
    """32 bytes from exactly the base64 that 32 bytes have; False: it is other."""
    cdef uint32_t bits = 0
    cdef uint32_t have = 0
    cdef size_t i
    cdef size_t at = 0
    cdef int value
    if text.n != PROOF_TEXT_BYTES or text.p[text.n - 1] != c"=":
        return False
    for i in range(text.n - 1):
        value = value64(text.p[i])
        if value < 0:
            return False
        bits = (bits << 6) | <uint32_t> value
        have += 6
        if have >= 8:
            have -= 8
            out[at] = <uint8_t> (bits >> have)
            at += 1
    return True


cdef bint digest(
    const EVP_MD *md, const uint8_t *src, size_t n, uint8_t *out
) noexcept nogil:
    return EVP_Digest(src, n, out, NULL, md, NULL) == 1


cdef bint md5_hex(
    const uint8_t *src, size_t n, const uint8_t *more, size_t more_n, uint8_t *out
) noexcept nogil:
    """The hash of two parts in hexadecimal; False: there is none, or no memory."""
    cdef const char *digits = b"0123456789abcdef"
    cdef uint8_t raw[MD5_BYTES]
    cdef uint8_t *both = <uint8_t *> malloc(n + more_n + 1)
    cdef int i
    cdef bint made
    if both == NULL:
        return False
    memcpy(both, src, n)
    memcpy(both + n, more, more_n)
    made = digest(EVP_md5(), both, n + more_n, raw)
    OPENSSL_cleanse(both, n + more_n)
    free(both)
    for i in range(MD5_BYTES):
        out[2 * i] = <uint8_t> digits[raw[i] >> 4]
        out[2 * i + 1] = <uint8_t> digits[raw[i] & 15]
    return made


cdef inline Span span(const uint8_t *p, size_t n) noexcept nogil:
    cdef Span s
    s.p = p
    s.n = n
    return s


cdef Span up_to_comma(Span *rest) noexcept nogil:
    """The next field; what is behind its comma stays. At the end p is NULL."""
    cdef const uint8_t *at = <const uint8_t *> memchr(rest.p, c",", rest.n)
    cdef Span field = rest[0]
    if at == NULL:
        rest.p = NULL
        rest.n = 0
    else:
        field.n = <size_t> (at - rest.p)
        rest.p = at + 1
        rest.n -= field.n + 1
    return field


cdef inline bint attribute(Span field, uint8_t name, Span *value) noexcept nogil:
    """The value of ``name=value``; False: it is another field."""
    if field.n < 2 or field.p[0] != name or field.p[1] != c"=":
        return False
    value.p = field.p + 2
    value.n = field.n - 2
    return True


# ---------------------------------------------------------------- what is sent

cdef void answer(Exchange *x, uint32_t code, Span text) noexcept nogil:
    """Add an Authentication message; the caller knows that there is room."""
    cdef uint8_t *p = x.answer + x.answer_n
    p[0] = c"R"
    put32(p + 1, <uint32_t> (8 + text.n))
    put32(p + 5, code)
    memcpy(p + 9, text.p, text.n)
    x.answer_n += <uint32_t> (9 + text.n)


cdef void offer(Exchange *x) noexcept nogil:
    """The mechanisms, the best first; each and the list have a terminator."""
    cdef uint8_t names[64]
    cdef size_t n = 0
    if x.binding_n:
        n = strlen(PLUS_NAME) + 1
        memcpy(names, PLUS_NAME, n)
    memcpy(names + n, PLAIN_NAME, strlen(PLAIN_NAME) + 1)
    n += strlen(PLAIN_NAME) + 1
    names[n] = 0
    answer(x, AUTH_SASL, span(names, n + 1))


cdef bint exchange_begin(
    Exchange *x, Question question, Secret *secret, const uint8_t *binding,
    size_t binding_n, const uint8_t *random,
) noexcept nogil:
    """Ask; ``exchange_end`` is due in any case.

    In:      random = RANDOM_BYTES that nobody can guess; binding: the hash of our
             certificate if the client came by TLS, else binding_n is 0. A reference
             to the secret is taken
    Out:     the question in ``answer``; False: secret and question do not fit
    """
    cdef uint8_t text[NONCE_BYTES + 1]
    memset(x, 0, sizeof(Exchange))
    x.secret = secret_ref(secret)
    x.question = question
    if binding_n > BINDING_MAX_BYTES:
        return False
    if question == ASK_PASSWORD:
        x.step = STEP_PASSWORD
        answer(x, AUTH_PASSWORD, span(x.salt, 0))
        return True
    if question == ASK_MD5:
        x.step = STEP_MD5
        memcpy(x.salt, random, MD5_SALT_BYTES)
        answer(x, AUTH_MD5, span(x.salt, MD5_SALT_BYTES))
        return secret.form == FORM_MD5
    x.step = STEP_SASL_INITIAL
    x.binding_n = <uint8_t> binding_n
    if binding_n:
        memcpy(x.binding, binding, binding_n)
    encode64(text, random, NONCE_RAW_BYTES)
    memcpy(x.ours, text, NONCE_BYTES)
    x.ours_n = NONCE_BYTES
    offer(x)
    return secret.form == FORM_SCRAM


cdef void exchange_end(Exchange *x) noexcept nogil:
    """Let go of the secret, wipe what was derived from it."""
    secret_unref(x.secret)
    free(x.said)
    OPENSSL_cleanse(x, sizeof(Exchange))


# ---------------------------------------------------------------- passwords

cdef ProofCode read_password(const uint8_t *body, size_t n, Span *out) noexcept nogil:
    """One string and nothing behind it, not empty."""
    if n == 0 or <const uint8_t *> memchr(body, 0, n) != body + n - 1:
        return PROOF_PASSWORD_FORM
    out[0] = span(body, n - 1)
    return PROOF_EMPTY if n == 1 else PROOF_GIVEN


cdef inline ProofCode verdict(const Exchange *x, bint right) noexcept nogil:
    return PROOF_GIVEN if right and not x.secret.doomed else PROOF_WRONG


cdef ProofCode take_password(
    Exchange *x, const uint8_t *body, size_t n
) noexcept nogil:
    """A password in the clear; how long the right one is may be told by the time."""
    cdef uint8_t hex[MD5_HEX_BYTES]
    cdef const Secret *secret = x.secret
    cdef Span password
    cdef ProofCode code = read_password(body, n, &password)
    x.step = STEP_OVER
    if code != PROOF_GIVEN:
        return code
    if secret.form == FORM_PLAIN:
        return verdict(
            x, password.n == secret.n
            and CRYPTO_memcmp(password.p, secret.bytes, secret.n) == 0,
        )
    if secret.form == FORM_MD5:
        return verdict(
            x, md5_hex(
                password.p, password.n, secret.bytes + secret.n, secret.user_n, hex
            ) and CRYPTO_memcmp(hex, secret.bytes, MD5_HEX_BYTES) == 0,
        )
    if secret.form == FORM_SCRAM or secret.form == FORM_ELSEWHERE:
        x.told = password.p
        x.told_n = <uint32_t> password.n
        return PROOF_TOLD
    return PROOF_WRONG


cdef ProofCode take_md5(Exchange *x, const uint8_t *body, size_t n) noexcept nogil:
    """``md5`` and the hash of the stored hash and our salt."""
    cdef uint8_t hex[MD5_HEX_BYTES]
    cdef Span given
    cdef bint made
    cdef ProofCode code = read_password(body, n, &given)
    x.step = STEP_OVER
    if code != PROOF_GIVEN:
        return code
    made = md5_hex(x.secret.bytes, MD5_HEX_BYTES, x.salt, MD5_SALT_BYTES, hex)
    return verdict(
        x, made and given.n == MD5_ANSWER_BYTES and memcmp(given.p, b"md5", 3) == 0
        and CRYPTO_memcmp(given.p + 3, hex, MD5_HEX_BYTES) == 0,
    )


# ---------------------------------------------------------------- SCRAM

cdef ProofCode take_sasl_initial(
    Exchange *x, const uint8_t *body, size_t n
) noexcept nogil:
    """SASLInitialResponse: the mechanism and client-first-message, if it is there."""
    cdef const uint8_t *end = <const uint8_t *> memchr(body, 0, n)
    cdef Span name
    cdef uint32_t size
    cdef size_t behind
    if end == NULL:
        return PROOF_INITIAL_FORM
    name = span(body, <size_t> (end - body))
    behind = n - name.n - 1
    if behind < 4:
        return PROOF_INITIAL_FORM
    size = get32(end + 1)
    behind -= 4
    if size == NO_DATA:
        if behind:
            return PROOF_INITIAL_FORM
    elif behind != size:
        return PROOF_INITIAL_FORM
    if x.binding_n and is_text(name, PLUS_NAME):
        x.bound = True
    elif not is_text(name, PLAIN_NAME):
        return PROOF_MECHANISM
    if size == NO_DATA:
        # RFC 4422: an empty challenge asks for what the client held back
        x.step = STEP_SASL_FIRST
        answer(x, AUTH_SASL_CONTINUE, span(body, 0))
        return PROOF_ANSWERED
    return take_sasl_first(x, end + 5, behind)


cdef bint nonce_is_sound(Span nonce) noexcept nogil:
    cdef size_t i
    if not 1 <= nonce.n <= CLIENT_NONCE_MAX_BYTES:
        return False
    for i in range(nonce.n):
        if not 0x21 <= nonce.p[i] <= 0x7E or nonce.p[i] == c",":
            return False
    return True


cdef ProofCode read_flag(Exchange *x, Span *rest) noexcept nogil:
    """The header of GS2; what follows is client-first-message-bare."""
    cdef Span flag = up_to_comma(rest)
    cdef Span name
    if x.bound:
        if not is_text(flag, PLUS_FLAG):
            return PROOF_FLAG_PLUS
    elif flag.n != 1 or (flag.p[0] != c"n" and flag.p[0] != c"y"):
        return PROOF_FLAG
    x.flag = flag.p[0]
    if x.flag == c"y" and x.binding_n:
        return PROOF_DOWNGRADE  # somebody in between has removed our offer
    if rest.p == NULL:
        return PROOF_AUTHZID
    name = up_to_comma(rest)
    if name.n or rest.p == NULL:
        return PROOF_AUTHZID
    return PROOF_MORE


cdef ProofCode take_sasl_first(
    Exchange *x, const uint8_t *body, size_t n
) noexcept nogil:
    """client-first-message; the name in it is ignored, StartupMessage has it."""
    cdef Span rest = span(body, n)
    cdef Span bare
    cdef Span field
    cdef Span nonce
    cdef ProofCode code = read_flag(x, &rest)
    if code != PROOF_MORE:
        return code
    bare = rest
    field = up_to_comma(&rest)
    if field.n >= 2 and field.p[0] == c"m" and field.p[1] == c"=":
        return PROOF_EXTENSION
    if rest.p == NULL or not attribute(field, c"n", &nonce):
        return PROOF_NO_USER
    field = up_to_comma(&rest)
    if not attribute(field, c"r", &nonce):
        return PROOF_NO_NONCE
    if not nonce_is_sound(nonce):
        return PROOF_NONCE
    return say_first(x, bare, nonce)


cdef ProofCode say_first(Exchange *x, Span bare, Span nonce) noexcept nogil:
    """server-first-message; kept behind the client's, for both are signed."""
    cdef const Secret *secret = x.secret
    cdef uint8_t *p
    # two commas, r=, s=, i= and ten digits; encode64 and snprintf write a terminator
    x.said = <uint8_t *> malloc(
        bare.n + nonce.n + x.ours_n + (<size_t> secret.n + 2) // 3 * 4 + 32
    )
    if x.said == NULL:
        return PROOF_NO_MEMORY
    p = x.said
    memcpy(p, bare.p, bare.n)
    p += bare.n
    memcpy(p, b",r=", 3)
    p += 3
    x.nonce_at = <uint32_t> (p - x.said)
    memcpy(p, nonce.p, nonce.n)
    memcpy(p + nonce.n, x.ours, x.ours_n)
    x.nonce_n = <uint32_t> nonce.n + x.ours_n
    p += x.nonce_n
    memcpy(p, b",s=", 3)
    p += 3
    p += encode64(p, secret.bytes, secret.n)
    p += snprintf(<char *> p, 16, b",i=%u", secret.iterations)
    x.said_n = <uint32_t> (p - x.said)
    answer(
        x, AUTH_SASL_CONTINUE,
        span(x.said + bare.n + 1, x.said_n - bare.n - 1),
    )
    x.step = STEP_SASL_FINAL
    return PROOF_ANSWERED


cdef Span last_field(Span message) noexcept nogil:
    """What is behind the last comma."""
    cdef size_t at = message.n
    while at and message.p[at - 1] != c",":
        at -= 1
    return span(message.p + at, message.n - at)


cdef ProofCode check_binding(const Exchange *x, Span given) noexcept nogil:
    """The client means this TLS connection, not one to somebody in between."""
    cdef uint8_t raw[HEADER_MAX_BYTES + BINDING_MAX_BYTES]
    cdef uint8_t text[BOUND_TEXT_BYTES]
    cdef size_t n = 1
    raw[0] = x.flag
    if x.bound:
        n = strlen(PLUS_FLAG)
        memcpy(raw, PLUS_FLAG, n)
    raw[n] = raw[n + 1] = c","
    n += 2
    if x.bound:
        memcpy(raw + n, x.binding, x.binding_n)
        n += x.binding_n
    n = encode64(text, raw, n)
    if given.n == n and CRYPTO_memcmp(given.p, text, n) == 0:
        return PROOF_GIVEN
    return PROOF_BINDING if x.bound else PROOF_BINDING_DATA


cdef ProofCode take_sasl_final(
    Exchange *x, const uint8_t *body, size_t n
) noexcept nogil:
    """client-final-message: what is bound, the nonce, anything, the proof."""
    cdef Span rest = span(body, n)
    cdef Span last = last_field(rest)
    cdef Span binding
    cdef Span nonce
    cdef Span text
    cdef Span field
    cdef uint8_t proof[KEY_BYTES]
    cdef ProofCode code
    x.step = STEP_OVER
    field = up_to_comma(&rest)
    if rest.p == NULL or <const uint8_t *> memchr(rest.p, c",", rest.n) == NULL:
        return PROOF_FINAL_SHORT
    if not attribute(field, c"c", &binding):
        return PROOF_NO_BINDING
    field = up_to_comma(&rest)
    if not attribute(field, c"r", &nonce):
        return PROOF_NO_NONCE
    if not attribute(last, c"p", &text):
        return PROOF_NO_PROOF
    if not decode_key(text, proof):
        return PROOF_PROOF
    code = check_binding(x, binding)
    if code != PROOF_GIVEN:
        return code
    if nonce.n != x.nonce_n or CRYPTO_memcmp(
        nonce.p, x.said + x.nonce_at, nonce.n
    ) != 0:
        return PROOF_NONCE_DIFFERS
    return check_proof(x, span(body, n - last.n - 1), proof)


cdef ProofCode check_proof(
    Exchange *x, Span without_proof, const uint8_t *proof
) noexcept nogil:
    """Undo the signature: what is left must hash to StoredKey.

    Cost: two signatures over the three messages and a hash, whoever it is.
    """
    cdef uint8_t signature[KEY_BYTES]
    cdef uint8_t hashed[KEY_BYTES]
    cdef uint8_t text[2 + PROOF_TEXT_BYTES + 1]
    cdef const Secret *secret = x.secret
    cdef size_t n = x.said_n + 1 + without_proof.n
    cdef uint8_t *all = <uint8_t *> malloc(n)
    cdef bint made
    cdef int i
    if all == NULL:
        return PROOF_NO_MEMORY
    memcpy(all, x.said, x.said_n)
    all[x.said_n] = c","
    memcpy(all + x.said_n + 1, without_proof.p, without_proof.n)
    made = HMAC(
        EVP_sha256(), secret.stored_key, KEY_BYTES, all, n, signature, NULL
    ) != NULL
    for i in range(KEY_BYTES):
        x.client_key[i] = proof[i] ^ signature[i]
    made = digest(EVP_sha256(), x.client_key, KEY_BYTES, hashed) and made
    made = HMAC(
        EVP_sha256(), secret.server_key, KEY_BYTES, all, n, signature, NULL
    ) != NULL and made
    free(all)
    if not made or CRYPTO_memcmp(hashed, secret.stored_key, KEY_BYTES) != 0:
        return PROOF_WRONG
    memcpy(text, b"v=", 2)
    encode64(text + 2, signature, KEY_BYTES)
    if verdict(x, True) == PROOF_GIVEN:
        answer(x, AUTH_SASL_FINAL, span(text, 2 + PROOF_TEXT_BYTES))
    return verdict(x, True)


# ---------------------------------------------------------------- messages

ctypedef ProofCode (*Take)(Exchange *x, const uint8_t *body, size_t n) noexcept nogil

cdef Take TAKE[<int> EXCHANGE_STEPS]
TAKE[<int> STEP_PASSWORD] = take_password
TAKE[<int> STEP_MD5] = take_md5
TAKE[<int> STEP_SASL_INITIAL] = take_sasl_initial
TAKE[<int> STEP_SASL_FIRST] = take_sasl_first
TAKE[<int> STEP_SASL_FINAL] = take_sasl_final


cdef ProofCode exchange_take(
    Exchange *x, const uint8_t *src, size_t n, size_t *consumed
) noexcept nogil:
    """Take one message of the client, as far as it has come.

    In:      src[0:n) = all that is not consumed; the exchange is not over
    Out:     what it comes to; ``answer`` has what to send; consumed bytes were one
             message. Its type is judged before its length, and that by its header
    Errors:  codes from PROOF_WRONG on: the exchange is over
    Cost:    O(message)
    Source:  PostgreSQL documentation, "Message Formats", PasswordMessage,
             SASLInitialResponse, SASLResponse
    """
    cdef uint32_t most = SASL_MAX_BYTES if x.question == ASK_SCRAM else (
        PASSWORD_MAX_BYTES
    )
    consumed[0] = 0
    x.answer_n = 0
    if x.step == STEP_OVER:
        return PROOF_WRONG
    if n and src[0] != c"p":
        x.kind = src[0]
        return PROOF_NO_PASSWORD_MESSAGE
    if n < MESSAGE_HEAD_BYTES:
        return PROOF_MORE
    x.length = get32(src + 1)
    if x.length < 4 or x.length > most + 4:
        return PROOF_SASL_LENGTH if x.question == ASK_SCRAM else PROOF_LENGTH
    if n < <size_t> x.length + 1:
        return PROOF_MORE
    consumed[0] = <size_t> x.length + 1
    return TAKE[x.step](x, src + MESSAGE_HEAD_BYTES, x.length - 4)
