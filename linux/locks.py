"""One process at a time: a lock that ends with its process, however that ends."""

import fcntl
from pathlib import Path
from typing import TextIO


def take(path: Path) -> TextIO | None:
    """Hold the lock at ``path`` until what is returned is closed; None: another process has it.

    Raises OSError: the file cannot be made.
    """
    lock = path.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock
