"""A disk as a power cut leaves it: what was flushed is there; of what came after, any part may be missing.

A write is taken apart into blocks of 4 KiB, the file system's; each unflushed one is there or not by itself. Missing
ones stand for reordering too: the disk may write in any order until it is told to flush. Of several writes to one
block the last that is there counts, so that an older one may win.

The disk is a sparse file that goes forward along the log. What one cut puts on top is taken off again, so that a
thousand cuts cost what they differ by.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from lab.power_cut.write_log import Flag, Request, WriteLog

BLOCK_BYTES = 4096
_COPY_BYTES = 1 << 24


class Disk:
    """An image in a file; what was never written is zero. Changes the file. ``size`` in bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.size = os.fstat(self._fd).st_size
        self._changed: set[int] = set()

    @classmethod
    def copy_of(cls, image: Path, path: Path) -> "Disk":
        """One of its own with the same contents; holes stay holes."""
        copy_part(image, path, 0, image.stat().st_size)
        return cls(path)

    def __enter__(self) -> "Disk":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The file stays."""
        os.close(self._fd)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of it, fewer at its end."""
        return os.pread(self._fd, size, offset)

    def write(self, offset: int, data: bytes) -> None:
        """Behind everybody's back: no log says so."""
        os.pwrite(self._fd, data, offset)
        self._changed.update(range(offset // BLOCK_BYTES, (offset + len(data) - 1) // BLOCK_BYTES + 1))

    def take_changed(self) -> set[int]:
        """Blocks that may not be what they were when this was asked last."""
        changed, self._changed = self._changed, set()
        return changed

    def apply(self, log: WriteLog, first: int, last: int) -> None:
        """The requests from ``first`` up to ``last`` all happened."""
        for request in log.requests[first:last]:
            if request.size:
                self.write(request.offset, log.data(request))

    @contextmanager
    def cut(self, log: WriteLog, first: int, last: int, dice: random.Random, share: float) -> Iterator[int]:
        """For a while, of these requests each block is there with this probability; forced ones (FUA) are.

        How many blocks are there.
        """
        before: dict[int, bytes] = {}
        try:
            count = 0
            for request in log.requests[first:last]:
                forced = Flag.FUA in request.flags
                for at, size in _pieces(request):
                    if forced or dice.random() < share:
                        offset = request.offset + at
                        block = offset - offset % BLOCK_BYTES
                        if block not in before:
                            before[block] = self.read(block, BLOCK_BYTES)
                        self.write(offset, log.head(request, at, size))
                        count += 1
            yield count
        finally:
            for block, data in before.items():
                self.write(block, data)

    def save(self, path: Path, first: int, size: int) -> None:
        """Write the part of it from byte ``first`` on, a partition say, as a sparse image."""
        copy_part(self.path, path, first, size)


def copy_part(image: Path, path: Path, first: int, size: int) -> None:
    """Copy so many bytes from byte ``first`` of an image on into a file of their own; holes stay holes."""
    with image.open("rb") as source, path.open("wb") as target:
        target.truncate(size)
        for offset, length in _used(source.fileno(), first, min(first + size, image.stat().st_size)):
            os.lseek(target.fileno(), offset - first, os.SEEK_SET)
            while length:
                copied = os.sendfile(target.fileno(), source.fileno(), offset, min(length, _COPY_BYTES))
                if not copied:
                    raise OSError(f"{image} ends at {offset}")
                offset, length = offset + copied, length - copied


def _pieces(request: Request) -> Iterator[tuple[int, int]]:
    """Its bytes by block: from which one on, and how many."""
    at = 0
    while at < request.size:
        size = min(BLOCK_BYTES - (request.offset + at) % BLOCK_BYTES, request.size - at)
        yield at, size
        at += size


def _used(fd: int, first: int, end: int) -> Iterator[tuple[int, int]]:
    """Offset and length of what is not a hole, between these bytes."""
    place = first
    while place < end:
        try:
            place = os.lseek(fd, place, os.SEEK_DATA)
        except OSError:  # nothing but a hole until the end
            return
        if place >= end:
            return
        stop = min(os.lseek(fd, place, os.SEEK_HOLE), end)
        yield place, stop - place
        place = stop
