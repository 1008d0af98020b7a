# SPDX-License-Identifier: MIT
"""The proof of one client: its answers go in, what to send and the verdict come out.

Auth layer, sans-IO. ``exchange_begin`` leaves the question in ``answer``; then each
``exchange_take`` takes one message of the client and leaves the next thing to send
there. Every length is judged before anything is hashed; what is secret is compared in
constant time and wiped.

Both the logins that Python leads (``login/client``) and those that never leave C
(``io/logins``) use this one.

Source: PostgreSQL documentation, "Message Flow", "Start-up"; "SASL Authentication";
RFC 5802, RFC 7677.
"""

from libc.stdint cimport uint8_t, uint32_t

from pooler.auth.secrets cimport KEY_BYTES, Secret

cdef enum:
    # PG_MAX_AUTH_TOKEN_LENGTH and PG_MAX_SASL_MESSAGE_LENGTH, which count the length
    # itself: these are of bodies.
    PASSWORD_MAX_BYTES = 65531
    SASL_MAX_BYTES = 1020
    MESSAGE_HEAD_BYTES = 5
    MD5_SALT_BYTES = 4
    NONCE_RAW_BYTES = 18
    NONCE_BYTES = 24
    NONCE_MAX_BYTES = 32  # of those in the RFC's examples
    CLIENT_NONCE_MAX_BYTES = 256
    BINDING_MAX_BYTES = 64
    # The longest is server-first-message with the longest salt.
    ANSWER_MAX_BYTES = 2048
    RANDOM_BYTES = NONCE_RAW_BYTES  # what one exchange needs

cpdef enum Question:
    ASK_PASSWORD
    ASK_MD5
    ASK_SCRAM

cpdef enum ProofCode:
    PROOF_MORE  # the message is not complete
    PROOF_ANSWERED  # there is something to send; it goes on
    PROOF_GIVEN  # it is who it says; there may be something to send
    PROOF_TOLD  # the password is here: whoever asked judges it
    PROOF_WRONG  # from here on: it is over; PROOF_ERRORS has the texts
    PROOF_EMPTY
    PROOF_NO_PASSWORD_MESSAGE
    PROOF_LENGTH
    PROOF_SASL_LENGTH
    PROOF_PASSWORD_FORM
    PROOF_INITIAL_FORM
    PROOF_MECHANISM
    PROOF_FLAG
    PROOF_FLAG_PLUS
    PROOF_DOWNGRADE
    PROOF_AUTHZID
    PROOF_EXTENSION
    PROOF_NO_USER
    PROOF_NO_NONCE
    PROOF_NONCE
    PROOF_FINAL_SHORT
    PROOF_NO_BINDING
    PROOF_NO_PROOF
    PROOF_PROOF
    PROOF_BINDING
    PROOF_BINDING_DATA
    PROOF_NONCE_DIFFERS
    PROOF_NO_MEMORY
    PROOF_CODES

cdef enum ExchangeStep:
    STEP_PASSWORD
    STEP_MD5
    STEP_SASL_INITIAL
    STEP_SASL_FIRST
    STEP_SASL_FINAL
    STEP_OVER
    EXCHANGE_STEPS

cdef struct Exchange:
    Secret *secret  # own: one reference
    uint8_t question  # Question
    uint8_t step  # ExchangeStep
    bint bound  # the client has chosen PLUS
    uint8_t flag  # of its first message: n, y or p
    uint8_t binding_n  # 0: PLUS is not offered
    uint8_t binding[BINDING_MAX_BYTES]
    uint8_t salt[MD5_SALT_BYTES]
    uint8_t ours_n
    uint8_t ours[NONCE_MAX_BYTES]  # our part of the nonce
    uint32_t nonce_n  # of the whole nonce, which server-first-message has
    uint8_t *said  # own: client-first-message-bare, server-first-message; NULL: none
    uint32_t said_n
    uint32_t nonce_at  # in said
    uint8_t client_key[KEY_BYTES]  # what it has proved to own, with SCRAM
    uint8_t kind  # of the message that was none of ours
    uint32_t length  # that was out of bounds
    const uint8_t *told  # borrow from exchange_take: the password, told_n bytes
    uint32_t told_n
    uint32_t answer_n
    uint8_t answer[ANSWER_MAX_BYTES]  # messages to send, whole

cdef bint exchange_begin(
    Exchange *x, Question question, Secret *secret, const uint8_t *binding,
    size_t binding_n, const uint8_t *random,
) noexcept nogil
cdef ProofCode exchange_take(
    Exchange *x, const uint8_t *src, size_t n, size_t *consumed
) noexcept nogil
cdef void exchange_end(Exchange *x) noexcept nogil
