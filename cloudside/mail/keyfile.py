"""A key of the relay in a file of its own, in ``mail/`` of the state directory. It is the relay's, whoever made it."""

import os
from pathlib import Path

from linux.files import write_durably


def make(path: Path, key: bytes) -> None:
    """Write a new key. Made by root (`kyoten smtp`, `kyoten mail`), file and directory become those of whoever has the
    state directory, or the relay could not read its own key. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_durably(path, key, mode=0o600)
    if os.geteuid() == 0:
        owner = path.parent.parent.stat()
        for place in (path.parent, path):
            os.chown(place, owner.st_uid, owner.st_gid)
