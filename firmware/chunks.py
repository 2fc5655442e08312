"""What travels, in pieces that are vouched for one by one: made, checked, and which of them are still missing.

A `File` of a release lists the SHA-256 of each ``chunk_bytes`` of it; the last chunk may be shorter. Whoever fetches
asks for any run of bytes, from any server, over any line, and knows chunk by chunk what it may keep.
"""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from firmware.release import CHUNK_BYTES, File


@dataclass(frozen=True, slots=True)
class Run:
    """Chunks that follow one another: ``first`` up to and without ``end``."""

    first: int
    end: int


def describe(path: Path, *, suffix: str = "", chunk_bytes: int = CHUNK_BYTES) -> File:
    """The file at ``path`` as it travels; its name is its content's hash and ``suffix`` (such as ``.zst``)."""
    whole = hashlib.sha256()
    chunks: list[str] = []
    size = 0
    with path.open("rb") as stream:
        while piece := stream.read(chunk_bytes):
            whole.update(piece)
            chunks.append(hashlib.sha256(piece).hexdigest())
            size += len(piece)
    digest = whole.hexdigest()
    return File(f"{digest}{suffix}", size, digest, chunk_bytes, tuple(chunks))


def span(file: File, index: int) -> tuple[int, int]:
    """Where a chunk lies: its first byte, and the first one after it. Raises IndexError: there is no such chunk."""
    if not 0 <= index < len(file.chunks):
        raise IndexError(index)
    start = index * file.chunk_bytes
    return start, min(start + file.chunk_bytes, file.size)


def is_right(file: File, index: int, content: bytes | bytearray | memoryview) -> bool:
    """Whether ``content`` is that chunk, whole."""
    start, end = span(file, index)
    return len(content) == end - start and hashlib.sha256(content).hexdigest() == file.chunks[index]


def missing(file: File, have: Collection[int]) -> tuple[int, ...]:
    """The chunks that are not in ``have``, in order."""
    return tuple(index for index in range(len(file.chunks)) if index not in have)


def missing_bytes(file: File, have: Collection[int]) -> int:
    """How many bytes are still to be fetched."""
    return sum(end - start for start, end in (span(file, index) for index in missing(file, have)))


def runs(indexes: Collection[int], *, most: int) -> Iterator[Run]:
    """The chunks in runs of at most ``most`` that follow one another, in order."""
    first: int | None = None
    end = 0
    for index in sorted(set(indexes)):
        if first is not None and index == end and end - first < most:
            end += 1
            continue
        if first is not None:
            yield Run(first, end)
        first, end = index, index + 1
    if first is not None:
        yield Run(first, end)
