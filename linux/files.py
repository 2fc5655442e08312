"""Files that survive a power cut: written beside, flushed, renamed, and the directory flushed too."""

import os
from pathlib import Path


def write_durably(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace ``path`` whole or not at all, even if the power fails at any moment.

    The directory is flushed as well: without that the rename itself can be lost. ``mode`` holds from the first byte
    on, so a secret is never readable for a moment.
    """
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


def rename_durably(source: Path, target: Path) -> None:
    """Put a file that was written durably in the place of ``target``, in the same directory."""
    source.rename(target)
    flush_directory(target.parent)


def flush_directory(place: Path) -> None:
    """Have what a directory names on the disk. Raises OSError."""
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
