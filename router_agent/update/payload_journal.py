"""What of a payload is on the disk and was checked: one file of its size, and a journal that says which chunks count.

A chunk is written and flushed first, its record after it: a record that is there means that the chunk is, whatever cut
the power when. A record holds the chunk's own hash, so one of another payload, a torn one, or one that a disk made up
says nothing. Nothing depends on who sent the bytes, over which line, or when: what is missing is what is not recorded.
"""

import contextlib
import errno
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from firmware import chunks
from firmware.release import File
from linux.files import flush_directory
from router_agent.errors import StateError

#: Number of the chunk, its SHA-256, CRC-32 of both.
_RECORD = struct.Struct(">I32sI")
_SUFFIX = ".journal"


class Disk(Protocol):
    """The few things that are done to files in one directory. All raise OSError."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None: there is none."""
        ...

    def make(self, name: str, size: int) -> None:
        """A file of so many bytes whose space is set aside; it and its name are on the disk."""
        ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Bytes of a file, fewer at its end."""
        ...

    def write(self, name: str, offset: int, content: bytes) -> None:
        """Write; a power cut may lose it or a part of it until `flush`."""
        ...

    def flush(self, name: str) -> None:
        """All that was written to the file is on the disk after this."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...


class Payload:
    """One payload in a directory of payloads. Every method raises StateError: the disk is full or read-only."""

    def __init__(self, disk: Disk, file: File) -> None:
        self._disk = disk
        self.file = file
        self._journal = file.name + _SUFFIX
        self._have: set[int] = set()
        with _told(file.name):
            self._end = self._load()

    @property
    def have(self) -> frozenset[int]:
        """The chunks that are on the disk."""
        return frozenset(self._have)

    @property
    def have_bytes(self) -> int:
        """How many bytes they are."""
        return self.file.size - chunks.missing_bytes(self.file, self._have)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return len(self._have) == len(self.file.chunks)

    def missing(self) -> tuple[int, ...]:
        """What has to be fetched, in order."""
        return chunks.missing(self.file, self._have)

    def reserve(self) -> None:
        """Set the space aside, so that a disk that fills up is known before bytes were paid for."""
        with _told(self.file.name):
            if self._disk.size(self.file.name) != self.file.size:
                self._clear()
                try:
                    self._disk.make(self.file.name, self.file.size)
                    self._disk.make(self._journal, 0)
                except OSError:
                    self._clear()
                    raise
            elif self._disk.size(self._journal) is None:
                self._disk.make(self._journal, 0)

    def keep(self, index: int, content: bytes) -> bool:
        """Put a chunk on the disk, if it is the right one; `reserve` came before. Nothing is written if it is not."""
        if not chunks.is_right(self.file, index, content):
            return False
        if index not in self._have:
            with _told(self.file.name):
                self._disk.write(self.file.name, chunks.span(self.file, index)[0], content)
                self._disk.flush(self.file.name)
                self._record(index)
            self._have.add(index)
        return True

    def recheck(self) -> tuple[int, ...]:
        """Read everything again; the chunks that are no longer what they were, which now count as missing.

        Disks forget. Whoever finds the whole wrong asks here what to fetch again.
        """
        with _told(self.file.name):
            good = []
            for index in sorted(self._have):
                start, end = chunks.span(self.file, index)
                if chunks.is_right(self.file, index, self._disk.read(self.file.name, start, end - start)):
                    good.append(index)
            bad = tuple(sorted(self._have.difference(good)))
            if bad:
                self._disk.remove(self._journal)
                self._disk.make(self._journal, 0)
                self._have, self._end = set(), 0
                for index in good:
                    self._record(index)
                    self._have.add(index)
        return bad

    def clear(self) -> None:
        """Remove it."""
        with _told(self.file.name):
            self._clear()

    def _clear(self) -> None:
        # The journal first: it must never speak of a file that is not there.
        self._disk.remove(self._journal)
        self._disk.remove(self.file.name)
        self._have, self._end = set(), 0

    def _load(self) -> int:
        """What the journal says; where the next record goes."""
        size = self._disk.size(self._journal)
        if size is None or self._disk.size(self.file.name) != self.file.size:
            return 0
        text = self._disk.read(self._journal, 0, size)
        for offset in range(0, len(text) - _RECORD.size + 1, _RECORD.size):
            index, digest, check = _RECORD.unpack_from(text, offset)
            good = check == _check(index, digest) and index < len(self.file.chunks)
            if good and digest.hex() == self.file.chunks[index]:
                self._have.add(index)
        return -(-size // _RECORD.size) * _RECORD.size

    def _record(self, index: int) -> None:
        digest = bytes.fromhex(self.file.chunks[index])
        self._disk.write(self._journal, self._end, _RECORD.pack(index, digest, _check(index, digest)))
        self._disk.flush(self._journal)
        self._end += _RECORD.size


class Folder:
    """A real directory, which is made if need be."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def size(self, name: str) -> int | None:
        try:
            return (self.directory / name).stat().st_size
        except FileNotFoundError:
            return None

    def make(self, name: str, size: int) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            if size:
                os.posix_fallocate(descriptor, 0, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        flush_directory(self.directory)

    def read(self, name: str, offset: int, length: int) -> bytes:
        with (self.directory / name).open("rb") as stream:
            stream.seek(offset)
            return stream.read(length)

    def write(self, name: str, offset: int, content: bytes) -> None:
        descriptor = os.open(self.directory / name, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            view = memoryview(content)
            while view:
                written = os.pwrite(descriptor, view, offset)
                view, offset = view[written:], offset + written
        finally:
            os.close(descriptor)

    def flush(self, name: str) -> None:
        # What was written through a descriptor that is closed is flushed as well: fdatasync is about the file.
        descriptor = os.open(self.directory / name, os.O_WRONLY)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        (self.directory / name).unlink(missing_ok=True)
        if self.directory.is_dir():
            flush_directory(self.directory)


def tidy(directory: Path, *, keep: File | None = None) -> None:
    """Remove every payload but one from the directory. Raises StateError."""
    kept = () if keep is None else (keep.name, keep.name + _SUFFIX)
    with _told(str(directory)):
        if directory.is_dir():
            for path in sorted(directory.iterdir(), reverse=True):  # journals before what they speak of
                if path.name not in kept and not path.is_dir():
                    path.unlink(missing_ok=True)


def _check(index: int, digest: bytes) -> int:
    return zlib.crc32(index.to_bytes(4, "big") + digest)


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """An OSError is told as a StateError about this file."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StateError("agent.update-no-space", path=name) from error
        reason = error.strerror or type(error).__name__
        raise StateError("agent.state-unwritable", path=name, reason=reason) from error
