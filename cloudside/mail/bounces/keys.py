"""The file with the keys of the signed return addresses: the newest first, each verp.KEY_BYTES octets, mode 0600."""

import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import structlog

from cloudside.errors import ConfigurationError
from cloudside.mail import keyfile
from cloudside.mail.bounces import verp
from linux.files import write_durably

log = structlog.get_logger(__name__)

#: In ``mail/`` of the state directory.
FILE_NAME = "verp.key"
#: A running relay looks so often, in seconds, whether the file is another one.
LOOK_S = 2.0


class Keys(Sequence[bytes]):
    """The keys as they stand in the file, the one that signs first. A file that became unusable changes nothing."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigurationError, see ``load``."""
        self._path = path
        self._keys = load(path)
        self._seen = self._mark()
        self._look_at = time.monotonic() + LOOK_S

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[bytes, ...]: ...
    def __getitem__(self, index: int | slice) -> bytes | tuple[bytes, ...]:
        self._look()
        return self._keys[index]

    def __len__(self) -> int:
        self._look()
        return len(self._keys)

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        mark = self._mark()
        if mark is None or mark == self._seen:
            return
        self._seen = mark
        try:
            self._keys = load(self._path)
        except ConfigurationError as error:
            log.error("return-keys-unusable", path=str(self._path), reason=error.key)
        else:
            log.info("return-keys-changed", keys=len(self._keys))

    def _mark(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


def load(path: Path) -> tuple[bytes, ...]:
    """The keys, the one that signs first; made at the first start. Raises ConfigurationError: unreadable, malformed."""
    try:
        if not path.exists():
            keyfile.make(path, secrets.token_bytes(verp.KEY_BYTES))
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigurationError("mail.key-unreadable", path=str(path), reason=error.strerror or "") from error
    if not raw or len(raw) % verp.KEY_BYTES or len(raw) > verp.KEYS_MAX * verp.KEY_BYTES:
        raise ConfigurationError("mail.key-malformed", path=str(path), found=len(raw), wanted=verp.KEY_BYTES)
    return tuple(raw[start : start + verp.KEY_BYTES] for start in range(0, len(raw), verp.KEY_BYTES))


def rotate(path: Path) -> int:
    """Put a new key before the others; the oldest goes when there are too many. How many there are then.

    The file stays its owner's, who is the relay's user, while root rotates. A running relay takes the key up within
    LOOK_S. Raises ConfigurationError.
    """
    keys = (secrets.token_bytes(verp.KEY_BYTES), *load(path))[: verp.KEYS_MAX]
    try:
        owner = path.stat()
        write_durably(path, b"".join(keys), mode=0o600)
        os.chown(path, owner.st_uid, owner.st_gid)
    except OSError as error:
        raise ConfigurationError("mail.key-unreadable", path=str(path), reason=error.strerror or "") from error
    return len(keys)
