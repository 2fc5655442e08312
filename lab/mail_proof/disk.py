"""A disk as a power cut leaves it: what was flushed is there; of what came after, any part may be missing.

A write is taken apart into blocks of 4 KiB, the file system's; each unflushed one is there or not by itself. Missing
ones stand for reordering too: the disk may write in any order until it is told to flush. Of several writes to one
block the last that is there counts, so that an older one may win.
"""

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lab.mail_proof.write_log import Flag, Request

BLOCK_BYTES = 4096
_EMPTY = bytes(BLOCK_BYTES)


class Disk:
    """Contents of a disk, by block; what was never written is zero."""

    def __init__(self, blocks: dict[int, bytes] | None = None) -> None:
        self._blocks = dict(blocks or {})

    @classmethod
    def of(cls, path: Path) -> "Disk":
        """Read a (sparse) image."""
        blocks = {}
        with path.open("rb") as file:
            for offset in _used(file.fileno(), path.stat().st_size):
                data = os.pread(file.fileno(), BLOCK_BYTES, offset).ljust(BLOCK_BYTES, b"\0")
                if data != _EMPTY:
                    blocks[offset // BLOCK_BYTES] = data
        return cls(blocks)

    def copy(self) -> "Disk":
        """Another one with the same contents."""
        return Disk(self._blocks)

    def write(self, offset: int, data: bytes) -> None:
        """Both in whole sectors."""
        while data:
            block, start = divmod(offset, BLOCK_BYTES)
            piece = data[: BLOCK_BYTES - start]
            if len(piece) == BLOCK_BYTES:
                self._blocks[block] = piece
            else:
                old = self._blocks.get(block, _EMPTY)
                self._blocks[block] = old[:start] + piece + old[start + len(piece) :]
            offset += len(piece)
            data = data[len(piece) :]

    def save(self, path: Path, first: int, size: int) -> None:
        """Write the part of it from byte ``first`` on, a partition say, as a sparse image."""
        with path.open("wb") as file:
            file.truncate(size)
            for block in sorted(self._blocks):
                offset = block * BLOCK_BYTES - first
                if 0 <= offset < size and self._blocks[block] != _EMPTY:
                    os.pwrite(file.fileno(), self._blocks[block], offset)


def apply(disk: Disk, requests: Iterable[Request]) -> None:
    """All of these happened."""
    for request in requests:
        disk.write(request.offset, _data(request))


def apply_some(disk: Disk, requests: Sequence[Request], dice: random.Random, share: float) -> None:
    """Of these, each block is there with this probability; forced ones (FUA) are."""
    for request in requests:
        data = _data(request)
        for start, piece in _pieces(request.offset, data):
            if Flag.FUA in request.flags or dice.random() < share:
                disk.write(start, piece)


def _data(request: Request) -> bytes:
    return bytes(request.size) if Flag.DISCARD in request.flags else request.data


def _pieces(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        size = BLOCK_BYTES - offset % BLOCK_BYTES
        yield offset, data[:size]
        offset += size
        data = data[size:]


def _used(fd: int, size: int) -> Iterator[int]:
    """Offsets of blocks that are not holes."""
    place = 0
    while place < size:
        try:
            place = os.lseek(fd, place, os.SEEK_DATA)
        except OSError:  # nothing but a hole until the end
            return
        end = os.lseek(fd, place, os.SEEK_HOLE)
        yield from range(place // BLOCK_BYTES * BLOCK_BYTES, end, BLOCK_BYTES)
        place = end
