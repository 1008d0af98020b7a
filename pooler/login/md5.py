# SPDX-License-Identifier: MIT
"""The md5 password method. Login layer, sans-IO.

PostgreSQL stores ``"md5" + md5(password + user)``; the client proves that it
knows it by ``"md5" + md5(stored hash + salt)``. So the stored form is as good
as the password. Use it where old clients or servers leave no choice.

Source: PostgreSQL documentation, "Password Authentication"; "Message Flow",
AuthenticationMD5Password.
"""

from __future__ import annotations

import hashlib
import re

from pooler.login.packets import encode

_PREFIX = "md5"
_SECRET = re.compile(r"md5[0-9a-f]{32}", re.ASCII)


def is_md5_secret(secret: str) -> bool:
    """Tell whether a stored secret is a md5 hash and not a password."""
    return _SECRET.fullmatch(secret) is not None


def md5_secret(password: str, user: str) -> str:
    """Return the form PostgreSQL stores for this password."""
    return _PREFIX + _hex(encode(password) + encode(user))


def md5_response(secret: str, salt: bytes) -> str:
    """Return the answer to a salt, from the stored form."""
    return _PREFIX + _hex(encode(secret.removeprefix(_PREFIX)) + salt)


def _hex(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
