"""Checking passwords: argon2id takes its time on purpose, so it runs in threads of its own, few at once."""

import asyncio
import hmac
import secrets
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

#: As the registry makes hashes: an unknown user must take as long as a known one.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
#: Two at a time bound memory and leave the machine to the mail.
_THREADS = 2
#: More than this waiting is a flood of guesses.
WAITING_MAX = 50
#: A controller that logs in for each mail is checked with argon2id once in this many seconds.
REMEMBERED_S = 300.0
_REMEMBERED_MAX = 5_000
#: Longer ones are wrong without looking.
PASSWORD_MAX_BYTES = 1024


class TooBusyError(Exception):
    """Too many logins wait to be checked."""


class Passwords:
    """Checks passwords against hashes.

    A good one is remembered for a while, as an HMAC with a key that exists in this process only and together with its
    hash, so that it is forgotten when the password is rotated.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="mail-login")
        self._waiting = 0
        self._key = secrets.token_bytes(32)
        self._good: OrderedDict[bytes, float] = OrderedDict()

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def fits(self, hashes: tuple[str, ...], password: bytes) -> bool:
        """Whether it is the password of one of the hashes; no hashes: nobody's, which takes as long.

        Raises TooBusyError.
        """
        now = time.monotonic()
        if any(self._good.get(self._trace(known, password), 0.0) > now for known in hashes):
            return True
        if self._waiting >= WAITING_MAX:
            raise TooBusyError
        if len(password) > PASSWORD_MAX_BYTES:
            password, hashes = b"", ()
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._threads, _first_fit, hashes or (_nobodys_hash(),), password)
        finally:
            self._waiting -= 1
        if found is None or not hashes:
            return False
        self._good[self._trace(found, password)] = now + REMEMBERED_S
        while len(self._good) > _REMEMBERED_MAX:
            self._good.popitem(last=False)
        return True

    def _trace(self, known: str, password: bytes) -> bytes:
        return hmac.digest(self._key, known.encode() + b"\0" + password, "sha256")


@cache
def _nobodys_hash() -> str:
    return _HASHER.hash(secrets.token_hex(16))


def _first_fit(hashes: tuple[str, ...], password: bytes) -> str | None:
    return next((known for known in hashes if _fits(known, password)), None)


def _fits(known: str, password: bytes) -> bool:
    try:
        return _HASHER.verify(known, password)
    except (VerificationError, InvalidHashError):
        return False
