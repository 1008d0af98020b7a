# SPDX-License-Identifier: MIT
"""What a client is measured by: the secret of one user. Auth layer, sans-IO.

Counted: exchanges that run and the table of known logins share it. Wiped when the last
one lets go.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    KEY_BYTES = 32
    MD5_HEX_BYTES = 32
    SALT_MAX_BYTES = 1024

cpdef enum SecretForm:
    FORM_NONE  # nobody's: every answer is wrong
    FORM_PLAIN
    FORM_MD5  # md5(password + user), in hexadecimal
    FORM_SCRAM
    FORM_ELSEWHERE  # whoever asked judges the password

cdef struct Secret:
    uint32_t refs
    uint8_t form  # SecretForm
    bint doomed  # looks like any other, and no answer is right
    uint32_t iterations  # of SCRAM
    uint8_t stored_key[KEY_BYTES]
    uint8_t server_key[KEY_BYTES]
    uint32_t n  # of what it is: a password, a hash, a salt
    uint32_t user_n
    uint8_t bytes[1]  # n, then the user's name

cdef Secret *secret_new(
    SecretForm form, const uint8_t *src, size_t n, const uint8_t *user, size_t user_n
) noexcept nogil
cdef void secret_unref(Secret *s) noexcept nogil


cdef inline Secret *secret_ref(Secret *s) noexcept nogil:
    s.refs += 1
    return s


@cython.final
cdef class StoredSecret:
    """Python's hold on a secret."""
    cdef Secret *secret  # own: one reference

cdef StoredSecret stored_secret(Secret *secret)
