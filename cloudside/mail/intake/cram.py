"""Passwords that must stay readable, for devices that can do nothing but CRAM-MD5 (RFC 2195).

CRAM-MD5 proves that both sides know the password, so the relay has to know it. It stands in the registry encrypted
(Fernet: AES-128-CBC with HMAC-SHA256) with a key in a file beside the relay's other keys: a copy of the registry alone
gives nobody a password. Several relays of one registry need the same file.
"""

import hmac
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from cloudside.errors import ConfigurationError
from cloudside.mail import keyfile

FILE_NAME = "cram.key"


class Seal:
    """Encrypts and decrypts passwords with one key."""

    def __init__(self, key: bytes) -> None:
        """Raises ValueError: not a Fernet key."""
        self._fernet = Fernet(key)

    def encrypt(self, password: str) -> str:
        """For the registry's ``cram_secret``."""
        return self._fernet.encrypt(password.encode()).decode("ascii")

    def decrypt(self, secret: str) -> bytes | None:
        """The password; None: damaged, or of another key."""
        try:
            return self._fernet.decrypt(secret.encode("utf-8", errors="replace"))
        except InvalidToken:
            return None


def seal(path: Path) -> Seal:
    """The seal whose key is in the file at ``path``; made when there is none.

    Raises ConfigurationError: the file cannot be read or made, or holds no key.
    """
    try:
        if not path.exists():
            keyfile.make(path, Fernet.generate_key())
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigurationError("mail.cram-key-unreadable", path=str(path), reason=error.strerror or "") from error
    try:
        return Seal(key)
    except ValueError:
        raise ConfigurationError("mail.cram-key-malformed", path=str(path)) from None


def digest(password: bytes, challenge: bytes) -> str:
    """The keyed MD5 of RFC 2195 in lower-case hexadecimal digits."""
    return hmac.new(password, challenge, "md5").hexdigest()
