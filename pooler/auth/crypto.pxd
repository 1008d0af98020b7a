# SPDX-License-Identifier: MIT
"""What proofs use of libcrypto, 1.1.1 or newer.

Source: OpenSSL man pages EVP_Digest(3), HMAC(3), EVP_EncodeBlock(3), CRYPTO_memcmp(3),
OPENSSL_cleanse(3), RAND_bytes(3).
"""

cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_MD
    const EVP_MD *EVP_sha256()
    const EVP_MD *EVP_md5()
    int EVP_Digest(
        const void *src, size_t n, unsigned char *out, unsigned *out_n,
        const EVP_MD *md, void *engine,
    )
    int EVP_EncodeBlock(unsigned char *out, const unsigned char *src, int n)

cdef extern from "<openssl/hmac.h>" nogil:
    unsigned char *HMAC(
        const EVP_MD *md, const void *key, int key_n, const unsigned char *src,
        size_t n, unsigned char *out, unsigned *out_n,
    )

cdef extern from "<openssl/crypto.h>" nogil:
    int CRYPTO_memcmp(const void *a, const void *b, size_t n)
    void OPENSSL_cleanse(void *p, size_t n)

cdef extern from "<openssl/rand.h>" nogil:
    int RAND_bytes(unsigned char *out, int n)
