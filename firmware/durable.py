"""Files that survive a power cut, and one process at a time. The same promises as `linux.files`, which a package that
imports nothing of ours cannot use.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` whole or not at all, even if the power fails. ``mode`` holds from the first byte."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        os.fchmod(descriptor, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_directory(path.parent)


def make_directory(path: Path, *, mode: int = 0o755) -> None:
    """A directory and all above it, each flushed into the one that it is in."""
    if path.is_dir():
        return
    make_directory(path.parent, mode=mode)
    path.mkdir(mode=mode, exist_ok=True)
    flush_directory(path.parent)


def flush_tree(top: Path) -> None:
    """Everything below ``top`` onto the disk: the files, then the directories that name them."""
    for directory, _, names in os.walk(top, topdown=False):
        for name in names:
            path = Path(directory, name)
            if not path.is_symlink():
                flush_file(path)
        flush_directory(Path(directory))


def flush_file(path: Path) -> None:
    """The content of a file onto the disk."""
    _flush(path, os.O_RDONLY)


def flush_directory(path: Path) -> None:
    """The names in a directory onto the disk."""
    _flush(path, os.O_RDONLY | os.O_DIRECTORY)


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``. Raises BlockingIOError: another process holds it. A process that dies lets go."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
