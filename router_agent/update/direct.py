"""Reading and writing a partition past the page cache: what comes back is what the disk has.

A block that was written a moment ago would otherwise be read back from memory, and would prove nothing.
"""

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Direct transfers begin and end at multiples of this, whatever sectors the disk has.
BLOCK_BYTES = 4096
_PIECE_BYTES = 1 << 20


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """A descriptor that transfers directly; on a file system that cannot (tmpfs), in the usual way. Raises OSError."""
    flags |= os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read(descriptor: int, offset: int, size: int = BLOCK_BYTES) -> bytes:
    """``size`` bytes, both in whole blocks; fewer at the partition's end. Raises OSError."""
    with mmap.mmap(-1, size) as buffer:
        done = os.preadv(descriptor, [buffer], offset)
        return buffer[:done]


def write(descriptor: int, offset: int, data: bytes) -> None:
    """Whole blocks, on the disk when this returns. Raises OSError."""
    with mmap.mmap(-1, len(data)) as buffer:
        buffer[:] = data
        if os.pwritev(descriptor, [buffer], offset) != len(data):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
    os.fsync(descriptor)


def pieces(descriptor: int, start: int, size: int) -> Iterator[memoryview]:
    """A range in pieces of whole blocks, each valid until the next is asked for. Raises OSError: it ends before."""
    # Freed with the last view of it, which whoever is handed a piece may still hold.
    view = memoryview(mmap.mmap(-1, _PIECE_BYTES))
    end = start + size
    while start < end:
        piece = view[: min(_PIECE_BYTES, end - start)]
        if os.preadv(descriptor, [piece], start) != len(piece):
            raise OSError(errno.EIO, f"nothing at {start}")
        yield piece
        start += len(piece)
