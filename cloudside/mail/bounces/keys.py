"""The file with the keys of the signed return addresses: the newest first, each verp.KEY_BYTES octets, mode 0600."""

import os
import secrets
from pathlib import Path

from cloudside.errors import ConfigurationError
from cloudside.mail.bounces import verp
from linux.files import write_durably

#: In ``mail/`` of the state directory.
FILE_NAME = "verp.key"


def load(path: Path) -> tuple[bytes, ...]:
    """The keys, the one that signs first; made at the first start. Raises ConfigurationError: unreadable, malformed."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_durably(path, secrets.token_bytes(verp.KEY_BYTES), mode=0o600)
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigurationError("mail.key-unreadable", path=str(path), reason=error.strerror or "") from error
    if not raw or len(raw) % verp.KEY_BYTES or len(raw) > verp.KEYS_MAX * verp.KEY_BYTES:
        raise ConfigurationError("mail.key-malformed", path=str(path), found=len(raw), wanted=verp.KEY_BYTES)
    return tuple(raw[start : start + verp.KEY_BYTES] for start in range(0, len(raw), verp.KEY_BYTES))


def rotate(path: Path) -> int:
    """Put a new key before the others; the oldest goes when there are too many. How many there are then.

    The file stays its owner's, who is the relay's user, while root rotates. A running relay takes the key up when it is
    started again. Raises ConfigurationError.
    """
    keys = (secrets.token_bytes(verp.KEY_BYTES), *load(path))[: verp.KEYS_MAX]
    try:
        owner = path.stat()
        write_durably(path, b"".join(keys), mode=0o600)
        os.chown(path, owner.st_uid, owner.st_gid)
    except OSError as error:
        raise ConfigurationError("mail.key-unreadable", path=str(path), reason=error.strerror or "") from error
    return len(keys)
