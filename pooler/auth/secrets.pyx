# SPDX-License-Identifier: MIT
"""Secrets; see ``secrets.pxd``."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from pooler.auth.crypto cimport CRYPTO_memcmp, OPENSSL_cleanse

cdef enum:
    SECRET_MAX_BYTES = 1048576


cdef Secret *secret_new(
    SecretForm form, const uint8_t *src, size_t n, const uint8_t *user, size_t user_n
) noexcept nogil:
    """A secret with one reference, its keys zero; NULL without memory."""
    cdef Secret *s
    if n > SECRET_MAX_BYTES or user_n > SECRET_MAX_BYTES:
        return NULL
    s = <Secret *> malloc(sizeof(Secret) + n + user_n)
    if s == NULL:
        return NULL
    memset(s, 0, sizeof(Secret))
    s.refs = 1
    s.form = form
    s.n = <uint32_t> n
    s.user_n = <uint32_t> user_n
    memcpy(s.bytes, src, n)
    memcpy(s.bytes + n, user, user_n)
    return s


cdef void secret_unref(Secret *s) noexcept nogil:
    if s == NULL:
        return
    s.refs -= 1
    if s.refs == 0:
        OPENSSL_cleanse(s, sizeof(Secret) + s.n + s.user_n)
        free(s)


@cython.final
cdef class StoredSecret:
    """Python's hold on a secret; what it is made of cannot be read back."""

    def __dealloc__(self):
        secret_unref(self.secret)

    def same(self, StoredSecret other not None):
        """Whether both are the same secret; the time tells nothing of them."""
        cdef const Secret *a = self.secret
        cdef const Secret *b = other.secret
        return (
            a.form == b.form and a.doomed == b.doomed and a.iterations == b.iterations
            and a.n == b.n and a.user_n == b.user_n
            and CRYPTO_memcmp(a.stored_key, b.stored_key, KEY_BYTES) == 0
            and CRYPTO_memcmp(a.server_key, b.server_key, KEY_BYTES) == 0
            and CRYPTO_memcmp(a.bytes, b.bytes, a.n + a.user_n) == 0
        )

    @staticmethod
    def plain(bytes password):
        """A password, as its user sends it."""
        return made(FORM_PLAIN, password, b"")

    @staticmethod
    def md5(bytes digits, bytes user, *, bint doomed=False):
        """What PostgreSQL stores behind ``md5``: 32 hexadecimal digits.

        ``doomed``: no answer is right.
        """
        cdef StoredSecret self
        if len(digits) != MD5_HEX_BYTES:
            raise ValueError(f"md5 hash of {len(digits)} digits")
        self = made(FORM_MD5, digits, user)
        self.secret.doomed = doomed
        return self

    @staticmethod
    def scram(
        uint32_t iterations, bytes salt, bytes stored_key, bytes server_key, *,
        bint doomed=False,
    ):
        """A verifier. ``doomed``: the exchange is that of any other, and fails."""
        cdef StoredSecret self
        if not len(stored_key) == len(server_key) == KEY_BYTES:
            raise ValueError("keys of a SCRAM verifier have 32 bytes")
        if not 1 <= len(salt) <= SALT_MAX_BYTES:
            raise ValueError(f"salt of {len(salt)} bytes")
        self = made(FORM_SCRAM, salt, b"")
        self.secret.iterations = iterations
        self.secret.doomed = doomed
        memcpy(self.secret.stored_key, PyBytes_AS_STRING(stored_key), KEY_BYTES)
        memcpy(self.secret.server_key, PyBytes_AS_STRING(server_key), KEY_BYTES)
        return self

    @staticmethod
    def nobody():
        """No password is right."""
        return made(FORM_NONE, b"", b"")

    @staticmethod
    def elsewhere():
        """The password is judged by whoever asks for it."""
        return made(FORM_ELSEWHERE, b"", b"")


cdef StoredSecret made(SecretForm form, bytes what, bytes user):
    cdef StoredSecret self = StoredSecret()
    self.secret = secret_new(
        form, <const uint8_t *> PyBytes_AS_STRING(what), len(what),
        <const uint8_t *> PyBytes_AS_STRING(user), len(user),
    )
    if self.secret == NULL:
        raise MemoryError
    return self


cdef StoredSecret stored_secret(Secret *secret):
    """Another hold on a secret."""
    cdef StoredSecret self = StoredSecret()
    self.secret = secret_ref(secret)
    return self
