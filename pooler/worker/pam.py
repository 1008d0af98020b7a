# SPDX-License-Identifier: MIT
"""Passwords that PAM judges: libpam by ctypes. Worker layer, cold; blocks.

What is done is what PgBouncer and PostgreSQL do: ``pam_authenticate`` with the user,
the password and where the client is, then ``pam_acct_mgmt`` (expired, not now, not from
there). A handle belongs to one call, so threads may call at the same time as far as
the modules allow it.

PAM makes who fails wait, two seconds by default, in the call. That would hold a thread,
so the delay is taken over (PAM_FAIL_DELAY) and left to the caller.

Source: PostgreSQL documentation, "PAM Authentication"; man pages pam(3), pam_conv(3),
pam_set_item(3).
"""

from __future__ import annotations

import ctypes
from typing import Any

from pooler.config.kinds import AuthType
from pooler.config.libraries import load_library
from pooler.config.pam import PamOptions
from pooler.login import packets
from pooler.worker.judges import Verdict

MAX_DELAY_S = 10.0

_SUCCESS = 0
_BUFFER_ERROR = 5
_CONVERSATION_ERROR = 19
_SILENT = 0x8000
_RHOST = 4
_FAIL_DELAY = 10

_PROMPT_ECHO_OFF = 1
_ERROR_MESSAGE = 3
_INFORMATION = 4
_MAX_MESSAGES = 32


class _Message(ctypes.Structure):
    _fields_ = (("style", ctypes.c_int), ("text", ctypes.c_char_p))


class _Response(ctypes.Structure):
    _fields_ = (("text", ctypes.c_void_p), ("code", ctypes.c_int))


_Converse = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int,
    ctypes.POINTER(ctypes.POINTER(_Message)),
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_void_p,
)
_Delay = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)


class _Conversation(ctypes.Structure):
    _fields_ = (("converse", _Converse), ("data", ctypes.c_void_p))


class Pam:
    """libpam. OSError if it is not here."""

    def __init__(self) -> None:
        names, libc = load_library(AuthType.PAM), ctypes.CDLL(None)
        handle, text = ctypes.c_void_p, ctypes.c_char_p
        self._start: Any = _function(names, "pam_start", text, text, handle, handle)
        self._end: Any = _function(names, "pam_end", handle, ctypes.c_int)
        self._set_item: Any = _function(
            names, "pam_set_item", handle, ctypes.c_int, handle
        )
        self._steps = tuple(
            (name, _function(names, name, handle, ctypes.c_int))
            for name in ("pam_authenticate", "pam_acct_mgmt")
        )
        self._strerror: Any = _function(names, "pam_strerror", handle, ctypes.c_int)
        self._strerror.restype = text
        # PAM frees with free() what it is answered.
        self._calloc: Any = _function(libc, "calloc", ctypes.c_size_t, ctypes.c_size_t)
        self._strdup: Any = _function(libc, "strdup", text)
        self._free: Any = _function(libc, "free", handle)
        self._calloc.restype = self._strdup.restype = handle
        self._free.restype = None

    def check(
        self, options: PamOptions, user: str, password: str, address: str | None
    ) -> Verdict:
        """Whether the password is the user's, and the user may come in.

        In: address   where the client is; None: on this machine
        Blocks for as long as the modules of the service do.
        """
        talk = _Talk(self, packets.encode(password))
        converse = _Converse(talk.answer)
        delay = _Delay(talk.note_delay)
        conversation = _Conversation(converse, None)
        handle = ctypes.c_void_p()
        code = self._start(
            packets.encode(options.service),
            packets.encode(user),
            ctypes.byref(conversation),
            ctypes.byref(handle),
        )
        if code != _SUCCESS:
            return Verdict(f"pam_start() failed: {self._text(None, code)}")
        try:
            host = ctypes.c_char_p((address or "[local]").encode())
            items = (
                (_RHOST, ctypes.cast(host, ctypes.c_void_p)),
                (_FAIL_DELAY, ctypes.cast(delay, ctypes.c_void_p)),
            )
            for number, value in items:
                code = self._set_item(handle, number, value)
                if code != _SUCCESS:
                    return Verdict(f"pam_set_item({number}) failed: {code}")
            for name, step in self._steps:
                code = step(handle, _SILENT)
                if code != _SUCCESS:
                    said = "".join(f"; {one}" for one in talk.errors)
                    why = f"{name}() failed: {self._text(handle, code)}{said}"
                    return Verdict(why, min(talk.delay_s, MAX_DELAY_S))
            return Verdict()
        finally:
            self._end(handle, code)

    def _text(self, handle: ctypes.c_void_p | None, code: int) -> str:
        text: bytes | None = self._strerror(handle, code)
        return packets.decode(text or b"") or str(code)

    def new_answers(self, count: int) -> int:
        """Memory for so many answers, all zero; 0: there is none."""
        address: int | None = self._calloc(count, ctypes.sizeof(_Response))
        return address or 0

    def copy_of(self, text: bytes) -> int:
        """A copy that PAM may free; 0: there is no memory."""
        address: int | None = self._strdup(text)
        return address or 0

    def free_answers(self, address: int, count: int) -> None:
        """Take answers back that PAM will not get."""
        for one in (_Response * count).from_address(address):
            self._free(one.text)
        self._free(address)


class _Talk:
    """What the modules ask in one check, and what they say."""

    def __init__(self, pam: Pam, password: bytes) -> None:
        self._pam = pam
        self._password = password
        self.errors: list[str] = []
        self.delay_s = 0.0

    def note_delay(self, code: int, delay_us: int, _: object) -> None:
        """PAM would wait so long now."""
        if code != _SUCCESS:
            self.delay_s = delay_us / 1_000_000

    def answer(self, count: int, messages: Any, answers: Any, _: object) -> int:
        """Answer each question with the password.

        Whatever goes wrong is said to PAM: ctypes would take an exception for success.
        """
        try:
            return self._answer(count, messages, answers)
        except BaseException:
            return _CONVERSATION_ERROR

    def _answer(self, count: int, messages: Any, answers: Any) -> int:
        if not 0 < count <= _MAX_MESSAGES:
            return _CONVERSATION_ERROR
        address = self._pam.new_answers(count)
        if not address:
            return _BUFFER_ERROR
        try:
            for number, one in enumerate((_Response * count).from_address(address)):
                said = messages[number].contents
                one.text = self._pam.copy_of(self._reply_to(said.style, said.text))
                if not one.text:
                    raise MemoryError
        except BaseException:
            self._pam.free_answers(address, count)
            raise
        answers[0] = address
        return _SUCCESS

    def _reply_to(self, style: int, text: bytes | None) -> bytes:
        if style == _PROMPT_ECHO_OFF:
            return self._password
        if style == _ERROR_MESSAGE:
            self.errors.append(packets.decode(text or b""))
        elif style != _INFORMATION:
            # a question that is shown while it is answered is not for the password
            raise ValueError("nobody is there to be asked that")
        return b""


def _function(library: ctypes.CDLL, name: str, *arguments: Any) -> Any:
    found = getattr(library, name)
    found.argtypes = arguments
    return found
