# SPDX-License-Identifier: MIT
"""What a pool keeps of those who have logged in to it."""

from __future__ import annotations

from pooler.config.settings import Database
from pooler.login.scram import ScramKeys
from pooler.worker.pool import Pool

KEYS = ScramKeys.from_password("secret", b"salt", 1)


def test_keys_go_with_the_secret_that_they_were_proved_by() -> None:
    pool = Pool(Database(name="shop"), "joe", 0)
    pool.learn_secret("old")
    pool.scram_keys = KEYS
    pool.learn_secret("old")
    assert pool.scram_keys is KEYS
    pool.learn_secret("new")
    assert pool.scram_keys is None
