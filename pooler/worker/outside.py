# SPDX-License-Identifier: MIT
"""Passwords that somebody else judges: PAM and LDAP. Worker layer, cold.

``judges`` is what ``Admission`` asks. The libraries are loaded when the configuration
first names their method.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

from pooler.config.kinds import AuthType
from pooler.config.ldap import LdapOptions
from pooler.config.model import Config
from pooler.config.pam import PamOptions
from pooler.errors import ConfigError, LoginError
from pooler.login.outcomes import NeedVerdict
from pooler.login.policy import AuthMethod
from pooler.worker.admission import Judge
from pooler.worker.judges import Judges, Verdict
from pooler.worker.ldap import LdapCheck
from pooler.worker.libldap import LibLdap
from pooler.worker.pam import Pam


def share_of(total: int, slot: int, workers: int) -> int:
    """This worker's part of what counts for all workers; at least one."""
    return max(1, total // workers + (slot < total % workers))


class Outside:
    """Who judges passwords that we do not know, and the threads that ask them."""

    def __init__(self, config: Config, slot: int, workers: int) -> None:
        """ConfigError if a library that is asked for is not here."""
        self._slot = slot
        self._workers = workers
        self._pam: Pam | None = None
        self._ldap: LibLdap | None = None
        self._config = config
        self._threads = Judges(*self._limits(config))
        self.use(config)

    def use(self, config: Config) -> None:
        """Go on by this configuration; ConfigError: go on as before."""
        rules = config.hba.rules if config.hba else ()
        methods = {config.settings.auth_type, *(rule.method for rule in rules)}
        try:
            if AuthType.PAM in methods and self._pam is None:
                self._pam = Pam()
            if AuthType.LDAP in methods and self._ldap is None:
                self._ldap = LibLdap()
        except OSError as error:
            raise ConfigError(str(error), setting="auth_type") from None
        self._config = config
        self._threads.resize(*self._limits(config))

    def close(self) -> None:
        """Ask nobody any more."""
        self._threads.close()

    def _limits(self, config: Config) -> tuple[int, int]:
        settings = config.settings
        return (
            share_of(settings.external_auth_threads, self._slot, self._workers),
            -(-settings.external_auth_queue // self._workers),
        )

    async def judge(self, question: NeedVerdict, host: str) -> str:
        """Why a password is not right; empty if it is. LoginError: nobody can say."""
        limit_s, ask = _METHODS[question.method]
        try:
            async with asyncio.timeout(limit_s):
                verdict = await ask(self, question, host)
        except TimeoutError:
            return f"no answer within {limit_s:g} s"
        if verdict.why_not and verdict.delay_s:
            await asyncio.sleep(verdict.delay_s)
        return verdict.why_not

    async def _ask_pam(self, question: NeedVerdict, host: str) -> Verdict:
        pam, options = self._pam, question.options or PamOptions()
        if pam is None or not isinstance(options, PamOptions):
            raise _without_configuration(question)
        address = None if host == "unix" else host
        user, password = question.user, question.password
        return await self._threads.ask(
            lambda: pam.check(options, user, password, address)
        )

    async def _ask_ldap(self, question: NeedVerdict, host: str) -> Verdict:
        library, options = self._ldap, question.options or self._config.ldap
        if library is None or not isinstance(options, LdapOptions):
            raise _without_configuration(question)
        check = LdapCheck(library, options, question.user, question.password)
        return await self._threads.ask(check, check.cut)

    @property
    def judges(self) -> Mapping[AuthMethod, Judge]:
        """Who is asked, by method."""
        return dict.fromkeys(_METHODS, self.judge)


def _without_configuration(question: NeedVerdict) -> LoginError:
    """A login that began under a configuration of which nothing is left."""
    return LoginError(
        f"{question.method.name} authentication failed",
        why="the configuration has changed meanwhile",
    )


# How long the whole of a check may take, and who is asked. PAM may wait for a person
# with a telephone.
_METHODS: Mapping[
    AuthMethod,
    tuple[float, Callable[[Outside, NeedVerdict, str], Awaitable[Verdict]]],
] = MappingProxyType(
    {
        AuthMethod.PAM: (60.0, Outside._ask_pam),
        AuthMethod.LDAP: (20.0, Outside._ask_ldap),
    }
)
