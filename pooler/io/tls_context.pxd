# SPDX-License-Identifier: MIT
"""What all TLS connections of one configuration share. IO layer, cold."""

from pooler.io.openssl cimport SSL_CTX


cdef class TlsContext:
    cdef SSL_CTX *context  # own
    cdef readonly bint accepts  # for peers that begin: clients
    cdef readonly bytes certificate_hash  # ours, for channel binding; b"": none
